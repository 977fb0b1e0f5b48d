"""What is recorded of a checkout."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from bert_lamb import machine


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose package holds machine.py, seen as the one that runs."""
    package = tmp_path / "bert_lamb"
    package.mkdir()
    shutil.copy(machine.__file__, package / "machine.py")
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "page.md").write_text("figures\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    return tmp_path


def record() -> tuple[str, bool]:
    found = machine.machine_record(torch.device("cpu"), 1)
    return found["commit"], found["dirty"]


def test_a_changed_checkout_is_told_but_for_results(checkout: Path) -> None:
    """What a benchmark writes to docs/results while it runs is no change of what it measures."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    assert record() == (commit.stdout.strip(), False)
    (checkout / "docs" / "results" / "page.md").write_text("other figures\n")
    (checkout / "docs" / "results" / "new.md").write_text("more\n")
    assert not record()[1]
    (checkout / "docs" / "new.md").write_text("text\n")
    assert record()[1]


def test_inside_another_checkout_nothing_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = checkout / "inner" / "bert_lamb"
    inner.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(inner / "machine.py"))
    assert record() == (None, None)
