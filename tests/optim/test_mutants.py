"""The conformance kit sees planted mistakes: three here, all of them with `make mutants`."""

import pytest
from mutants import MUTANTS, planted, turns_red


@pytest.mark.parametrize("name", ["eps inside the root", "ratio inverted", "correction one step late"])
def test_a_planted_mistake_turns_the_kit_red(name: str) -> None:
    assert turns_red(MUTANTS[name].file, MUTANTS[name])


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_mistake_still_applies(name: str) -> None:
    assert planted(MUTANTS[name])


def test_without_a_mistake_the_kit_is_green() -> None:
    assert not turns_red("plain.py")
