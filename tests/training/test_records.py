"""A run's own records: counts add up however it was stopped; what is damaged is named, set aside and made again."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ranks.pretrain import pretrain_for
from tools import assert_same_bits, fresh, losses_of, tiny

from bert_lamb.jsonfiles import clean_lines
from bert_lamb.pretrain import pretrain
from bert_lamb.reporting.read_run import read_run
from bert_lamb.run import RunFolder, RunFolderError, last_line, open_run
from bert_lamb.training.checkpoints import PhaseCheckpoints

pytestmark = pytest.mark.usefixtures("one_thread")

SELDOM = ("run.log_every=4", "phase1.steps=9", "run.heldout_every=0", "run.checkpoint_every=3")


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, folder.events_file.read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


@pytest.fixture(scope="module")
def uncut(place: Path) -> RunFolder:
    folder = fresh(place, "uncut", *SELDOM)
    pretrain(folder)
    return folder


def counted(folder: RunFolder) -> list[dict[int, tuple[float, ...]]]:
    """Of both phases, by step: what its line counts since the line before."""
    keys = ("sequences", "tokens", "padding")
    return [
        {line["step"]: tuple(line[key] for key in keys) for line in phase.lines}
        for phase in read_run(folder.path).phases.values()
    ]


@pytest.mark.parametrize("stops", [[3], [5], [7], [1, 1, 1], [2, 6], [10]], ids=str)
def test_counts_survive_a_stop(place: Path, uncut: RunFolder, stops: list[int]) -> None:
    """Stopped between two logged lines, every line counts what it does in an uncut run; nothing is lost or doubled."""
    folder = fresh(place, f"stopped-{'-'.join(map(str, stops))}", *SELDOM)
    for steps in stops:
        pretrain_for(folder, steps)
    pretrain(folder)
    assert counted(folder) == counted(uncut)
    assert read_run(folder.path).phases[1].total("sequences") == 9 * 24


@pytest.mark.parametrize("call", [2, 5, 6, 8])
def test_counts_survive_a_crash(place: Path, uncut: RunFolder, call: int) -> None:
    """Steps after the last checkpoint are done again, and lines that stood already are replaced by equal ones."""
    folder = fresh(place, f"crashed-{call}", *SELDOM)
    asked = []

    def fail(self: object, *_: object) -> bool:
        asked.append(1)
        if len(asked) == call:
            raise InterruptedError
        return False

    with mock.patch("bert_lamb.pretrain.StopRequest.__bool__", fail), pytest.raises(InterruptedError):
        pretrain(folder)
    pretrain(folder)
    assert counted(folder) == counted(uncut)


BAD = b'{"step": 3, "lo\n\xff\xfe\n[1]\n{"step": "4", "loss": 1}\n' + b"[" * 100_000 + b"\n"


def test_bad_lines_stop_no_phase(place: Path, uncut: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    """They are named and kept aside when the run goes on, and the phase's result comes from the good ones."""
    folder = fresh(place, "bad-lines", *SELDOM)
    pretrain_for(folder, 5)
    metrics = folder.metrics_file(1)
    good = metrics.read_bytes()
    metrics.write_bytes(BAD + good + BAD)
    with folder.events_file.open("ab") as file:
        file.write(BAD)
    pretrain(folder)
    assert_same_bits(folder, uncut)
    assert metrics.read_bytes().startswith(good)
    assert metrics.with_name("damaged-metrics.jsonl").read_bytes() == BAD + BAD
    assert (folder.path / "damaged-events.jsonl").read_bytes() == BAD
    assert f"{metrics}: 10 lines cannot be read; set aside in damaged-metrics.jsonl" in caplog.text
    assert list(losses_of(folder.path, 1)) == [4, 8, 9]
    assert [line["event"] for line in map(json.loads, folder.events_file.read_text().splitlines())][:3] == [
        "start", "stop", "resume",
    ]  # fmt: skip
    assert "damaged-metrics.jsonl was set aside as damaged" in " ".join(read_run(folder.path).problems)


def test_a_line_that_is_lost_costs_the_result_its_numbers_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_line(path, 9) == {}
    path.write_text('{"step": 9, "loss": 2.0}\n{"step": 9, "loss": 1.0}\n{"step": 9, "lo\n')
    assert last_line(path, 9) == {"step": 9, "loss": 1.0}
    assert last_line(path, 8) == {}


def test_cleaning_is_safe_to_be_killed_in(tmp_path: Path) -> None:
    """Bad lines are aside before the log loses them."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\nbad\n{"a": 2}\nhalf')
    with mock.patch("bert_lamb.jsonfiles.write_whole", side_effect=InterruptedError), pytest.raises(InterruptedError):
        clean_lines(path, bool)
    assert path.read_bytes() == b'{"a": 1}\nbad\n{"a": 2}\nhalf'
    assert (tmp_path / "damaged-metrics.jsonl").read_bytes() == b"bad\n"
    assert clean_lines(path, bool) == 1
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"checkpoint": "checkpoints/../../elsewhere"}', b'{"checkpoint": 3}', b"\xff"]
)
def test_a_damaged_result_is_made_again(
    place: Path, uncut: RunFolder, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The phase counts as not finished; nothing is trained again, and what stood there is kept."""
    folder = fresh(place, f"result-{content.hex()}", *SELDOM)
    pretrain_for(folder, 11)
    path = folder.result_file(1)
    before = json.loads(path.read_text())
    path.write_bytes(content)
    pretrain(folder)
    assert json.loads(path.read_text()) == before
    assert path.with_name("damaged-result.json").read_bytes() == content
    assert caplog.text.count(f"{path} is damaged") == 1
    assert_same_bits(folder, uncut)
    folder.result_file(2).write_bytes(content)
    with pytest.raises(RunFolderError, match="no finished pretraining"):
        folder.weights()
    pretrain(folder)
    assert_same_bits(folder, uncut)


def test_a_damaged_recipe_is_not_guessed(place: Path) -> None:
    folder = fresh(place, "whose", *SELDOM)
    folder.recipe_file.write_bytes(b"{")
    with pytest.raises(RunFolderError, match=r"recipe\.json is damaged.*choose another run\.name, or delete"):
        open_run(tiny(place, "run.name=whose", *SELDOM))
    assert folder.recipe_file.read_bytes() == b"{"


NERVOUS = ("recovery.policy=rollback", "recovery.window=2", "recovery.spike_nats=0.04", "recovery.spike_steps=1",
           "recovery.every=2", "run.checkpoint_every=3", "phase1.steps=8", "seed=2")  # fmt: skip


def test_what_went_wrong_is_told_once(place: Path) -> None:
    """Killed between the event and the checkpoint that counts the roll-back, it goes wrong again in the same step."""
    expected = fresh(place, "nervous", *NERVOUS)
    pretrain(expected)
    folder = fresh(place, "nervous-killed", *NERVOUS)
    inside, done = PhaseCheckpoints.save, []

    def save(self: PhaseCheckpoints, progress: Any) -> None:
        if progress.rollbacks and len(done) < 2:
            done.append(1)
            raise InterruptedError
        inside(self, progress)

    with mock.patch.object(PhaseCheckpoints, "save", save):
        for _ in range(2):
            with pytest.raises(InterruptedError):
                pretrain(folder)
    pretrain(folder)
    assert_same_bits(folder, expected)
    keys = ("phase", "step", "rollbacks", "to")
    told = [[tuple(e[k] for k in keys) for e in events(f, "rolled back")] for f in (folder, expected)]
    assert told[0] == told[1]
    assert len(set(told[0])) == len(told[0]) == 3


def test_a_skipped_step_that_is_done_again_is_told_once(place: Path) -> None:
    folder = fresh(place, "told-once", *SELDOM)
    place_of = {"phase": 1, "step": 5, "rollbacks": 0}
    folder.event("start", phase=1)
    for rollbacks in (0, 0, 1, 0, 1):
        folder.event_once("skipped", **(place_of | {"rollbacks": rollbacks}), in_row=1)
    assert [e["rollbacks"] for e in events(folder, "skipped")] == [0, 1]
    folder.event("start", phase=1)  # the phase was begun again: it is another history
    folder.event_once("skipped", **place_of, in_row=1)
    assert len(events(folder, "skipped")) == 3
