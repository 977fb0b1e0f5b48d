"""Contenders of a benchmark, their turns, and the end of a turn that takes too long on this machine."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    def turn(self, number: int, work: Callable[[], list[float]], limit_s: float) -> list[float]:
        """Runs `work`, the steps of a turn, and keeps their seconds; [] where it was ended after `limit_s`."""
        began_s = time.perf_counter()
        with time_limit(limit_s) as limit:
            seconds = work()
        if limit.reached:
            self.given_up_s, self.seconds = limit_s, []
            return []
        if number == 0:
            self.warm_up_s = time.perf_counter() - began_s
        else:
            self.seconds += seconds[1:]  # the first step of a turn is not counted
        return seconds


class TooSlowError(Exception):
    """Raised inside of work that has used up its time."""


@dataclass
class Limit:
    """Whether the time of some work was up before it ended."""

    reached: bool = False


@contextmanager
def time_limit(seconds: float) -> Iterator[Limit]:
    """Ends the block after so many seconds, as soon as torch comes back from the operation that it is in.

    Any exception that follows from that counts as the end: the compiler wraps what is raised inside of it in its own.
    """
    limit = Limit()

    def late(_number: int, _frame: object) -> None:
        limit.reached = True
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield limit
    except Exception:
        if not limit.reached:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
