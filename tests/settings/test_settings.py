"""Bad input gets one clear message with every problem; hardware and run never move the recipe (laws 7 and 8)."""

import copy
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks.pretrain import pretrain_for
from safetensors.torch import load_file
from tools import BF16, ROOT, composed, environment, make_store, prepared, tiny, tiny_overrides

from bert_lamb import pretrain as stage
from bert_lamb.batch import LossSums
from bert_lamb.data.manifest import write_manifest
from bert_lamb.planning.cost import BudgetError, budget, budget_text
from bert_lamb.planning.preflight import preflight_problems
from bert_lamb.run import RunFolder, TrainingStoppedError, list_checkpoints, open_run
from bert_lamb.settings import (
    RECIPE_PARTS,
    Settings,
    SettingsError,
    conf_dir,
    recipe,
    recipe_hash,
    setting_problems,
    source_of,
)
from bert_lamb.settings.command import sources_with
from bert_lamb.training.assembly import Assembly

PACKAGES = [ROOT / name for name in ("bert_lamb", "data_prep")]


@dataclasses.dataclass
class Outcome:
    code: int
    errors: str


@pytest.fixture
def command(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The pretraining command in this process: its exit code and what it says."""

    def run(*overrides: str, folder: Path = place) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["pretrain", *tiny_overrides(folder), *overrides])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        with pytest.raises(SystemExit) as ended:
            stage.main()
        return Outcome(ended.value.code, capsys.readouterr().err)  # type: ignore[arg-type]

    return run


def assert_one_message(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2, outcome.errors
    assert outcome.errors.count("error: ") == 1, outcome.errors
    assert "Traceback" not in outcome.errors
    for part in parts:
        assert part in outcome.errors


MANY = {  # override: what the one message must hold
    "phase1.warmup_steps=6": "phase1.warmup_steps=6 does not fit a schedule of 6 steps: choose 0 to 5",
    "phase2.seq_len=128": "phase2.seq_len=128 exceeds model.max_positions=64",
    "phase1.peak_lr=-1": "phase1.peak_lr=-1.0: must be above 0",
    "phase1.global_batch=2": "phase1.global_batch=2 cannot be split over hardware.devices=3",
    "hardware.devices=3": "hardware.devices=3",
    "phase2.global_batch=4": "phase2.global_batch=4 cannot be cut into equally many micro-batches",
    "hardware.micro_batch_tokens=128": "phase2.global_batch=4",
    "data.sentences_per_document=5": "data.sentences_per_document=5 works with data.source=text",
    "data.leave_out_squad=true": "data.leave_out_squad=True: also name the questions",
    "data.lower_case=false": "data.lower_case=False, but the data in",
    "data.gaps=drop": "data.gaps=drop works with data.source=wikipedia_dump, not with",
    "data.strip_accents=false": "data.strip_accents=False, but the data in",
    "handover.moments=some": "handover.moments=some: choose one of keep, keep_reset_step, fresh",
    "optimizer.no_decay=[bias,LayerNrom]": "optimizer.no_decay part 'LayerNrom' matches no parameter",
    "optimizer.beta1=1": "optimizer.beta1=1.0",
    "masking.share=0.9": "masking.share=0.9",
    "seed=-1": "seed=-1: must be at least 0",
    "data.seed=-1": "data.seed=-1: must be at least 0",
    "data.seq_lens=[32,64,64]": "data.seq_lens=[32, 64, 64]: must be different lengths",
    "finetune.lr=nan": "finetune.lr=nan: must be above 0",
    "finetune.arms=[scratch]": "train.json: no such file; name a SQuAD v1.1 JSON file (also .zst), or finetune.arms=[]",
    "model.initializer_range=0": "model.initializer_range=0.0: must be above 0",
    "model.init_from=nowhere": "model.init_from=nowhere: no such folder",
}  # fmt: skip


def test_the_real_command_tells_every_problem_at_once(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bert_lamb.pretrain", *tiny_overrides(place), *MANY],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert_one_message(Outcome(done.returncode, done.stderr), *MANY.values())
    assert not (place / "runs").exists()


@pytest.mark.parametrize("override", MANY)
def test_each_of_these_problems_is_told_alone(place: Path, override: str) -> None:
    needs = {
        "phase1.global_batch=2": ["hardware.devices=3"],
        "phase2.global_batch=4": ["hardware.devices=3", "hardware.micro_batch_tokens=64"],
        "phase2.seq_len=128": ["data.seq_lens=[32,128]", "hardware.micro_batch_tokens=1024"],
    }
    if override in ("hardware.devices=3", "hardware.micro_batch_tokens=128"):
        s = tiny(place, override)
        assert not setting_problems(s) + preflight_problems(s), "these are no problems by themselves"
        return
    try:
        problems = preflight_problems(tiny(place, override, *needs.get(override, [])))
    except SettingsError as error:
        problems = error.problems
    assert any(MANY[override] in problem for problem in problems)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.paths=/my/texts", "data.paths: a list is expected; write data.paths=[first,second]"),
        ("phase1=seq64", "phase1 is a group of settings: choose a file of conf/phase"),
        ("data.paths=[/my texts/é]", "put values with blanks or special characters in quotes"),
        ("phase1.global_bach=64", "unknown setting 'phase1.global_bach'; did you mean phase1.global_batch"),
        ("+phase1.global_bach=64", "unknown setting 'phase1.global_bach'; did you mean phase1.global_batch"),
        ("+nonsense=1", "unknown setting 'nonsense'"),
        ("phase1.steps=many", "phase1.steps=many: a value of type int"),
        ("masking.whole_word=perhaps", "masking.whole_word=perhaps: a value of type bool"),
        ("~phase1.steps", "~phase1.steps: a setting cannot be removed"),
        ("~nosuch", "unknown setting 'nosuch'"),
        ("~finetune", "finetune lacks values: choose a file of conf/finetune"),
        (
            "model.layers=???",
            "model lacks values: choose a file of conf/model, or set each missing one, as model.layers=value",
        ),
        ("phase1.steps=null", "phase1.steps=null: a value is needed here"),
        ("seed=", "seed=: a value of type int"),
        ("seed", "seed: no value; write a setting as seed=value"),
        ("=3", "=3: the key is missing; write a setting as key=value"),
        ("+seed=3", "+seed: this setting exists already; write it without the +"),
        ("+model=mini", "model has a choice already"),
        ("model=3", "is set to the name of a file, as in model=large"),
        ("phase@phase3=seq128", "phase@phase3: no such group; did you mean phase@phase1 or phase@phase2?"),
        ("run.name=${nowhere}", "run.name refers to ${nowhere}, but there is no such setting"),
        ("seed=0,1", "several values are for `bert-lamb sweep`"),
        ("--seed=3", "write settings without dashes, as seed=3"),
        ("-s", "-s: no such option"),
        ("--config-name=other", "choose a recipe with experiment=..."),
        ("phase1.steps=[", "phase1.steps=["),
        ("run.name=it's", "in quotes: 'data.paths="),
        ("run.name=a=b", "in quotes: 'data.paths="),
    ],
)
def test_misspelt_and_mistyped(command, override: str, message: str) -> None:
    """One line, without Hydra's search path and keys of its own."""
    outcome = command(override)
    assert_one_message(outcome, message)
    assert len(outcome.errors.splitlines()) == 1 or "these settings cannot run" in outcome.errors


@pytest.mark.parametrize(
    ("override", "asked", "nearest"),
    [
        ("optimizer=lam", "optimizer=lam", "did you mean lamb?"),
        ("optimizer=adam", "optimizer=adam", "did you mean adamw?"),
        ("experiment=bert_large", "experiment=bert_large", "did you mean bert_large_32k?"),
        ("phase@phase1=seq12", "phase@phase1 or phase@phase2=seq12", "did you mean seq128?"),
        ("hardware=tpu", "hardware=tpu", "did you mean cpu?"),
        ("data=", "data=", "wikipedia_dump"),
        ("data=/texts/corpus", "data=/texts/corpus", "wikipedia_dump"),
        ("hydra/launcher=slurm", "hydra/launcher=slurm", "did you mean submitit_slurm?"),
    ],
)
def test_a_choice_that_does_not_exist_ends_with_those_that_do(command, override: str, asked: str, nearest: str) -> None:
    outcome = command(override)
    assert_one_message(outcome, f"error: {asked}: there is no such file in conf/")
    assert outcome.errors.endswith(f"{nearest}\n")
    assert " _base" not in outcome.errors


def damaged_store(folder: Path, how: str) -> None:
    """A store with one thing wrong."""
    make_store(folder / "data" / "made")
    store = folder / "data" / "made"
    documents, spans = store / "train" / "documents-00001.arrow", store / "train" / "seq32-pass1-00000.arrow"
    if how == "no folder":
        (store / "manifest.json").unlink()
    elif how == "flipped byte":
        content = bytearray(spans.read_bytes())
        content[len(content) // 2] ^= 1
        spans.write_bytes(content)
    elif how == "missing shard":
        documents.unlink()
    elif how == "truncated shard":
        documents.write_bytes(documents.read_bytes()[:-8])
    elif how == "foreign shard":
        documents.write_bytes((store / "train" / "documents-00000.arrow").read_bytes())
    elif how == "other format":
        manifest = json.loads((store / "manifest.json").read_text())
        write_manifest(store, manifest | {"format_version": 99})
    elif how == "no JSON":
        (store / "manifest.json").write_text("{")
    elif how == "not an object":
        (store / "manifest.json").write_text("[]")
    elif how == "no instances of a length":
        manifest = json.loads((store / "manifest.json").read_text())
        del manifest["instances"]["train"]["64"]
        write_manifest(store, manifest)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no folder", "manifest.json is missing: no prepared data there; run `make prepare`"),
        ("flipped byte", "seq32-pass1-00000.arrow does not match its SHA-256"),
        ("missing shard", "documents-00001.arrow is named in the manifest but missing"),
        ("truncated shard", "documents-00001.arrow does not match its SHA-256"),
        ("foreign shard", "documents-00001.arrow does not match its SHA-256"),
        ("other format", "has format 99"),
        ("no JSON", "is not JSON"),
        ("not an object", "manifest.json"),
        ("no instances of a length", "has only instances of 32 tokens"),
    ],
)
def test_damaged_data(command, tmp_path: Path, how: str, message: str) -> None:
    damaged_store(tmp_path, how)
    outcome = command("phase1.peak_lr=-1", folder=tmp_path)
    assert_one_message(outcome, message, "phase1.peak_lr=-1.0")
    assert not (tmp_path / "runs").exists()


def test_a_change_after_the_check_is_seen(tmp_path: Path) -> None:
    """Files are hashed once; what was touched since is hashed again."""
    s = prepared(tmp_path)
    assert not preflight_problems(s)
    assert not preflight_problems(s)
    path = tmp_path / "data" / "made" / "train" / "documents-00000.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (problem,) = preflight_problems(s)
    assert str(path) in problem


def leaves(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and type of every setting."""
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(f.type):
            yield from leaves(f.type, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f.type


def put(s: Settings, name: str, value: Any) -> None:
    *groups, leaf = name.split(".")
    owner: Any = s
    for group in groups:
        owner = getattr(owner, group)
    setattr(owner, leaf, value)


KINDS = {n: kind for n, kind in leaves(Settings) if kind in (int, float, int | None, float | None)}
NUMBERS = list(KINDS)


@pytest.mark.parametrize("value", [-1, 0, float("nan")])
def test_no_number_makes_the_checks_crash(place: Path, value: float) -> None:
    """Whatever a number is, the checks answer; a negative one that matters to pretraining is a problem."""
    allowed = {"seed", "data.seed"} | {n for n in NUMBERS if n.startswith(("finetune.", "data.", "inspect."))}
    allowed |= {"hardware.assumed_tflops", "model.initializer_range"}
    plain = tiny(place)
    for name in NUMBERS:
        whole = KINDS[name] in (int, int | None)
        if whole and value != value:
            continue
        s = copy.deepcopy(plain)
        put(s, name, int(value) if whole else float(value))
        problems = setting_problems(s) + preflight_problems(s)
        if value == -1 and name not in allowed:
            assert any(name in problem for problem in problems), name


EXPERIMENTS = sorted(p.stem for p in (conf_dir() / "experiment").glob("*.yaml"))
HARDWARE = sorted(p.stem for p in (conf_dir() / "hardware").glob("*.yaml"))


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_has_a_budget_on_every_hardware(experiment: str, hardware: str) -> None:
    paths = ["data.paths=[x]"] if experiment != "sample" else []
    s = composed(f"experiment={experiment}", f"hardware={hardware}", *paths)
    b = budget(s, max(1, s.hardware.devices), BF16)
    text = budget_text(s, b)
    assert s.experiment in text
    assert all(p.micro_batches * p.micro_batch * b.devices >= p.global_batch for p in b.phases)
    assert b.flops > 0
    assert b.hours > 0
    plain = composed(f"experiment={experiment}", *paths)
    assert recipe_hash(recipe(s, "")) == recipe_hash(recipe(plain, "")), "hardware never moves the recipe"


def test_hours_come_from_a_measurement_where_there_is_one(tmp_path: Path) -> None:
    """The best rate of the model and length, with the recipe's dropout; the plan says which file it was."""
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({
        "machine": {"device": "NVIDIA H200", "commit": "0123456789"},
        "ours large 128 tokens=16384 dropout=0.1": {"tflops": 300.0},
        "ours large 128 tokens=65536 dropout=0.1": {"tflops": 400.0},
        "ours large 128 tokens=65536 dropout=0.0": {"tflops": 500.0},
        "ours large 128 tokens=131072 dropout=0.1": {"failed": "out of memory"},
        "ours base 512 tokens=16384 dropout=0.1": {"tflops": 900.0},
    }))  # fmt: skip
    s = composed("experiment=bert_large_64k_32k", "hardware=h200", "data.paths=[x]", f"hardware.measured={path}")
    b = budget(s, 8, BF16)
    first, second = b.phases
    assert first.tflops == 400.0
    assert second.tflops == s.hardware.assumed_tflops
    updates_s = (first.steps + second.steps) * b.update_s
    assert b.hours == pytest.approx(((first.flops / 400e12 + second.flops / 316e12) / 8 + updates_s) / 3600)
    text = budget_text(s, b)
    assert f"400 TFLOP/s per device (measured on NVIDIA H200, commit 0123456 ({path}))" in text
    assert f"316 TFLOP/s per device (assumed: {path} has no BERT-large at 512 tokens)" in text
    path.write_text("[]")
    with pytest.raises(BudgetError, match="not a file that `make bench-gpu` wrote"):
        budget(s, 8, BF16)


def test_hardware_run_and_names_never_move_the_recipe() -> None:
    s = composed()
    before = recipe_hash(recipe(s, "d"))
    for part in ("hardware", "run", "finetune"):
        for f in dataclasses.fields(getattr(s, part)):
            setattr(getattr(s, part), f.name, "another")
    s.experiment, s.sources = "another", {}
    assert recipe_hash(recipe(s, "d")) == before


def test_every_part_of_the_recipe_moves_its_hash() -> None:
    before = recipe_hash(recipe(composed(), "d"))
    parts = ("seed", "model.", "masking.", "optimizer.", "phase1.", "phase2.", "handover.", "recovery.")
    names = [name for name, _ in leaves(Settings) if name.startswith(parts)]
    assert len(names) > 30
    hashes = {before, recipe_hash(recipe(composed(), "other data"))}
    plain = composed()
    for name in names:
        s = copy.deepcopy(plain)
        put(s, name, "another")
        hashes.add(recipe_hash(recipe(s, "d")))
    assert len(hashes) == len(names) + 2


def test_a_new_group_of_settings_is_in_the_recipe_or_is_not() -> None:
    """Whoever adds a group decides whether it moves the result."""
    outside = {"experiment", "sources", "data", "finetune", "hardware", "run", "inspect"}  # data: by its manifest
    assert {*RECIPE_PARTS} | outside == {f.name for f in dataclasses.fields(Settings)}
    assert not {*RECIPE_PARTS} & outside


READERS = {  # group: what its settings are called where they are read
    "model": "model|m",
    "data": "data|d|source",
    "masking": "masking",
    "optimizer": "optimizer|o",
    "phase1": r"phase|phase1|own|phase\(\w+\)",
    "phase2": r"phase|phase2|own|phase\(\w+\)",
    "handover": "handover",
    "recovery": "recovery|r",
    "finetune": "finetune|f",
    "hardware": "hardware|h",
    "run": "run|_run",
    "inspect": "inspect|show",
}
BY_NAME = {"optimizer": "assembly.py"}  # read by getattr from a tuple of names, there


def unread(names: list[str]) -> list[str]:
    """Those settings that no code reads as a member of their own group."""
    sources = [p for folder in PACKAGES for p in folder.rglob("*.py") if p.name not in ("schema.py", "checks.py")]
    texts = {p.name: p.read_text() for p in sources}
    whole = "\n".join(p.read_text() for p in sources)
    found = []
    for name in names:
        group, _, leaf = name.rpartition(".")
        pattern = rf"\b(?:{READERS[group]})\.{leaf}\b" if group else rf"\bs(?:ettings)?\.{leaf}\b"
        by_name = f'"{leaf}"' in texts.get(BY_NAME.get(group, ""), "")
        if not re.search(pattern, whole) and not by_name:
            found.append(name)
    return found


def test_every_setting_is_read() -> None:
    """A setting that nothing reads promises what it does not do."""
    assert not unread([name for name, _ in leaves(Settings)])
    dead = ["finetune.step", "hardware.loss", "run.name_of", "inspect.seq_len"]
    assert unread(dead) == dead, "names that stand elsewhere in the code are no readers"


def test_every_setting_is_explained() -> None:
    """By a comment of its own, not of the next one."""
    schema = next(p for folder in PACKAGES for p in folder.rglob("schema.py"))
    unexplained = []
    for line, following in pairwise(schema.read_text().splitlines()):
        if not re.match(r"    \w+: .*(= |\[)", line) or "Settings = MISSING" in line:
            continue
        own = line + following if line.rstrip().endswith("(") else line
        if "#" not in own:
            unexplained.append(line.strip())
    assert not unexplained


def poisoned(monkeypatch: pytest.MonkeyPatch, from_step: int, to_step: int = 10**9) -> None:
    """Gradients of phase 1 are NaN in these steps; step 0 is the first."""
    inside, calls = Assembly.losses, []

    def losses(self: Assembly, *arguments: Any, **more: Any) -> LossSums:
        sums = inside(self, *arguments, **more)
        if torch.is_grad_enabled():
            calls.append(1)
            if from_step <= len(calls) - 1 < to_step:
                sums.mlm = sums.mlm * float("nan")
        return sums

    monkeypatch.setattr(Assembly, "losses", losses)


ONE_MICRO_BATCH = ("hardware.micro_batch_tokens=1024", "run.checkpoint_every=1", "run.keep_checkpoints=50")


def test_a_run_that_diverged_says_so_and_stops(command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, 2)
    outcome = command("run.name=diverged", "recovery.max_skipped_in_row=3", *ONE_MICRO_BATCH)
    assert_one_message(
        outcome, "phase 1, step 5", "3 steps in a row (recovery.max_skipped_in_row)", "run.from_checkpoint="
    )  # fmt: skip
    folder = RunFolder(place / "runs" / "diverged")
    saved = list_checkpoints(folder.phase(1) / "checkpoints")
    assert [p.name for p in saved] == ["step-000001", "step-000002"], "none is written amid trouble"
    events = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "skipped"] == [3, 4, 5]


def test_a_few_bad_steps_are_skipped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count, their sequences are consumed, the run goes on; the log stays JSON."""
    poisoned(monkeypatch, 2, 4)
    folder = open_run(tiny(place, "run.name=skips", "recovery.max_skipped_in_row=3", *ONE_MICRO_BATCH))
    stage.pretrain(folder)
    result = folder.phase_result(1)
    assert result is not None
    assert (result["steps"], result["skipped"]) == (6, 2)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = (folder.phase(1) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [r["skipped"] for r in rows] == [0, 0, 1, 2, 2, 2]
    assert rows[2]["loss"] is None
    assert rows[4]["loss"] > 0


def test_a_skipped_step_changes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to stop after two of them, a run saves what it has: weights and moments are those before."""
    poisoned(monkeypatch, 2, 4)
    folder = open_run(tiny(place, "run.name=stays", *ONE_MICRO_BATCH))
    pretrain_for(folder, 4)
    before, after = list_checkpoints(folder.phase(1) / "checkpoints")[1:]
    assert (before.name, after.name) == ("step-000002", "step-000004")
    for name in ("model.safetensors", "optimizer.safetensors"):
        good, other = load_file(before / name), load_file(after / name)
        assert all(torch.equal(good[k], other[k]) for k in good)
    assert json.loads((after / "state.json").read_text())["skipped_in_row"] == 2


def test_diverging_raises_on_every_rank(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, 0)
    folder = open_run(tiny(place, "run.name=at-once", "recovery.max_skipped_in_row=1", *ONE_MICRO_BATCH))
    with pytest.raises(TrainingStoppedError):
        stage.pretrain(folder)


def test_overridden_values_are_no_longer_the_papers() -> None:
    """A value from the command line keeps no source of the value that it replaced."""
    sources = {"model": "arXiv 1810.04805", "model.dropout": "ours", "phase1.peak_lr": "NVIDIA", "phase1": "the paper"}
    given = ["experiment=bert_large_64k_32k", "phase1.peak_lr=0.02", "model=base", "phase@phase2=seq128", "run.name=x"]
    changed = sources_with(sources, given)
    shown = {
        key: source_of(changed, key) for key in ("model.dropout", "model.layers", "phase1.peak_lr", "phase1.steps")
    }
    assert shown == {
        "model.dropout": "the command line", "model.layers": "the command line",
        "phase1.peak_lr": "the command line", "phase1.steps": "the paper",
    }  # fmt: skip
    assert source_of(changed, "phase2.seq_len") == "the command line"
    assert "experiment" not in changed


def test_a_folder_of_another_recipe_is_refused(command, place: Path) -> None:
    open_run(tiny(place, "run.name=taken"))
    outcome = command("run.name=taken", "phase1.peak_lr=0.02", "optimizer=lamb_google", "seed=3")
    assert_one_message(
        outcome, "taken holds a run of another recipe", "phase1.peak_lr: 0.01 -> 0.02",
        "optimizer.preset: paper -> google", "seed: 0 -> 3", "run.name",
    )  # fmt: skip
    assert open_run(tiny(place, "run.name=taken", "hardware.prefetch=7", "run.log_every=2")).path.name == "taken"
