"""What ranks tell each other, and whom they wait for, without any process."""

import time
from pathlib import Path

import pytest
import torch
from torch.distributed import DistBackendError

from bert_lamb.locks import InUseError, sole_use
from bert_lamb.parallel import held_by_rank
from bert_lamb.parallel.launch import _name
from bert_lamb.parallel.rank import COMMAND_PIPE, LostRankError, store_key
from bert_lamb.parallel.watch import Watch


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """One whose thread never looks by itself."""
    monkeypatch.setattr("bert_lamb.parallel.watch.meeting_store", lambda: None)
    monkeypatch.setattr(Watch, "_run", lambda *_: None)
    return Watch(0, 2, timeout_s=100.0, stacks=tmp_path)


def test_only_time_that_was_looked_at_is_waiting(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended process, or a closed laptop, comes back to clocks that went on."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch._last_look_s = 1000.0
    waited = []
    for passed, exchange in ((5, 1), (5, 1), (5, 1), (7200, 1), (5, 1), (5, 2), (5, 2)):
        now[0] += passed
        waited.append(watch._has_waited_s(("a barrier", exchange)))
    assert waited == [0, 5, 10, 20, 25, 0, 5]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer"), True),
        (DistBackendError("NCCL error: unhandled CUDA error"), True),
    ],
)
def test_a_rank_s_own_fault_is_no_lost_rank(watch: Watch, error: RuntimeError, lost: bool) -> None:
    with pytest.raises(LostRankError if lost else type(error)) as caught, watch.exchange("a sum of gradients"):
        raise error
    assert isinstance(caught.value, LostRankError) == lost


def test_signals_without_a_name_are_told_by_number() -> None:
    assert [_name(number) for number in (9, 35)] == ["SIGKILL", "signal 35"]


def test_keys_are_of_one_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun keeps its store over restarts: what was told before a restart must not silence the ranks after it."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    first = store_key("told")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert store_key("told") != first


def test_under_another_launcher_rank_0_keeps_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMAND_PIPE, raising=False)
    monkeypatch.setenv("RANK", "0")
    with sole_use(tmp_path, "wait"), pytest.raises(InUseError, match="end it first"), held_by_rank(tmp_path):
        pass
    with held_by_rank(tmp_path), pytest.raises(InUseError), sole_use(tmp_path, "wait"):
        pass
    monkeypatch.setenv("RANK", "1")
    with sole_use(tmp_path, "wait"), held_by_rank(tmp_path):
        pass
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(COMMAND_PIPE, "7")
    with sole_use(tmp_path, "wait"), held_by_rank(tmp_path):
        pass
