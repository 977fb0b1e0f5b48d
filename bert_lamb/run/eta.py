"""The time that a phase will still take."""

from statistics import median_low

KEPT = 20  # lines of the log whose rates are remembered


class TimeLeft:
    """From the steps between lines of the log. The first line's are left out, since the compiler works in them.

    The middle one of the recent rates counts, the lower of two: the compilation of a second shape, a checkpoint or a
    pause moves it little.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._last: tuple[int, float] | None = None  # step and clock of the line before
        self._seconds_a_step: list[float] = []

    def after(self, step: int, now_s: float) -> float | None:
        """Seconds left after a line; None until a third one shows how fast it goes."""
        if self._last is not None and step > self._last[0]:  # not after a roll-back
            rate = (now_s - self._last[1]) / (step - self._last[0])
            self._seconds_a_step = [*self._seconds_a_step, rate][-KEPT:]
        self._last = step, now_s
        if len(self._seconds_a_step) < 2:
            return None
        return median_low(self._seconds_a_step) * (self._steps - step)
