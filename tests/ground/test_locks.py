"""Folders and work that one process has at a time, with locks and on file systems that have none."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
from tools import composed, environment, make_store, tiny_overrides

from bert_lamb import locks
from bert_lamb.errors import UserError
from bert_lamb.finetune import finetune
from bert_lamb.locks import InUseError, one_at_a_time, sole_use

WAY_OUT = "wait for it"
HOLDER = (
    "import sys, time; from pathlib import Path; from bert_lamb.locks import sole_use\n"
    "with sole_use(Path(sys.argv[1]), ''): print('held', flush=True); time.sleep(1000)"
)


@pytest.fixture
def no_locks():
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    with mock.patch.object(fcntl, "flock", refuse):
        yield


def test_a_folder_is_one_process_at_a_time_and_free_when_it_dies(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InUseError, match=f"{tmp_path} is in use by another process: wait for it"), use(tmp_path):
        pass
    process.kill()
    process.wait()
    with use(tmp_path):
        pass


def use(folder: Path):
    return sole_use(folder, WAY_OUT)


def test_one_that_inherits_the_lock_keeps_it(tmp_path):
    with use(tmp_path) as descriptors:
        heir = subprocess.Popen(["sleep", "1000"], pass_fds=descriptors)
    with pytest.raises(InUseError), use(tmp_path):
        pass
    heir.kill()
    heir.wait()
    with use(tmp_path):
        pass


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("text")
    (tmp_path / ".lock").symlink_to(target)
    with pytest.raises(UserError, match="is a link"), use(tmp_path):
        pass
    with pytest.raises(UserError, match="is a link"), one_at_a_time(tmp_path / ".lock", "works"):
        pass
    assert target.read_text() == "text"


def test_without_locks_a_lease_keeps_others_out(tmp_path, no_locks, caplog):
    with use(tmp_path) as descriptors:
        assert descriptors == ()
        assert "no file locks" in caplog.text
        with pytest.raises(InUseError, match=f"process {os.getpid()}"), use(tmp_path):
            pass
    with use(tmp_path):
        pass
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".lease")]


def test_a_lease_is_renewed_and_lost_when_it_is_not(tmp_path, no_locks, monkeypatch):
    monkeypatch.setattr(locks, "RENEW_S", 0.05)
    monkeypatch.setattr(locks, "LEASE_S", 1.0)
    with use(tmp_path):
        time.sleep(1.5)
        with pytest.raises(InUseError), use(tmp_path):
            pass
    (tmp_path / ".lease").write_text('{"owner": "of a killed process", "host": "elsewhere", "process": 1}')
    with pytest.raises(InUseError, match="process 1 of elsewhere"), use(tmp_path):
        pass
    time.sleep(1.2)
    with use(tmp_path):
        pass


def test_of_several_that_find_an_old_lease_one_takes_it(tmp_path, no_locks, monkeypatch):
    """All of them have found it old before the first removes it, so that some remove what another has made."""
    monkeypatch.setattr(locks, "RENEW_S", 0.1)
    ended = mock.Mock()
    monkeypatch.setattr(os, "_exit", ended)
    age_s, found_old, outcomes = locks._age_s, threading.Barrier(4), []

    def find_old(path: Path) -> float | None:
        age = age_s(path)
        found_old.wait()
        return age

    def contend() -> None:
        try:
            with use(tmp_path):
                outcomes.append("in")
                time.sleep(0.5)
                outcomes.append("out")
        except InUseError as error:
            outcomes.append(str(error).partition(", ")[2])

    monkeypatch.setattr(locks, "_age_s", find_old)
    for _ in range(5):
        outcomes.clear()
        (tmp_path / ".lease").write_text("of a killed process")
        os.utime(tmp_path / ".lease", (1, 1))
        threads = [threading.Thread(target=contend) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["in", "out", *["which has just taken it: wait for it"] * 3]
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".lease")]
    assert not ended.called


def test_a_lease_that_was_taken_away_ends_its_process(tmp_path, no_locks, monkeypatch):
    """Before the one that took it begins to work; nothing is written into the other's lease."""
    monkeypatch.setattr(locks, "RENEW_S", 0.1)
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _: ended.set())
    with use(tmp_path):
        os.utime(tmp_path / ".lease", (1, 1))
        with use(tmp_path):
            assert ended.is_set()
            theirs = (tmp_path / ".lease").read_bytes()
            time.sleep(0.3)
            assert (tmp_path / ".lease").read_bytes() == theirs


def test_a_lease_from_the_future_is_nobodys(tmp_path, no_locks, monkeypatch):
    monkeypatch.setattr(locks, "RENEW_S", 0.05)
    (tmp_path / ".lease").write_text("written before the clock was set back")
    os.utime(tmp_path / ".lease", (time.time() + 3600,) * 2)
    with use(tmp_path):
        pass


def test_a_lease_that_cannot_be_written_is_not_left_behind(tmp_path, no_locks, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError, match="No space left"), use(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("content", [b"\0[", b"\xff\xfe", b""])
def test_a_damaged_lease_is_one_all_the_same(tmp_path, no_locks, content):
    (tmp_path / ".lease").write_bytes(content)
    with pytest.raises(InUseError, match="another process"), use(tmp_path):
        pass


def test_fine_tuning_is_refused_before_it_writes(tmp_path):
    make_store(tmp_path / "data" / "made")
    s = composed(*tiny_overrides(tmp_path), "run.name=held")
    run = tmp_path / "runs" / "held"
    run.mkdir(parents=True)
    with use(run):
        with pytest.raises(InUseError, match=r"another run\.name"):
            finetune(s)
        assert [p.name for p in run.iterdir()] == [".lock"]
    finetune(s)  # no arms: nothing to do, and the folder is free
    assert (run / "settings.yaml").is_file()
