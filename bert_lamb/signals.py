"""Asked to stop: a signal sets a flag that the loop reads between steps, so that it can save first."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from bert_lamb.errors import EXIT_STOPPED

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # as schedulers send them
SAME_REQUEST_S = 2.0  # launchers and schedulers pass one signal on by several ways


def on_stop_signals(receive: Callable[[int, FrameType | None], None]) -> None:
    """Hands every signal that asks a process to stop to `receive`; SIGHUP that is ignored, as under nohup, stays so.

    Signals that came before, while this process was started under `held_back`, are received now.
    """
    for number in STOP_SIGNALS:
        if not (number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, receive)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that ask to stop wait; also in a process that is started within, until it has a handler for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """True once the process was asked to stop; asked again some seconds later it ends at once, with the same code.

    Each takes the place of the one before, and knows what that one received.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._first_s = 0.0
        before = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        on_stop_signals(self._receive)
        if isinstance(before, StopRequest) and self.received is None:
            self.received, self._first_s = before.received, before._first_s

    def __bool__(self) -> bool:
        return self.received is not None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self.received is None:
            self.received, self._first_s = number, now_s
        elif now_s - self._first_s > SAME_REQUEST_S:
            os._exit(EXIT_STOPPED)  # files appear whole or not at all, so ending anywhere is safe
