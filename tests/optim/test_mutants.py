"""The conformance kit sees planted mistakes: one here, all of them with `make mutants`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from law_mutants import MUTANTS as LAWS
from mutants import MUTANTS, seen
from planted import ROOT, planted, project_copy


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    with project_copy() as folder:
        yield folder


def test_a_planted_mistake_turns_the_kit_red(copy: Path) -> None:
    assert seen(copy, MUTANTS["eps inside the root"], "plain.py")


@pytest.mark.parametrize("mutant", [*MUTANTS.values(), *LAWS.values()], ids=[*MUTANTS, *LAWS])
def test_every_planted_mistake_still_applies(mutant) -> None:
    """A line that was changed must be changed in the table too, and a test that was renamed."""
    assert planted(mutant, (ROOT / mutant.file).read_text())
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / "tests" / file).read_text()


def test_without_a_mistake_the_kit_is_green(copy: Path) -> None:
    assert not seen(copy, None, "plain.py")
