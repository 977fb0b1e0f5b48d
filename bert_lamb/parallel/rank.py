"""A rank's side of its start and its end: it dies with its command, and of several that fail one tells why."""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from torch.distributed import Store, TCPStore

from bert_lamb.errors import EXIT_FAILED, EXIT_USAGE, UserError, message_for_people
from bert_lamb.locks import sole_use
from bert_lamb.signals import StopRequest

COMMAND_PIPE = "BERT_LAMB_COMMAND_PIPE"  # the descriptor whose other end only the command holds
TOLD = "told"  # how many ranks came to tell of a failure
STORE_S = 30  # seconds that the store may take to answer
LOST_S = 5.0  # that a rank waits which only lost another one: that one, or the command, knows more
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl


class LostRankError(UserError):
    """An exchange broke off, which is what the ranks see that did not fail themselves."""


def is_rank() -> bool:
    """Whether a launcher started this process as one of several: ours, torchrun, or another that sets these."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def run_rank(program: Callable[[], None]) -> None:
    """The whole life of a rank's process. A failure is told once, by whichever rank comes first; all exit alike."""
    StopRequest()  # first, since signals may have come before this process had a handler
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _die_with_command()
    try:
        program()
    except Exception as error:
        message = message_for_people(error)
        if isinstance(error, LostRankError):
            time.sleep(LOST_S)
        if _may_tell():
            rank = f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} on {socket.gethostname()}"
            if message is None:
                print(f"error: {rank} failed\n{traceback.format_exc()}", end="", file=sys.stderr)
            else:
                print(f"error: {message}", file=sys.stderr)
        leave(EXIT_FAILED if message is None or isinstance(error, LostRankError) else EXIT_USAGE)


def leave(code: int) -> None:
    """Ends the process here: whatever it still waits for, another rank's answer above all, would keep it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def meeting_store() -> TCPStore:
    """A connection of its own to the store where the ranks meet."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=STORE_S))


def store_key(name: str) -> str:
    """A key of this start of the ranks: torchrun's store outlives a restart."""
    return f"bert_lamb/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}"


def claim_telling(store: Store) -> bool:
    """Whether nobody has told of a failure yet; from now on somebody has."""
    return store.add(store_key(TOLD), 1) == 1


@contextmanager
def held_by_rank(folder: Path) -> Iterator[None]:
    """Rank 0 keeps the folder to this run where another launcher started it; our command holds it already."""
    if COMMAND_PIPE in os.environ or os.environ["RANK"] != "0":
        yield
    else:
        with sole_use(folder, "end it first, or choose another run.name"):
            yield


def _may_tell() -> bool:
    try:
        return claim_telling(meeting_store())
    except (RuntimeError, OSError, KeyError, ValueError):
        return True  # better twice than not at all


def _die_with_command() -> None:
    """However the command ends, kill -9 included, this process ends too, so that none trains on beside the next one."""
    pipe = os.environ.get(COMMAND_PIPE)
    if pipe is None:  # another launcher has its own ways
        return
    if sys.platform == "linux":  # also of use to a process that is stopped, or holds the interpreter
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    threading.Thread(target=_wait_for_end, args=(int(pipe),), name="command", daemon=True).start()


def _wait_for_end(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)
