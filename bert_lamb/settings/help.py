"""The page that `--help` prints of each stage: what it does, reads and writes, examples, the settings that decide.

Every stage stands here once, in the order of the chain: `bert-lamb` takes its names and modules from this table.
"""

from dataclasses import dataclass

from bert_lamb.settings.compose import conf_dir
from bert_lamb.settings.messages import GROUP_FOLDERS, GROUPS_WITH_FILES


@dataclass(frozen=True)
class Stage:
    """A command of the chain."""

    module: str
    does: str  # one clause, after the stage's name
    reads: str
    writes: str
    examples: tuple[tuple[str, str], ...]  # settings of a command, and what it is for
    decides: tuple[str, ...]  # the settings that matter most to this stage


TEXT = "data.paths=[/my/texts]"
LARGE = "experiment=bert_large_64k_32k"
STAGES = {
    "fetch": Stage(
        "data_prep.fetch", "downloads the corpus that data.hub or data.dataset names", "the hub",
        "files below data.root; what is there already is kept, so that the same command goes on after a break",
        (
            ("data=wikipedia", "Wikipedia, as the hub has it"),
            ("data=wikibooks", "Wikipedia and BookCorpus"),
            ("data=wikipedia data.root=/shared/data", "into another folder"),
            ("data=bookcorpus", "BookCorpus alone"),
            ("data=hf data.dataset=wikitext data.subset=wikitext-2-v1", "what the `datasets` library reads"),
        ),
        ("data.hub", "data.dataset", "data.subset", "data.split", "data.root"),
    ),
    "prepare": Stage(
        "data_prep.prepare", "turns raw text into a token store",
        "the text that data.source and data.paths name, or the embedded corpus", "the store <data.root>/<data.name>",
        (
            ("", "the embedded corpus"),
            (f"data=text {TEXT} data.name=mine", "your own files: .txt, .jsonl, .parquet"),
            ("data=wikipedia_dump data.paths=[/dumps/pl.xml.bz2] data.language=pl", "a dump of Wikipedia"),
            (f"data=text {TEXT} data.vocab=/my/vocab.txt data.vocab_size=0", "with a given vocabulary"),
            (f"data=text {TEXT} 'data.seq_lens=[64,128]' data.processes=4", "other lengths, four processes"),
        ),
        ("data.source", "data.paths", "data.name", "data.vocab", "data.seq_lens", "data.lower_case", "data.passes"),
    ),
    "inspect": Stage(
        "data_prep.inspect", "shows a prepared sequence, its mask, and the batch of a step",
        "the store <data.root>/<data.name>", "nothing",
        (
            ("", "the first sequence of phase 1"),
            ("inspect.phase=2 inspect.sequence=42", "another one"),
            ("inspect.epoch=3", "its mask in a later epoch"),
            ("inspect.step=100", "the batch of a later step"),
            ("inspect.document=0", "a document's way from raw text to a masked sequence"),
        ),
        ("inspect.phase", "inspect.epoch", "inspect.sequence", "inspect.step", "inspect.document", "seed"),
    ),
    "report-data": Stage(
        "bert_lamb.report_data", "writes figures of a prepared store", "the store <data.root>/<data.name>",
        "report.md and figures into its report/",
        (
            ("", "the embedded corpus"),
            ("data=wiki_books", "Wikipedia and books"),
            ("data.name=mine", "the store data/mine"),
            ("data.root=/shared/data data.name=mine", "a store elsewhere"),
            ("experiment=wiki_mini", "the store that a recipe reads"),
        ),
        ("data.root", "data.name"),
    ),
    "plan": Stage(
        "bert_lamb.plan", "prints steps, tokens, FLOPs and hours of a recipe, and the source of each setting",
        "the manifest of the store, if there is one; it times a few random batches", "nothing",
        (
            ("", "the recipe that runs by default"),
            (LARGE, "the paper's fastest run of BERT-Large"),
            ("experiment=bert_large_table1 phase1.global_batch=512", "another row of the paper's Table 1"),
            (f"{LARGE} hardware=h200", "on one GPU instead of eight"),
            ("phase1.steps=300 phase1.warmup_steps=30 optimizer=adamw", "a change, before it is paid for"),
        ),
        ("experiment", "phase1.global_batch", "phase1.steps", "phase1.peak_lr", "hardware.devices"),
    ),
    "rehearse": Stage(
        "bert_lamb.rehearse", "runs a recipe's whole chain, made small, in about a minute", "the embedded corpus",
        "a store and a run folder named after the rehearsal, never those of the real run",
        (
            ("", "the recipe that runs by default"),
            (LARGE, "a large recipe, before it is started"),
            (f"{LARGE} hardware.devices=2", "with two processes"),
            ("optimizer=lans", "another optimizer"),
            ("experiment=wiki_mini run.root=/tmp/runs data.root=/tmp/data", "away from real data"),
        ),
        ("experiment", "optimizer.preset", "handover.schedule", "hardware.devices", "run.root"),
    ),
    "pretrain": Stage(
        "bert_lamb.pretrain", "trains both phases on a token store",
        "the store <data.root>/<data.name>; if it was stopped, the last checkpoint of its own run folder",
        "the run folder <run.root>/<experiment>-<recipe hash>: metrics, checkpoints, result.json of each phase",
        (
            ("", "the sample recipe: about ten minutes on two cores"),
            ("phase1.peak_lr=0.008 seed=1", "another learning rate and seed, in a run folder of their own"),
            (f"{LARGE} hardware=h200x8", "the paper's fastest run on eight GPUs"),
            ("hardware.devices=2 run.name=two", "two processes, a named run folder"),
            ("run.from_checkpoint=runs/a/phase1/checkpoints/step-000500", "from another run's checkpoint"),
        ),
        ("experiment", "seed", "phase1.global_batch", "phase1.steps", "phase1.peak_lr", "hardware.devices",
         "hardware.micro_batch_tokens", "run.name"),
    ),
    "finetune": Stage(
        "bert_lamb.finetune", "fine-tunes a pretrained run on SQuAD and computes F1",
        "the run folder, finetune.train_file and finetune.dev_file", "squad/<arm>-<hash>-seed<seed>/ of the run folder",
        (
            ("", "the sample recipe's own questions"),
            (f"{LARGE} finetune.train_file=/squad/train.json finetune.dev_file=/squad/dev.json", "SQuAD v1.1"),
            ("'finetune.arms=[pretrained,scratch]'", "beside random weights"),
            ("finetune.lr=3e-4 finetune.epochs=2", "another learning rate and length"),
            ("finetune.max_train_questions=1000", "fewer questions"),
        ),
        ("finetune.train_file", "finetune.dev_file", "finetune.arms", "finetune.lr", "finetune.epochs", "run.name"),
    ),
    "evaluate": Stage(
        "bert_lamb.evaluate", "scores a run's predictions again", "the fine-tuned arms of the run folder",
        "nothing; answers to another finetune.dev_file are kept beside the arm",
        (
            ("", "the sample recipe's run"),
            ("seed=1", "the run of another seed"),
            ("run.name=two", "a named run"),
            ("finetune.dev_file=/squad/dev-v1.1.json", "other questions, answered by the saved weights"),
            (f"{LARGE} finetune.dev_file=/squad/dev-v1.1.json", "the run of a recipe"),
        ),
        ("finetune.dev_file", "experiment", "seed", "run.name", "run.root"),
    ),
    "report": Stage(
        "bert_lamb.report", "writes tables and figures of a run", "the run folder; or any run folders, named as paths",
        "report.md and figures into its report/",
        (
            ("", "the sample recipe's run"),
            ("seed=1", "the run of another seed"),
            ("run.name=two", "a named run"),
            (LARGE, "the run of a recipe"),
            ("run.root=/shared/runs run.name=two", "a run elsewhere"),
        ),
        ("experiment", "seed", "run.name", "run.root"),
    ),
    "verify": Stage(
        "bert_lamb.verify", "checks the hashes of a token store and a run",
        "the store and the run folder; or any run folders, named as paths", "nothing",
        (
            ("", "the sample recipe's store and run"),
            ("seed=1", "the run of another seed"),
            ("run.name=two", "a named run"),
            (LARGE, "the run of a recipe"),
            ("data.root=/shared/data run.root=/shared/runs", "folders elsewhere"),
        ),
        ("data.root", "data.name", "experiment", "run.name", "run.root"),
    ),
    "sweep": Stage(
        "bert_lamb.sweep", "runs the chain for each combination of settings", "what prepare reads",
        "a run folder for each combination, and the table runs/sweeps/<hash>/summary.md",
        (
            ("optimizer=lamb,adamw seed=0,1", "four runs"),
            ("phase1.peak_lr=0.005,0.01,0.02", "three learning rates"),
            ("model=tiny,mini", "two models"),
            ("'seed=range(5)'", "five seeds"),
            ("seed=0,1 hydra/launcher=submitit_slurm", "on a Slurm cluster"),
        ),
        ("experiment", "seed", "optimizer.preset", "phase1.peak_lr", "run.root"),
    ),
}  # fmt: skip
HOW = """settings are written as key=value; a file of a group is chosen by its name, as in model=large.
More: --cfg job prints every setting, --config-dir=FOLDER adds a folder with files of your own (docs/training.md),
--hydra-help shows Hydra's options."""


def stage_help(module: str) -> str:
    """The page of the stage that this module is; of any other command only how settings are written."""
    found = [(name, stage) for name, stage in STAGES.items() if stage.module == module]
    if not found:
        return "\n".join([f"usage: python -m {module} [key=value ...]", "", *_groups(), "", HOW])
    ((name, stage),) = found
    pages = [(f"bert-lamb {name} {settings}".rstrip(), purpose) for settings, purpose in stage.examples]
    return "\n".join([
        f"usage: bert-lamb {name} [key=value ...]    or: python -m {module} [key=value ...]",
        "", f"{name} {stage.does}.", "", f"reads:   {stage.reads}", f"writes:  {stage.writes}",
        "", "examples:", *(f"  # {purpose}\n  {line}" for line, purpose in pages),
        "", f"the settings that decide: {', '.join(stage.decides)}", "", *_groups(), "", HOW,
    ])  # fmt: skip


def _groups() -> list[str]:
    """Each group that is chosen from files, with these."""
    lines = ["groups and their files:"]
    for group in ("experiment", *GROUPS_WITH_FILES):
        folder = "phase" if group in GROUP_FOLDERS else group
        key = f"phase@{group}" if group in GROUP_FOLDERS else group
        files = sorted(p.stem for p in (conf_dir() / folder).glob("[!_]*.yaml"))
        lines.append(f"  {key:14} {', '.join(files)}")
    return lines
