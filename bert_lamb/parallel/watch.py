"""A rank that hangs: noticed by those that wait for it, named, and ended with all the others.

Each rank has a thread that tells the others, in the store where they met, how many exchanges it has begun and where its
program stands. A rank that has waited in one exchange for `hardware.timeout_s` reads what the others told: it waits for
those that have begun fewer.
"""

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.distributed import DistBackendError, TCPStore

from bert_lamb.errors import EXIT_FAILED
from bert_lamb.jsonfiles import parse_json
from bert_lamb.parallel.rank import LostRankError, claim_telling, leave, meeting_store, store_key

MOST_LOOK_S = 5.0  # seconds between two looks of the thread, at most
LOOKS = 20  # in hardware.timeout_s, at least
DUMP_LOOKS = 3  # that the ranks get to write down their stacks, and the process then gets to end by itself
DUMP = "dump"  # key of the store: every rank that sees it writes down its stacks
PACKAGE = str(Path(__file__).parents[1])


class Watch:
    """Counts this rank's exchanges, and tells and asks how the others stand. Timed in seconds."""

    def __init__(self, rank: int, ranks: int, timeout_s: float, stacks: Path) -> None:
        self._rank, self._ranks, self._timeout_s, self._stacks = rank, ranks, timeout_s, stacks
        self._look_s = min(MOST_LOOK_S, timeout_s / LOOKS)
        self._begun = 0  # exchanges
        self._waiting: tuple[str, int] | None = None  # in which exchange, and its number
        self._looked_at: tuple[str, int] | None = None  # the same at the last look
        self._looks = 0
        self._waited_s, self._last_look_s = 0.0, time.monotonic()  # in the exchange at hand, up to the last look
        self._ended = threading.Event()
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._run, args=(meeting_store(),), name="watch", daemon=True)
        self._thread.start()

    @contextmanager
    def exchange(self, what: str) -> Iterator[None]:
        """One exchange that every rank takes part in; LostRankError where it breaks off."""
        self._begun += 1
        self._waiting = what, self._begun
        try:
            yield
        except RuntimeError as error:
            if _is_own(error):
                raise
            raise LostRankError(
                f"rank {self._rank} of {self._ranks} on {socket.gethostname()} lost another rank in {what} "
                f"({str(error).splitlines()[0]}): see the output of the other ranks"
            ) from error
        self._waiting = None

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self, store: TCPStore) -> None:
        try:
            store.set(_key(self._rank), json.dumps(self._place()))
            while not self._ended.wait(self._look_s):
                self._looks += 1
                store.set(_key(self._rank), json.dumps(self._place()))
                if store.check([store_key(DUMP)]):
                    return self._end()
                waiting = self._waiting
                if waiting and self._has_waited_s(waiting) > self._timeout_s:
                    self._hung(store, *waiting)
        except RuntimeError:
            return  # the store is gone with whoever served it, and that one's end is told elsewhere

    def _has_waited_s(self, waiting: tuple[str, int]) -> float:
        """Seconds in this exchange, by looks: a process that was suspended has not waited meanwhile."""
        now_s = time.monotonic()
        passed_s = min(now_s - self._last_look_s, 2 * self._look_s)
        self._waited_s = self._waited_s + passed_s if waiting == self._looked_at else 0.0
        self._looked_at, self._last_look_s = waiting, now_s
        return self._waited_s

    def _hung(self, store: TCPStore, what: str, begun: int) -> None:
        """Names who is missing. The others are asked for their stacks first."""
        if not claim_telling(store):
            return
        before: list[dict[str, Any]] = [{}] * self._ranks
        after = before
        try:
            before = after = [_read(store, rank) for rank in range(self._ranks)]
            for old in self._stacks.glob("rank-*.txt"):  # of an earlier time
                old.unlink(missing_ok=True)
            store.set(store_key(DUMP), "1")
            self._dump()
            time.sleep(DUMP_LOOKS * self._look_s)
            after = [_read(store, rank) for rank in range(self._ranks)]
        except (RuntimeError, OSError):
            pass  # the store is gone, or the disk: what is known already is told, since nobody else will
        print(f"error: {self._message(what, begun, before, after)}", file=sys.stderr)
        leave(EXIT_FAILED)

    def _message(self, what: str, begun: int, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str:
        behind = [rank for rank, place in enumerate(before) if place.get("begun", 0) < begun]
        names = [
            f"rank {rank} of {self._ranks} ({_where(before[rank])}"
            + ("; its process does not answer)" if after[rank].get("looks") == before[rank].get("looks") else ")")
            for rank in behind
        ]
        who = ", ".join(names) if names else "the network: every rank has come to the same exchange"
        return (
            f"for {self._timeout_s:g} s (hardware.timeout_s) rank {self._rank} has waited in {what} for {who}. "
            f"Where all ranks stand: {self._stacks}. Every rank was ended; the same command goes on from the last "
            "checkpoint"
        )

    def _place(self) -> dict[str, Any]:
        return {
            "begun": self._begun,
            "looks": self._looks,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "at": _ours(sys._current_frames().get(self._main or 0)),
        }

    def _end(self) -> None:
        """Another rank has found that one hangs: writes down the stacks, and ends."""
        self._dump()
        time.sleep(2 * DUMP_LOOKS * self._look_s)
        leave(EXIT_FAILED)

    def _dump(self) -> None:
        try:
            self._stacks.mkdir(parents=True, exist_ok=True)
            with (self._stacks / f"rank-{self._rank}.txt").open("w") as file:
                file.write(f"rank {self._rank} of {self._ranks}, {socket.gethostname()}, process {os.getpid()}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            print(f"rank {self._rank} cannot write its stacks: {error}", file=sys.stderr)


def _ours(frame: FrameType | None) -> str:
    """The innermost line of this package that a thread is in."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE) and frame.f_code.co_filename != __file__:
            path = Path(frame.f_code.co_filename).relative_to(Path(PACKAGE).parent)
            return f"{path}:{frame.f_lineno}, in {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside of bert_lamb"


def _where(place: dict[str, Any]) -> str:
    if not place:
        return "not heard of since it started"
    return f"process {place['process']} of {place['host']}, at {place['at']}"


def _is_own(error: RuntimeError) -> bool:
    """Whether this rank's device failed. What torch's communication raises means another rank, whatever it says."""
    if isinstance(error, DistBackendError):
        return False
    return isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError) or "CUDA error" in str(error)


def _read(store: TCPStore, rank: int) -> dict[str, Any]:
    key = _key(rank)
    return parse_json(store.get(key)) if store.check([key]) else {}


def _key(rank: int) -> str:
    return store_key(f"place/{rank}")
