"""How a command that makes a store ends before its time: asked to stop, or let down by the disk."""

import errno
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bert_lamb.errors import EXIT_STOPPED
from bert_lamb.settings import DataSettings
from data_prep.store.resume import PrepareError

log = logging.getLogger(__name__)
SAME_REQUEST_S = 2.0  # a request to stop may arrive by several ways, as in bert_lamb/run/signals.py


class StopOnce:
    """KeyboardInterrupt at the first SIGTERM or SIGINT. What follows at once is the same request; a later one kills."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: object) -> None:
        now_s = time.monotonic()
        if self._first_s is None:
            self._first_s = now_s
            raise KeyboardInterrupt
        if now_s - self._first_s > SAME_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def worded_errors(data: DataSettings) -> Iterator[None]:
    """Asked to stop, or the disk fails: one message each."""
    StopOnce()
    try:
        yield
    except KeyboardInterrupt:
        log.info("prepare was stopped; finished shards are kept: run the same command again to go on")
        sys.exit(EXIT_STOPPED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise PrepareError(
                f"{error} (reading data.paths or writing below data.root={data.root}); finished shards are kept"
            ) from error
        raise PrepareError(
            f"no space left below data.root={data.root}: free some, or choose another data.root. Finished shards are "
            "kept; the same command then goes on"
        ) from error
