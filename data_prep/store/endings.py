"""How a command that makes a store ends before its time: asked to stop, or let down by the disk."""

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bert_lamb.errors import EXIT_STOPPED
from bert_lamb.settings import DataSettings
from bert_lamb.signals import StopRequest
from data_prep.store.resume import PrepareError

log = logging.getLogger(__name__)


class StopOnce(StopRequest):
    """KeyboardInterrupt at the first request to stop. What comes with it is the same; a later one ends the process."""

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first = not self
        super()._receive(number, frame)
        if first:
            raise KeyboardInterrupt


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
