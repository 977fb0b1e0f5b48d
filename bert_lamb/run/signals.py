"""Asked to stop: SIGTERM and SIGINT set a flag that the loop reads between steps, so that it can save first."""

import signal

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


class StopRequest:
    """True once the process was asked to stop; a second signal ends it at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def __bool__(self) -> bool:
        return self.received is not None

    def _receive(self, number: int, _frame: object) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number
