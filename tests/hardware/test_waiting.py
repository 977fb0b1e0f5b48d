"""Threads wait without spinning where other programs use the cores, and as the user says where the user says it."""

import os
import subprocess
import sys

import pytest
import torch
from tools import environment

from bert_lamb.hardware import waiting

PROGRAM = (
    "import os; from bert_lamb.hardware import wait_passively_if_busy; wait_passively_if_busy();"
    "print(os.environ.get('OMP_WAIT_POLICY'))"
)


@pytest.fixture
def started(monkeypatch):
    """The argument lists of programs that would have been started in place of this one."""
    given: list[list[str]] = []
    for name in waiting.CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "execv", lambda _, arguments: given.append(arguments))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return given


def cores(monkeypatch, *busy: float, mine: set[int] | None = None) -> None:
    monkeypatch.setattr(waiting.psutil, "cpu_percent", lambda *_, **__: [100 * share for share in busy])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mine or set(range(len(busy))))


def test_an_idle_machine_lets_threads_spin(started, monkeypatch):
    cores(monkeypatch, 0.1, 0.2)
    waiting.wait_passively_if_busy()
    assert not started
    assert waiting.POLICY not in os.environ


def test_what_the_system_does_on_many_cores_is_no_program(started, monkeypatch):
    cores(monkeypatch, *[0.05] * 128)
    waiting.wait_passively_if_busy()
    assert not started
    monkeypatch.setenv(waiting.POLICY, "")  # so that it is put back at the end
    monkeypatch.delenv(waiting.POLICY)
    cores(monkeypatch, *[0.05] * 127, 1.0)
    waiting.wait_passively_if_busy()
    assert started


def test_a_busy_machine_starts_the_same_command_with_passive_waiting(started, monkeypatch, capsys):
    cores(monkeypatch, 0.9, 0.4)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "bert_lamb.pretrain", "seed=1"])
    monkeypatch.setenv(waiting.POLICY, "")  # so that it is put back at the end
    monkeypatch.delenv(waiting.POLICY)
    waiting.wait_passively_if_busy()
    assert started == [[sys.executable, "-m", "bert_lamb.pretrain", "seed=1"]]
    assert os.environ[waiting.POLICY] == "passive"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "1.3" in said
    waiting.wait_passively_if_busy()  # as the new command does
    assert len(started) == 1


def test_cores_that_are_not_ours_do_not_count(started, monkeypatch):
    cores(monkeypatch, 1.0, 1.0, 0.1, mine={2})
    waiting.wait_passively_if_busy()
    assert not started


def test_one_thread_waits_for_nobody(started, monkeypatch):
    cores(monkeypatch, 1.0, 1.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    waiting.wait_passively_if_busy()
    assert not started


@pytest.mark.parametrize("name", waiting.CHOSEN_BY_USER)
def test_the_user_s_own_choice_stays(started, monkeypatch, name):
    cores(monkeypatch, 1.0, 1.0)
    monkeypatch.setenv(name, "7")
    waiting.wait_passively_if_busy()
    assert not started


def test_beside_real_programs_a_command_waits_passively():
    env = {k: v for k, v in environment(OMP_NUM_THREADS="2").items() if k not in waiting.CHOSEN_BY_USER}
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert done.stdout == "passive\n"
    assert done.stderr.count("OMP_WAIT_POLICY=passive") == 1
