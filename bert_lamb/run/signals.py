"""Asked to stop: SIGTERM and SIGINT set a flag that the loop reads between steps, so that it can save first."""

import signal
import time

SAME_REQUEST_S = 2.0  # launchers and schedulers pass one signal on by several ways


class StopRequest:
    """True once the process was asked to stop; asked again some seconds later it ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._first_s = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def __bool__(self) -> bool:
        return self.received is not None

    def _receive(self, number: int, _frame: object) -> None:
        now_s = time.monotonic()
        if self.received is not None and now_s - self._first_s > SAME_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self.received is None:
            self.received, self._first_s = number, now_s
