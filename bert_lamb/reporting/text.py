"""The report's words and tables, as Markdown, from a run's record alone."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bert_lamb.optim import preset_values
from bert_lamb.reporting.read_run import PhaseRecord, RunRecord, plain
from bert_lamb.run import Part, differences
from bert_lamb.settings import leaves, recipe_rows, without_effect
from bert_lamb.words import counted, duration, rate_words

PAPER = {  # arXiv 1904.00962, Table 1, BERT-Large, LAMB: batches of both phases -> steps, SQuAD v1.1 dev F1
    (512, 512): (1_000_000, 91.752),
    (1024, 1024): (500_000, 91.761),
    (2048, 2048): (250_000, 91.946),
    (4096, 4096): (125_000, 91.137),
    (8192, 8192): (62_500, 91.263),
    (16_384, 16_384): (31_250, 91.345),
    (32_768, 32_768): (15_625, 91.475),
    (65_536, 32_768): (8599, 90.584),
}
DEV_QUESTIONS = 10_570  # of SQuAD v1.1's development set


def verdict(run: RunRecord) -> str:
    """Both F1s in a few words."""
    pretrained, scratch = run.arm("pretrained"), run.arm("scratch")
    named = ((pretrained, "with pretraining"), (scratch, "without"))
    f1s = [f"{arm.result['f1']:.2f} {words}" for arm, words in named if arm]
    some = pretrained or scratch
    if not some:
        return "Not fine-tuned yet"
    mixed = f"; pretrained in {run.precision}" if pretrained and "then" in run.precision else ""
    questions = counted(some.result["questions"], "question")
    return f"F1 {', '.join(f1s)} ({questions} of {questions_of(run)}{mixed})"


def questions_of(run: RunRecord) -> str:
    """Whose questions were answered: an F1 means nothing without them."""
    if run.settings.data.source == "sample":
        return "the embedded corpus"
    official = any(arm.result["questions"] == DEV_QUESTIONS for arm in run.arms)
    return "SQuAD v1.1" if official else Path(run.settings.finetune.dev_file).name


def report_text(run: RunRecord, figures: list[tuple[str, str]]) -> str:
    """The whole report."""
    s = run.settings
    pictures = {stem: f"![{stem}]({stem}.png)\n\n{caption}\n" for stem, caption in figures}
    training = [pictures[stem] for stem in ("loss", "schedule", "trust_ratios", "throughput") if stem in pictures]
    about = f"BERT-{s.model.name}, experiment `{s.experiment}`, seed {s.seed}."
    sections = [
        [f"# {run.name}", "", f"{verdict(run)}. {about}"],
        [f"## Questions of {questions_of(run)}", "", *_scores(run), "", pictures.get("squad", ""), *_paper(run)],
        ["## Pretraining", "", *_phases(run), "", *training],
        ["## What went wrong", "", *_events(run)],
        ["## Machine", "", *_machine(run)],
        ["## Data", "", *_data(run)],
        ["## Recipe", "", *table("setting | value | source", _recipe(run))],
    ]
    return "\n\n".join("\n".join(lines).strip("\n") for lines in sections) + "\n"


def _recipe(run: RunRecord) -> list[tuple[str, str, str]]:
    tree = plain(run.settings)
    preset = str(tree.get("optimizer", {}).get("preset"))
    return recipe_rows(tree, preset_values(preset), without_effect(preset))


def table(header: str, rows: Iterable[Iterable[Any]]) -> list[str]:
    """A Markdown table; the header's cells are parted by " | "."""
    names = header.split(" | ")
    body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *body)]


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _scores(run: RunRecord) -> list[str]:
    if not run.arms:
        return ["Not fine-tuned yet."]
    rows = []
    for arm in run.arms:
        r = arm.result
        scores = [f"{r['questions']:,}", number(r["f1"], 2), number(r["em"], 2)]
        training = [f"{r['train_questions']:,}", len(r["unmatched"]), f"{r['steps']:,}", r["skipped"]]
        rows.append([arm.name, *scores, *training, number(r["loss"], 3), duration(r["seconds"])])
    return table("arm | questions | F1 | EM | trained on | left out | steps | skipped | last loss | time", rows)


def _paper(run: RunRecord) -> list[str]:
    """The paper's row of the same batches, and why it may not be compared."""
    s, arm = run.settings, run.arm("pretrained")
    row = PAPER.get((s.phase1.global_batch, s.phase2.global_batch))
    if row is None:
        return ["No row of the paper's Table 1 has the batches of this run."]
    paper_steps, paper_f1 = row
    steps, model = s.phase1.steps + s.phase2.steps, f"BERT-{s.model.name}"
    batches = f"{s.phase1.global_batch:,} / {s.phase2.global_batch:,}"
    rows = [
        [f"this run, {model}", batches, f"{steps:,}", number(arm.result["f1"] if arm else None, 2)],
        ["the paper, BERT-Large (arXiv 1904.00962, Table 1)", batches, f"{paper_steps:,}", f"{paper_f1:.3f}"],
    ]
    differences = [f"the model is {model}"] if s.model.name != "large" else []
    if steps != paper_steps:
        differences.append(f"the recipe has {counted(steps, 'step')}")
    if arm and arm.result["questions"] != DEV_QUESTIONS:
        differences.append(
            f"it is scored on {counted(arm.result['questions'], 'question')}, not on the dev set's {DEV_QUESTIONS:,}"
        )
    note = "The seed alone changes F1 by about 0.2."
    if differences:
        note = f"The paper's figure is not a target for this run: {'; '.join(differences)}."
    return [*table("run | global batch | steps | F1", rows), "", note]


def _phases(run: RunRecord) -> list[str]:
    work = (
        "phase | state | steps | batch | length | sequences | real tokens | skipped | seconds | sequences/s | TFLOP/s"
    )
    losses = "phase | MLM + NSP | MLM | NSP | MLM accuracy | held-out MLM | held-out accuracy"
    work_rows, loss_rows = [], []
    for n, phase in run.phases.items():
        p, seconds, sequences = run.settings[f"phase{n}"], phase.total("seconds"), phase.total("sequences")
        state = "done" if phase.result else "not finished" if phase.lines else "not started"
        if run.origin and n < run.origin.phase:
            state = "done by the run that this one started from"
        amounts = [f"{sequences:,.0f}", f"{phase.total('tokens'):,.0f}", number(phase.last("skipped"), 0)]
        spent = sum((line.get("tflops") or 0) * (line.get("seconds") or 0) for line in phase.lines)
        sequences_s, tflops = (x / seconds if x and seconds else None for x in (sequences, spent))
        speed = [f"{seconds:,.0f}", number(sequences_s, 0), number(tflops, 3)]
        done = f"{phase.steps:,} of {p.steps:,}"
        work_rows.append([n, state, done, f"{p.global_batch:,}", p.seq_len, *amounts, *speed])
        keys = ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "heldout_mlm_loss", "heldout_mlm_accuracy")
        loss_rows.append([n, *(number(phase.last(key), 3) for key in keys)])
    units = "TFLOP/s are per device and count real tokens."
    tables = [*table(work, work_rows), "", units, "", *table(losses, loss_rows)]
    return [*_origin(run), *tables, *_speed(run.plan, run.phases)]


def _origin(run: RunRecord) -> list[str]:
    """Where the run began, if not at its first step."""
    origin = run.origin
    if origin is None:
        return []
    whose = f"run `{origin.run}`, recipe {origin.recipe}" if origin.run else "an unknown run"
    return [
        f"Started from step {origin.step:,} of phase {origin.phase} of {whose}. SHA-256 of the checkpoint's "
        f"SHA256SUMS: {origin.sha256[:16]}. Earlier steps belong to that run.",
        "",
    ]


def _speed(plan: dict[str, Any], phases: dict[int, PhaseRecord]) -> list[str]:
    """What was planned, and how fast it went."""
    if not plan:
        return []
    seconds = sum(phase.total("seconds") for phase in phases.values())
    done = sum(p["flops"] * phases[n].steps_here / p["steps"] for n, p in enumerate(plan["phases"], 1))
    planned = (
        f"Planned: {plan['flops']:.2e} FLOPs, {duration(plan['hours'] * 3600)} on {counted(plan['devices'], 'device')} "
        f"at {rate_words(plan['phases'])}."
    )
    measured = f" Measured: {done / seconds / plan['devices'] / 1e12:.2g} TFLOP/s each." if seconds else ""
    return ["", planned + measured + " Both count every sequence at its phase's full length."]


def _events(run: RunRecord) -> list[str]:
    """Everything but the first start of each phase."""
    rows, started, before = [], set(), dict[str, Any]()
    for event in run.events:
        details = [f"{k} {v}" for k, v in event.items() if k not in ("time", "event", "how")]
        if isinstance(event.get("how"), dict):
            changes = differences(before, event["how"])
            details += [f"different: {', '.join(changes)}"] if changes else []
            before = event["how"]
        if event["event"] == "start" and event.get("phase") not in started:
            started.add(event.get("phase"))
            continue
        rows.append([event.get("time", "-"), event["event"], ", ".join(details)])
    for n, phase in run.phases.items():
        if phase.lines and not phase.result:
            rows.append(["-", "not finished", f"phase {n}, step {phase.steps}"])
    rows += [["-", "damaged", problem] for problem in run.problems]
    rows += [["-", what, details] for what, details in _disappointments(run)]
    return table("time | what | where", rows) if rows else ["Nothing: no step was skipped and nothing was resumed."]


def _disappointments(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Results that a reader should not miss among the numbers."""
    entropy = run.manifest.get("unigram_entropy_nats")
    for n, phase in run.phases.items():
        loss = phase.last("mlm_loss") if phase.result else None
        if entropy and loss is not None and loss >= entropy:
            yield "learnt only word frequencies", f"phase {n}: MLM {loss:.3f}, unigram entropy {entropy:.3f}"
    pretrained, scratch = run.arm("pretrained"), run.arm("scratch")
    if pretrained and scratch and pretrained.result["f1"] <= scratch.result["f1"]:
        yield (
            "pretraining gained nothing",
            f"F1 {pretrained.result['f1']:.2f} with it, {scratch.result['f1']:.2f} without",
        )


def _machine(run: RunRecord) -> list[str]:
    """A row for each part of pretraining that was computed in another way than the one before, and for each arm."""
    records = [("pretraining", run.machine), *((f"fine-tuning, {arm.name}", arm.machine) for arm in run.arms)]
    if _parts_differ(run.parts):
        records[:1] = [(f"pretraining, phase {p.phase}, steps {p.steps}", _as_machine(p.how)) for p in run.parts]
    rows = []
    for stage, m in records:
        if m:
            how = [
                m.get("precision"),
                "compiled" if m.get("compiled") else "",
                f"threads: {m.get('threads', '?')}",
            ]
            commit = (m.get("commit") or "-")[:10] + (", changed" if m.get("dirty") else "")
            versions = ", ".join(f"{k} {v}" for k, v in m.get("versions", {}).items() if v)
            device = f"{m.get('ranks', 1)} x {m.get('device', '?')}"
            rows.append([stage, m.get("host", "-"), device, ", ".join(filter(None, how)), commit, versions])
    return table("stage | host | devices | how | commit | versions", rows) if rows else ["Not known yet."]


def _parts_differ(found: Sequence[Part]) -> bool:
    return any(differences(one.how, other.how) for one, other in pairwise(found))


def _as_machine(how: dict[str, Any]) -> dict[str, Any]:
    return {**how, "versions": {"torch": how.get("torch")}}


def _data(run: RunRecord) -> list[str]:
    m = run.manifest
    if not m:
        return ["Not known yet."]
    vocabulary = m.get("tokenizer", {})
    rows = [[key, _plain(value)] for key, value in leaves(m.get("counts", {}))]
    rows.append(["vocabulary", f"{vocabulary.get('size', 0):,} entries, SHA-256 {vocabulary.get('sha256', '-')[:16]}"])
    if m.get("unigram_entropy_nats"):
        rows.append(["unigram entropy", f"{m['unigram_entropy_nats']:.3f} nats"])
    rows += [[f"rejected: {reason}", _plain(count)] for reason, count in leaves(m.get("rejects", {}))]
    return [*table("what | value", rows), *(f"\n{note}" for note in m.get("notes", []))]


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
