"""The parts of a run: which steps were computed how, from the events that every start leaves."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks.pretrain import pretrain_for
from tools import fresh, make_store, tiny_overrides

from bert_lamb import pretrain as stage
from bert_lamb.pretrain import pretrain
from bert_lamb.reporting.read_run import read_run
from bert_lamb.reporting.summary import summary
from bert_lamb.reporting.text import report_text, verdict
from bert_lamb.run import (
    RunFolder,
    is_event,
    keep_precision,
    last_how,
    open_run,
    parts,
    precision_here,
    precision_problems,
    precisions,
)
from bert_lamb.settings import compose_settings

CPU = torch.device("cpu")


def begin(kind: str, phase: int, step: int | None, **how: Any) -> dict[str, Any]:
    return {"event": kind, "phase": phase, "how": how} | ({} if step is None else {"step": step})


def told(events: list[dict[str, Any]], steps: dict[int, int]) -> list[tuple[int, str, str]]:
    return [(p.phase, p.steps, p.how["precision"]) for p in parts(events, steps)]


def test_steps_belong_to_the_start_that_computed_them_last():
    """A run that was killed at step 12 and resumed from its checkpoint of step 10 did steps 11 and 12 again."""
    events = [begin("start", 1, None, precision="bf16"), begin("resume", 1, 10, precision="fp32")]
    assert told(events, {1: 25}) == [(1, "1 to 10", "bf16"), (1, "11 to 25", "fp32")]
    again = begin("resume", 1, 5, precision="fp64")  # the checkpoint of step 10 was damaged
    assert told([*events, again], {1: 25}) == [(1, "1 to 5", "bf16"), (1, "6 to 25", "fp64")]


def test_starts_that_are_alike_are_one_part():
    events = [begin("start", 1, None, precision="bf16"), begin("resume", 1, 10, precision="bf16", host="another")]
    assert told(events, {1: 25}) == [(1, "1 to 25", "bf16")]


def test_a_phase_that_began_anew_forgets_what_was_before():
    events = [begin("start", 1, None, precision="bf16"), begin("start", 1, None, precision="fp32")]
    assert told(events, {1: 4}) == [(1, "1 to 4", "fp32")]


def test_a_start_that_did_no_step_is_no_part():
    starts = [begin("start", 1, None, precision="bf16"), begin("resume", 1, 6, precision="fp32")]
    events = [*starts, begin("resume", 1, 6, precision="fp64"), begin("start", 2, None, precision="fp64")]
    assert told(events, {1: 6, 2: 4}) == [(1, "1 to 6", "bf16"), (2, "1 to 4", "fp64")]
    assert precisions(parts(events, {1: 6, 2: 4})) == ["bf16", "fp64"]


def test_a_run_that_began_from_a_checkpoint_counts_from_there():
    assert told([begin("start", 1, 40, precision="bf16")], {1: 50}) == [(1, "41 to 50", "bf16")]


def test_events_of_older_versions_are_parts_of_which_nothing_is_known():
    (part,) = parts([{"event": "start", "phase": 1, "ranks": 1}], {1: 3})
    assert (part.steps, part.how) == ("1 to 3", {})


def test_an_event_that_is_damaged_inside_is_none():
    good = begin("start", 1, 4, precision="bf16")
    assert is_event(good)
    for key, value in (("step", "4"), ("phase", [1]), ("how", "bf16"), ("how", {"precision": "int8"}), ("event", None)):
        assert not is_event(good | {key: value}), key


def test_every_start_and_stop_leaves_a_record(place: Path, caplog: pytest.LogCaptureFixture):
    folder = fresh(place, "starts")
    assert last_how(folder) is None
    pretrain_for(folder, 4)
    with caplog.at_level(logging.INFO):
        pretrain(folder)
    events = [json.loads(line) for line in folder.events_file.read_text().splitlines()]
    kinds = [(e["event"], e["phase"], e.get("step")) for e in events]
    assert kinds == [("start", 1, None), ("stop", 1, 4), ("resume", 1, 4), ("start", 2, None)]
    machine = json.loads(folder.machine_file.read_text())
    for event in events:
        if event["event"] != "stop":
            how = event["how"]
            assert how["precision"] == "fp32"
            assert how["compiled"] is False
            assert {key: how[key] for key in ("device", "ranks", "threads", "commit", "dirty", "host")} == {
                key: machine[key] for key in ("device", "ranks", "threads", "commit", "dirty", "host")
            }
            assert how["torch"] == torch.__version__.partition("+")[0] or how["torch"] == torch.__version__
    assert "phase 1 goes on from step 4 of 6 (step-000004)" in caplog.text
    assert "different now" not in caplog.text
    assert len(parts(events, {1: 6, 2: 4})) == 2


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder with a run of fp32 that was stopped at step 4."""
    place = tmp_path_factory.mktemp("begun")
    make_store(place / "data" / "made")
    pretrain_for(fresh(place, "mixed"), 4)
    return place


def command(monkeypatch: pytest.MonkeyPatch, place: Path, *overrides: str) -> RunFolder:
    given = [*tiny_overrides(place), "run.name=mixed", *overrides]
    monkeypatch.setattr(sys, "argv", ["pretrain", *given])
    stage.main()
    return RunFolder(Path(compose_settings(given).run.root) / "mixed")


def test_another_precision_is_refused_and_changes_nothing(begun: Path, monkeypatch, capsys):
    folder = RunFolder(begun / "runs" / "mixed")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        command(monkeypatch, begun, "hardware.precision=bf16")
    message = capsys.readouterr().err
    assert "hardware.precision=bf16" in message
    assert "computed in fp32" in message
    assert "run.allow_change=true" in message
    assert before == {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def test_auto_goes_on_as_the_run_is(begun: Path, monkeypatch):
    """Whatever would be faster on the machine where it goes on."""
    monkeypatch.setattr("bert_lamb.run.precision.choose_precision", lambda *_: pytest.fail("chosen anew"))
    s = compose_settings([*tiny_overrides(begun), "run.name=mixed", "hardware.precision=auto"])
    kept = keep_precision(s, RunFolder(begun / "runs" / "mixed"), CPU)
    assert (kept.name, kept.why) == ("fp32", "as in this run's steps so far")


def test_before_the_first_checkpoint_nothing_is_held(place: Path):
    s = compose_settings([*tiny_overrides(place), "run.name=none", "hardware.precision=bf16"])
    folder = open_run(s)
    folder.event("start", phase=1, how={"precision": "fp32"})
    assert precision_problems(s, folder) == []
    (folder.checkpoints(1) / "step-000003").mkdir(parents=True)
    (problem,) = precision_problems(s, folder)
    assert "computed in fp32" in problem


def test_a_start_that_saved_nothing_does_not_decide(place: Path):
    """Killed before its first checkpoint, it leaves an event, and the next start goes on from what was there before."""
    s = compose_settings([*tiny_overrides(place), "run.name=saved-nothing", "hardware.precision=auto"])
    folder = open_run(s)
    folder.event("start", phase=1, how={"precision": "bf16"})
    (folder.checkpoints(1) / "step-000003").mkdir(parents=True)
    folder.event("resume", phase=1, step=3, how={"precision": "fp64"})
    assert (last_how(folder), precision_here(s, folder, CPU).name) == ({"precision": "bf16"}, "bf16")
    (folder.checkpoints(1) / "step-000006").mkdir()
    assert last_how(folder) == {"precision": "fp64"}
    (folder.checkpoints(1) / "step-000006").rename(folder.checkpoints(1) / "damaged-step-000006")
    folder.event("resume", phase=1, step=6, how={"precision": "fp32"})
    assert last_how(folder) == {"precision": "bf16"}, "the steps of a checkpoint that is gone are done again"


def test_a_run_of_two_precisions_says_so_everywhere(begun: Path, monkeypatch, capsys):
    folder = command(monkeypatch, begun, "hardware.precision=fp64", "run.allow_change=true")
    told = capsys.readouterr().err
    assert "goes on from step 4 of 6 (step-000004); different now: precision fp64 instead of fp32" in told
    record = read_run(folder.path)
    assert record.precision == "fp32, then fp64"
    text = report_text(record, [])
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| pretraining, phase")]
    assert [(row[0], row[3].partition(",")[0]) for row in rows] == [
        ("| pretraining, phase 1, steps 1 to 4", "fp32"),
        ("| pretraining, phase 1, steps 5 to 6", "fp64"),
        ("| pretraining, phase 2, steps 1 to 4", "fp64"),
    ]
    assert "different: precision fp64 instead of fp32" in text
    assert summary([folder.path]).splitlines()[-1].endswith("| fp32, then fp64 |")
    arm = folder.arm("pretrained-0-seed0")
    arm.path.mkdir(parents=True)
    arm.settings_file.write_bytes(folder.settings_file.read_bytes())
    scores = {"arm": "pretrained", "f1": 50.0, "em": 40.0, "questions": 4, "train_questions": 4, "unmatched": []}
    arm.result_file.write_text(json.dumps(scores | {"steps": 1, "skipped": 0, "loss": 1.0, "seconds": 1.0}))
    assert "pretrained in fp32, then fp64" in verdict(read_run(folder.path))
