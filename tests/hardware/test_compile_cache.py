"""Compiled code of one kind of processor is never loaded by another one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools import environment

from bert_lamb.hardware import cache_by_processor, compile_cache
from bert_lamb.optim import has_compiler

PROGRAM = """
import torch
from bert_lamb.hardware import cache_by_processor
from bert_lamb.model.dropout import dropped
cache_by_processor()
x, keys = torch.randn(61, 45), torch.arange(61)
function = lambda x: dropped(x * 1.0, keys, 3, 0.1)
assert torch.equal(torch.compile(function, dynamic=False)(x), function(x))
"""


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_code_of_fewer_instructions_is_compiled_anew(tmp_path: Path) -> None:
    """Once with AVX-512 masked (on a machine without it both are one kind), then as the machine is: one folder ended
    with "free(): invalid pointer"."""
    for mask in ({"ATEN_CPU_CAPABILITY": "avx2"}, {}):
        given = environment(TORCHINDUCTOR_CACHE_DIR=str(tmp_path), **mask)
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert all(path.name.startswith("cpu-") for path in tmp_path.iterdir())


def test_a_name_is_added_once_and_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compile_cache.CACHE, str(tmp_path))
    first = cache_by_processor()
    assert first.parent == tmp_path
    assert os.environ[compile_cache.CACHE] == str(first)
    assert cache_by_processor() == first


def test_another_processor_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for flags in ("flags : fpu avx2", "flags : avx2 fpu", "flags : fpu avx2 avx512f", "Features : fp asimd"):
        monkeypatch.setenv(compile_cache.CACHE, str(tmp_path))
        monkeypatch.setattr(Path, "read_text", lambda _, flags=flags: f"processor : 0\n{flags}\n")
        folders.add(cache_by_processor())
    assert len(folders) == 3, "the order of a list is no difference"
