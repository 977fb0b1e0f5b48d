"""run.from_checkpoint: a new run goes on from another run's checkpoint, under its own recipe and in its own folder."""

import json
import re
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks.pretrain import pretrain_for
from safetensors.torch import load_file
from tools import fresh, losses_of, make_store, tiny, tiny_overrides

from bert_lamb import pretrain as stage
from bert_lamb.batch import LossSums
from bert_lamb.checksums import write_sums
from bert_lamb.files import file_sha256
from bert_lamb.planning.preflight import preflight_problems
from bert_lamb.pretrain import pretrain
from bert_lamb.run import (
    OriginError,
    RunFolder,
    RunFolderError,
    TrainingStoppedError,
    list_checkpoints,
    locate_run,
    open_run,
    read_progress,
)
from bert_lamb.settings import SettingsError, recipe_hash, setting_problems
from bert_lamb.training.assembly import Assembly

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def first(place: Path) -> RunFolder:
    """A finished run that kept every checkpoint."""
    folder = fresh(place, "first", "run.checkpoint_every=1", "run.keep_checkpoints=9", "run.log_every=4")
    pretrain(folder)
    return folder


def checkpoint(folder: RunFolder, phase_number: int, step: int) -> Path:
    return folder.checkpoints(phase_number) / f"step-{step:06d}"


def from_(path: Path) -> str:
    return f"run.from_checkpoint={path}"


def final(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.weights() / "model.safetensors") | load_file(folder.weights() / "optimizer.safetensors")


def assert_same_end(a: RunFolder, b: RunFolder) -> None:
    ours, theirs = final(a), final(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("phase_number", "step"), [(1, 0), (1, 2), (1, 6), (2, 1), (2, 4)])
def test_under_the_same_recipe_it_ends_in_the_same_bits(
    place: Path, first: RunFolder, phase_number: int, step: int
) -> None:
    """Weights, moments and step are taken over: the second run does what the first one did from there on."""
    if step == 0:
        overrides = ("recovery.policy=rollback", "run.keep_checkpoints=9", "run.checkpoint_every=6")
        first = fresh(place, "with-step-0", *overrides)
        pretrain(first)
    path = checkpoint(first, phase_number, step)
    second = fresh(place, f"from-{phase_number}-{step}", from_(path), *(overrides if step == 0 else ()))
    pretrain(second)
    assert_same_end(first, second)
    if step < 6 and phase_number == 1:
        assert sorted(losses_of(second.path, 1)) == list(range(step + 1, 7))
    assert second.phase(1).exists() == (phase_number == 1), "phases before the checkpoint's are done by its run"


def test_what_its_record_tells(place: Path, first: RunFolder) -> None:
    path = checkpoint(first, 1, 2)
    second = fresh(place, "recorded", from_(path), "phase1.peak_lr=0.005")
    pretrain_for(second, 1)
    origin = json.loads((second.path / "origin.json").read_text())
    assert origin == {
        "path": str(path),
        "sha256": file_sha256(path / "SHA256SUMS"),
        "phase": 1,
        "step": 2,
        "run": "first",
        "recipe": recipe_hash(json.loads(first.recipe_file.read_text())),
    }
    recipe = json.loads(second.recipe_file.read_text())
    assert recipe["origin"] == {key: origin[key] for key in ("sha256", "phase", "step")}
    (start,) = [e for e in map(json.loads, second.events_file.read_text().splitlines()) if e["event"] == "start"]
    assert (start["from_checkpoint"], start["step"]) == (str(path), 2)
    assert [p.name for p in list_checkpoints(second.checkpoints(1))] == ["step-000002", "step-000003"]
    counts = [json.loads(line)["sequences"] for line in second.metrics_file(1).read_text().splitlines()]
    assert counts == [24], "what the other run counted is not counted again"


def test_the_name_follows_the_content(place: Path, first: RunFolder, tmp_path: Path) -> None:
    """Wherever the checkpoint lies; and a run without it keeps the name that it had."""
    path = checkpoint(first, 1, 2)
    copy = Path(shutil.copytree(path, tmp_path / "step-000002-kept"))
    names = {locate_run(tiny(place, from_(p))).path.name for p in (path, copy)}
    assert len(names) == 1
    names |= {locate_run(tiny(place)).path.name, locate_run(tiny(place, from_(checkpoint(first, 1, 3)))).path.name}
    assert len(names) == 3
    state = json.loads((copy / "state.json").read_text())
    (copy / "state.json").write_text(json.dumps(state | {"data_offset": 5}))
    write_sums(copy, [p.name for p in copy.iterdir() if p.suffix])
    assert locate_run(tiny(place, from_(copy))).path.name not in names


def test_it_resumes_without_the_other_run(place: Path, first: RunFolder, tmp_path: Path) -> None:
    """Cut before its first step and after; the checkpoint that it began from is deleted meanwhile."""
    source = Path(shutil.copytree(checkpoint(first, 1, 2), tmp_path / "source"))
    uncut = fresh(place, "uncut", from_(source), "phase1.peak_lr=0.005")
    pretrain(uncut)
    cut = fresh(place, "cut", from_(source), "phase1.peak_lr=0.005")
    pretrain_for(cut, 1)
    shutil.rmtree(source)
    again = fresh(place, "cut", from_(source), "phase1.peak_lr=0.005")
    assert not preflight_problems(tiny(place, "run.name=cut", from_(source), "phase1.peak_lr=0.005"))
    pretrain(again)
    assert_same_end(uncut, cut)
    with pytest.raises(OriginError, match=r"no checkpoint there .*run\.name"):
        open_run(tiny(place, from_(source), "phase1.peak_lr=0.005"))
    with pytest.raises(RunFolderError, match=r"origin: .* -> None"):
        open_run(tiny(place, "run.name=cut", "phase1.peak_lr=0.005"))


def test_a_checkpoint_that_was_changed_since_is_refused(place: Path, first: RunFolder, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint(first, 1, 2), tmp_path / "source"))
    folder = fresh(place, "changed-since", from_(source))
    shutil.rmtree(source)
    shutil.copytree(checkpoint(first, 1, 3), source)
    with pytest.raises(Exception, match="was changed since this run was opened"):
        pretrain(folder)


FIRST_STEP = ("recovery.policy=rollback", "recovery.max_skipped_in_row=2", "recovery.every=100")


def test_a_roll_back_goes_to_where_it_began(place: Path, first: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first step is no multiple of recovery.every; it is kept until there is one."""
    poison(monkeypatch, place, 6, 12)  # steps 4 and 5 of 3 micro-batches each
    folder = fresh(place, "rolls-back", from_(checkpoint(first, 1, 2)), *FIRST_STEP, "run.keep_checkpoints=1")
    pretrain(folder)
    events = map(json.loads, folder.events_file.read_text().splitlines())
    assert [e["to"] for e in events if e["event"] == "rolled back"] == ["step-000002"]
    result = folder.phase_result(1)
    assert result is not None
    assert result["skipped"] == 2


def poison(monkeypatch: pytest.MonkeyPatch, place: Path, from_call: int, to_call: int = 10**9) -> None:
    """Losses of these micro-batches are NaN."""
    inside, calls = Assembly.losses, []

    def losses(self: Assembly, *arguments: Any, **more: Any) -> LossSums:
        sums = inside(self, *arguments, **more)
        if torch.is_grad_enabled():
            calls.append(1)
            if from_call <= len(calls) - 1 < to_call:
                sums.mlm = sums.mlm * float("nan")
        return sums

    monkeypatch.setattr(Assembly, "losses", losses)


def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The pretraining command in this process; what it says."""
    monkeypatch.setattr(sys, "argv", ["pretrain", *arguments])
    with suppress(SystemExit):
        stage.main()
    return capsys.readouterr().err


@pytest.mark.parametrize("named", ["run.name=diverged", "seed=3"])
def test_the_way_out_of_a_diverged_run_is_a_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    """As printed, for a run of any name and a path with a blank: a new run that goes on from the last good one."""
    place = tmp_path / "my runs"
    make_store(place / "data" / "made")
    given = [f"{k}='{v}'" if " " in v else f"{k}={v}" for k, v in (o.split("=", 1) for o in tiny_overrides(place))]
    with monkeypatch.context() as patches:
        poison(patches, place, 9)
        said = main(patches, capsys, *given, named, "recovery.max_skipped_in_row=2", "run.checkpoint_every=1")
    assert "phase 1, step 5: 2 steps in a row" in said
    (line,) = [line for line in said.splitlines() if line.startswith("  python -m bert_lamb.pretrain")]
    words = shlex.split(line)[3:]
    assert words[-1] == "phase1.peak_lr=0.005"
    assert "step-000003" in words[-2]
    (diverged,) = (place / "runs").iterdir()
    said = main(monkeypatch, capsys, *words)
    assert "error" not in said, said
    (new,) = [p for p in (place / "runs").iterdir() if p != diverged]
    assert RunFolder(new).phase_result(2)
    assert sorted(losses_of(new, 1)) == [4, 5, 6]
    assert json.loads((new / "origin.json").read_text())["run"] == diverged.name


def test_without_a_checkpoint_the_way_out_starts_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, place, 0)
    folder = fresh(place, "at-once", "recovery.max_skipped_in_row=2")
    with pytest.raises(TrainingStoppedError) as stopped:
        pretrain(folder)
    assert "no checkpoint yet" in str(stopped.value)
    assert "python -m bert_lamb.pretrain phase1.peak_lr=0.005" in str(stopped.value)


REFUSED = {  # overrides: what the message must hold
    "model.hidden=16": r"do not fit model=tiny: .*shape \(32,\), the settings give \(16,\).* more",
    "model.layers=1": "layer.1.*unknown to this model",
    "model.heads=4": r"2 attention heads, but model\.heads=4",
    "phase1.steps=3": r"at step 4 of phase 1, beyond phase1\.steps=3",
    "optimizer=lars": r"optimizer's state \(exp_avg, exp_avg_sq\).*optimizer\.preset=lars, which keeps",
    "data.name=smaller": r"word_embeddings\.weight: shape \(120, 32\), the settings give \(100, 32\)",
    "data.name=other": "data with another vocabulary than",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_checkpoint_that_does_not_fit_is_refused(place: Path, first: RunFolder, override: str) -> None:
    key, value = override.split("=")
    if key == "data.name" and not (place / "data" / value).exists():
        make_store(place / "data" / value, vocab_size=100 if value == "smaller" else 120)
        if value == "other":
            manifest = json.loads((place / "data/other/manifest.json").read_text())
            manifest["tokenizer"]["sha256"] = "0" * 64
            (place / "data/other/manifest.json").write_text(json.dumps(manifest))
    more = ["phase1.warmup_steps=1"] if override == "phase1.steps=3" else []
    problems = preflight_problems(tiny(place, from_(checkpoint(first, 1, 4)), override, *more))
    assert all(problem.startswith(f"{from_(checkpoint(first, 1, 4))}: ") for problem in problems)
    assert any(re.search(REFUSED[override], problem) for problem in problems), problems


def test_the_baselines_moments_fit(place: Path, first: RunFolder) -> None:
    """LAMB and AdamW keep the same moments."""
    assert not preflight_problems(tiny(place, from_(checkpoint(first, 1, 4)), "optimizer=adamw"))


@pytest.mark.parametrize("damage", ["gone", "file", "cut", "no sums"])
def test_a_damaged_one_is_refused_before_anything_is_spent(
    place: Path, first: RunFolder, tmp_path: Path, damage: str
) -> None:
    path = Path(shutil.copytree(checkpoint(first, 1, 4), tmp_path / "copy"))
    if damage == "gone":
        shutil.rmtree(path)
    elif damage == "file":
        path = path / "model.safetensors"
    elif damage == "cut":
        (path / "model.safetensors").write_bytes(b"x")
    else:
        (path / "SHA256SUMS").unlink()
    (problem,) = preflight_problems(tiny(place, from_(path)))
    assert problem.startswith(f"run.from_checkpoint={path}: ")


def test_two_sources_of_weights_are_refused(place: Path, first: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"run\.from_checkpoint=.* and model\.init_from="):
        tiny(place, from_(checkpoint(first, 1, 4)), f"model.init_from={tmp_path}")
    assert not setting_problems(tiny(place, from_(checkpoint(first, 1, 4))))


def test_skips_and_rollbacks_of_the_other_run_are_not_its_own(
    place: Path, first: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place in the data is taken over, the counts of what went wrong are not."""
    poison(monkeypatch, place, 6, 12)
    bad = fresh(place, "had-trouble", *FIRST_STEP, "run.checkpoint_every=1", "run.keep_checkpoints=9")
    pretrain(bad)
    path = checkpoint(bad, 1, 5)
    theirs = read_progress(path)
    assert (theirs.rollbacks, theirs.data_offset, theirs.skipped) == (1, 4, 2)
    folder = fresh(place, "after-trouble", from_(path))
    pretrain_for(folder, 1)
    ours = read_progress(checkpoint(folder, 1, 6))
    assert (ours.rollbacks, ours.data_offset, ours.skipped) == (0, 4, 0)
