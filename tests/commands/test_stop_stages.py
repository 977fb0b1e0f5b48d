"""A sweep or a rehearsal that is asked to stop ends its running stage, which saves, and begins nothing more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tools import ROOT, environment

from bert_lamb.errors import EXIT_STOPPED
from bert_lamb.signals import SAME_REQUEST_S

STAGE = """
import sys, time
from bert_lamb.signals import StopRequest
stop = StopRequest()
print("{name} runs", file=sys.stderr, flush=True)
while {forever} or not stop:
    time.sleep(0.01)
print("saved", file=sys.stderr, flush=True)
sys.exit(75)
"""
COMMAND = """
import sys
from bert_lamb.run import stages
stages.STAGES = ("first_stage", "second_stage")
from bert_lamb import {command}
sys.argv = ["{command}", *sys.argv[1:]]
{command}.main()
"""


def begun(command: str, folder: Path, forever: bool = False) -> subprocess.Popen[str]:
    """The command in the middle of its first stage."""
    for name in ("first_stage", "second_stage"):
        (folder / f"{name}.py").write_text(STAGE.format(name=name, forever=forever))
    given = environment()
    given["PYTHONPATH"] += os.pathsep + str(folder)
    overrides = ["experiment=sample"] if command == "rehearse" else ["seed=0,1", f"hydra.sweep.dir={folder}/sweep"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(command=command), *overrides, f"run.root={folder}/runs"],
        env=given, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "first_stage runs" in line:
            return process
    raise AssertionError("the stage did not begin")


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["sweep", "rehearse"])
def test_the_running_stage_saves_and_nothing_more_begins(command: str, asked: signal.Signals, tmp_path: Path) -> None:
    process = begun(command, tmp_path)
    process.send_signal(asked)
    _, errors = process.communicate()
    assert process.returncode == EXIT_STOPPED, errors
    assert errors.count("saved") == 1
    assert " runs" not in errors
    assert "stopped at first_stage; run the same command again to go on" in errors
    assert "Traceback" not in errors


def test_a_second_request_ends_both_at_once(tmp_path: Path) -> None:
    process = begun("sweep", tmp_path, forever=True)
    process.send_signal(signal.SIGTERM)
    time.sleep(SAME_REQUEST_S + 0.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()  # ends when the stage, which holds the other end, has ended too
    assert process.returncode == EXIT_STOPPED
    assert "saved" not in errors


def test_a_damaged_record_of_a_trial_is_named(tmp_path: Path) -> None:
    """What a sweep wrote for a trial is read back, and may have been damaged meanwhile."""
    code = f"""
import sys
from pathlib import Path
from bert_lamb import sweep
def trial():
    folder = Path("{tmp_path}")
    (folder / "trial-000.json").write_text('{{"overrides": ["seed=0"], "folder": ')
    (folder / "trial-001.json").write_text('{{"overrides": 3, "folder": null}}')
    (folder / "trial-002.json").write_text(
        '{{"overrides": ["seed=2"], "folder": null, "failed": "a.stage", "reason": "why"}}'
    )
sweep.trial = trial
sys.argv = ["sweep", "seed=0,1,2", "hydra.sweep.dir={tmp_path}"]
sweep.main()
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for number in (0, 1):
        assert f"trial-00{number}.json is damaged: it has not the contents of such a file: run the same" in done.stdout
    assert "failed in a.stage: seed=2\n  why" in (tmp_path / "summary.md").read_text()
