"""Room on the disk: what a run's checkpoints will still take, not what they take already."""

import shutil
from pathlib import Path
from unittest import mock

import pytest
from ranks.pretrain import pretrain_for
from tools import fresh, tiny

from bert_lamb.model import parameter_count
from bert_lamb.planning.preflight import preflight_problems
from bert_lamb.run import list_checkpoints

KEEP = ("run.keep_checkpoints=3", "run.checkpoint_every=1", "run.name=fills")


def problems(place: Path, free: int) -> list[str]:
    usage = shutil._ntuple_diskusage(free * 10, free * 9, free)
    with mock.patch("shutil.disk_usage", return_value=usage):
        return [p for p in preflight_problems(tiny(place, *KEEP)) if p.startswith("run.root=")]


@pytest.mark.usefixtures("one_thread")
def test_existing_checkpoints_are_counted_at_a_resume(place: Path) -> None:
    """A disk that a run has filled as planned is large enough to go on with it."""
    s = tiny(place, *KEEP)
    planned = 12 * parameter_count(s.model, 120) * 2 * (3 + 1)  # weights and two moments, in both phases
    assert problems(place, planned) == []
    assert "checkpoints still need" in problems(place, planned - 1)[0]
    folder = fresh(place, "fills", *KEEP[:2])
    pretrain_for(folder, 4)
    written = sum(f.stat().st_size for p in list_checkpoints(folder.checkpoints(1)) for f in p.iterdir())
    assert problems(place, planned - written) == []
    assert problems(place, planned - written - 1)
    shutil.copytree(list_checkpoints(folder.checkpoints(1))[-1], folder.checkpoints(1) / "step-000004-backup")
    assert problems(place, planned - written - 1), "a copy is not what the run counts on"
    (folder.phase(1) / "result.json").write_text("{}")
    assert problems(place, planned // 2) == [], "phase 1 is done"
