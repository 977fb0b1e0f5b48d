"""The `bert-lamb` command: every stage by its name, and what a misspelt one is answered with."""

import importlib
import importlib.util
import re
import subprocess
import sys

import pytest
from tools import ROOT, environment

from bert_lamb.settings.help import STAGES


def bert_lamb(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bert_lamb.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_a_module_with_a_make_target(name: str) -> None:
    assert importlib.util.find_spec(STAGES[name].module)
    target = {"report-data": "data-report"}.get(name, name)
    assert re.search(rf"^{target}: install ## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_command_is_a_stage() -> None:
    """A module of the root that is a command is reachable by name."""
    found = [p for folder in ("bert_lamb", "data_prep") for p in (ROOT / folder).glob("*.py")]
    commands = {f"{p.parent.name}.{p.stem}" for p in found if '__name__ == "__main__"' in p.read_text()}
    internal = {"bert_lamb.cli", "data_prep.begin"}  # the first job of an array, started by launch/
    assert commands - internal == {stage.module for stage in STAGES.values()}


def test_without_a_stage_it_lists_them() -> None:
    for arguments in ((), ("--help",)):
        done = bert_lamb(*arguments)
        assert done.returncode == 0
        assert all(f"  {name} " in done.stdout for name in STAGES)


def test_an_unknown_stage_names_the_nearest() -> None:
    done = bert_lamb("pretrian", "seed=1")
    assert done.returncode == 2
    assert done.stderr == "error: unknown stage 'pretrian'; did you mean pretrain?\n"


def test_a_stage_takes_settings_as_python_m_does() -> None:
    done = bert_lamb("plan", "phase1.steps=120", "experiment=sample")
    assert done.returncode == 0, done.stderr
    assert "phase 1: 120 steps" in done.stdout
    done = bert_lamb("plan", "phase1.step=120")
    assert done.returncode == 2
    assert "did you mean phase1.steps" in done.stderr


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "report", "plan"])
@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_hydra_s_multirun_points_to_the_sweep(
    stage: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [stage, flag, "seed=0,1"])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"bert_lamb.{stage}").main()
    assert "`bert-lamb sweep`" in capsys.readouterr().err
