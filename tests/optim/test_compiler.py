"""A C++ compiler that is there and does not work: one warning, then the step without it, in Lamb and in pretrain."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools import environment, tiny

from bert_lamb.optim import has_compiler
from bert_lamb.planning import preflight

BROKEN = {  # what a compiler does instead of its work
    "fails": "sys.exit(1)",
    "has no Python.h": "run([a for a in sys.argv[1:] if not (a.startswith('-I') and 'python' in a.split('/')[-1])])",
    "makes what cannot be loaded": "run(sys.argv[1:]); [open(f, 'w').close() for f in sys.argv if f.endswith('.so')]",
}
STEP = """
import sys, warnings, torch
from bert_lamb.optim import Lamb
from bert_lamb.training.assembly import should_compile
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    weight = torch.nn.Parameter(torch.ones(2**22))
    weight.grad = torch.ones_like(weight)
    Lamb([weight], lr=0.1).step()
    Lamb([weight], lr=0.1).step()
    assert not should_compile("auto", torch.device("cpu"))
assert (weight < 1).all()
print("|".join(str(w.message) for w in told if "compiler" in str(w.message)))
"""


def stepped(folder: Path, **more: str) -> str:
    """What a process says that takes steps of Lamb there."""
    given = environment(TORCHINDUCTOR_CACHE_DIR=str(folder / "cache"), **more)
    done = subprocess.run([sys.executable, "-c", STEP], env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize("fault", BROKEN)
def test_a_compiler_that_does_not_work(tmp_path: Path, fault: str) -> None:
    real = shutil.which(os.environ.get("CXX") or "g++")
    script = tmp_path / "c++"
    run = f"def run(a): subprocess.run(['{real}', *a], check=True, stdin=sys.stdin)"
    script.write_text(f"#!{sys.executable}\nimport subprocess, sys\n{run}\n{BROKEN[fault]}\n")
    script.chmod(0o755)
    told = stepped(tmp_path, CXX=str(script))
    assert told.count("the C++ compiler does not work") == 1 == told.count("without it"), told


def test_no_compiler_at_all_is_no_fault(tmp_path: Path) -> None:
    """Nothing was promised: no warning."""
    assert not stepped(tmp_path, CXX="", PATH=str(tmp_path))


def test_compiling_that_was_asked_for_is_refused_in_words(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "has_compiler", lambda: False)
    (told,) = [p for p in preflight.preflight_problems(tiny(place, "hardware.compile=on")) if "compile" in p]
    assert told.startswith("hardware.compile=on")
    assert not [p for p in preflight.preflight_problems(tiny(place, "hardware.compile=auto")) if "compile" in p]
