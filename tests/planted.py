"""Planted mistakes: each is put into a copy of the project, and the tests that hold its law must turn red."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 1200  # of one run of tests
A_TEST_S = 120  # of one test: a mistake that makes one hang is seen too


class Mutant(NamedTuple):
    """A mistake in a file, and the tests that see it."""

    file: str  # below the project's root
    right: str  # occurs once in the file
    wrong: str
    tests: tuple[str, ...]  # below tests/, as pytest names them


def planted(mutant: Mutant, text: str) -> str:
    """The text of the mutant's file with the mistake. ValueError where the right text is gone or stands twice."""
    if text.count(mutant.right) != 1:
        raise ValueError(f"{mutant.file} holds {mutant.right!r} {text.count(mutant.right)} times: change the table")
    return text.replace(mutant.right, mutant.wrong)


@contextmanager
def project_copy() -> Iterator[Path]:
    """A copy of the project for mistakes to be put into."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in ("bert_lamb", "tests", "data_prep", "conf", "pyproject.toml", "README.md"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        yield copy


def turns_red(
    copy: Path, tests: Sequence[str], mutant: Mutant | None = None, environment: Mapping[str, str] = os.environ
) -> bool:
    """Whether these tests fail in the copy with this mistake, or with none. RuntimeError where they do not run."""
    file = copy / mutant.file if mutant is not None else None
    text = file.read_text() if file is not None else ""
    if file is not None and mutant is not None:
        file.write_text(planted(mutant, text))
    path = os.pathsep.join(filter(None, [str(copy), environment.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
             f"--timeout={A_TEST_S}", *(f"tests/{test}" for test in tests)],
            cwd=copy, env={**environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    finally:
        if file is not None:
            file.write_text(text)
    if done.returncode not in (0, 1):  # of pytest: all passed; some failed
        raise RuntimeError(f"the tests did not run:\n{done.stdout}{done.stderr}")
    return done.returncode == 1


def report(found: Iterator[tuple[str, bool]]) -> int:
    """Prints whether each mistake was seen; the exit status."""
    survivors, count = 0, 0
    for name, red in found:
        print(f"{'red     ' if red else 'SURVIVES'}  {name}", flush=True)
        survivors, count = survivors + (not red), count + 1
    print(f"{count - survivors} of {count} planted mistakes turn their tests red")
    return int(survivors > 0)
