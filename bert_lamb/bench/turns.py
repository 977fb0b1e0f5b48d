"""Contenders of a benchmark, their turns, and the end of a turn that takes too long on this machine."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Contender:
    """One way to train, and the seconds of its counted steps."""

    name: str
    run: Any  # object with run(steps) -> seconds of each step
    takes_padded: bool
    seconds: list[float] = field(default_factory=list)
    warm_up_s: float = 0.0  # first turn: compilation and first allocations
    given_up_s: float | None = None  # a turn was ended after so many seconds; it gets no further one

    def turn(self, number: int, given: list[Any], limit_s: float) -> list[float]:
        """Runs the steps of a turn and keeps their seconds; [] where they took longer than `limit_s`."""
        began_s = time.perf_counter()
        try:
            seconds = self.run.run(InTime(given, began_s + limit_s))
        except TooSlowError:
            self.given_up_s, self.seconds = limit_s, []
            return []
        if number == 0:
            self.warm_up_s = time.perf_counter() - began_s
        else:
            self.seconds += seconds[1:]  # the first step of a turn is not counted
        return seconds


class TooSlowError(Exception):
    """A turn has used up its time."""


class InTime(list):
    """What a turn works through, one item a step; asking for another after `deadline_s` raises TooSlowError.

    Between steps only: an exception in the middle of a compilation would leave torch's own state half changed.
    """

    def __init__(self, items: list[Any], deadline_s: float) -> None:
        super().__init__(items)
        self._deadline_s = deadline_s

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            if time.perf_counter() > self._deadline_s:
                raise TooSlowError
            yield item
