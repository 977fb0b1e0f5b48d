"""How a command that makes a store ends before its time: asked to stop, or let down by the disk."""

import errno
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bert_lamb.errors import EXIT_STOPPED
from bert_lamb.settings import DataSettings
from data_prep.store.resume import PrepareError

log = logging.getLogger(__name__)


@contextmanager
def worded_errors(data: DataSettings) -> Iterator[None]:
    """Asked to stop, or the disk fails: one message each."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        log.info("prepare was stopped; finished shards are kept, the same command goes on")
        sys.exit(EXIT_STOPPED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise PrepareError(
                f"{error} (reading data.paths or writing below data.root={data.root}); finished shards are kept"
            ) from error
        raise PrepareError(
            f"no space left below data.root={data.root}: free some, or choose another data.root; finished "
            "shards are kept, the same command goes on"
        ) from error
