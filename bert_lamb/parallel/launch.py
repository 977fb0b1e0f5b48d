"""One process a device, started and watched by the command itself.

Each process is told its place by variables that torch reads: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
The command serves the store at that address, where the ranks meet. It ends when they have ended, and they end with it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from torch.distributed import TCPStore

from bert_lamb.errors import EXIT_FAILED, EXIT_STOPPED
from bert_lamb.parallel.rank import COMMAND_PIPE, claim_telling
from bert_lamb.signals import StopRequest, held_back

LOOK_S = 0.2  # seconds between two looks at the processes
OTHERS_S = 10.0  # that the other ranks have to end by themselves once one has failed


def start_ranks(module: str, folder: Path, ranks: int, keep: Sequence[int] = ()) -> int:
    """Runs `python -m module folder` as `ranks` processes of this machine and waits; returns the exit code.

    Signals that ask to stop go on to the ranks, which save and end well. `keep` are descriptors of a lock, which the
    ranks hold too: it is free when the last of them is gone. A rank that fails ends the others; it tells why itself,
    unless it was killed.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    reading, writing = os.pipe()  # the end that is never written to closes with this process, however that dies
    common = os.environ | {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # torch's word for: rank 0 serves no store, there is one
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(_threads_each(ranks))),
        COMMAND_PIPE: str(reading),
    }
    stop = StopRanks()
    processes = stop.processes
    try:
        with held_back():
            for rank in range(ranks):
                process = subprocess.Popen(
                    [sys.executable, "-m", module, str(folder)],
                    env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    pass_fds=(reading, *keep),
                    start_new_session=True,  # Ctrl-C and Ctrl-Z come here alone, and go on to them once
                )
                stop.add(process)
        os.close(reading)
        failed = _first_failure(processes)
        if failed is None:
            return EXIT_STOPPED if any(p.returncode == EXIT_STOPPED for p in processes) else 0
        return _tell(failed, processes[failed], ranks, store)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        os.close(writing)


class StopRanks(StopRequest):
    """Asked to stop, the ranks are asked too. Asked again some seconds later the command ends, and they with it, even
    one that waits for a hung one and runs no handler. Suspended by Ctrl-Z, it suspends them, until it goes on."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen] = []
        super().__init__()
        signal.signal(signal.SIGTSTP, self._suspend)

    def add(self, process: subprocess.Popen) -> None:
        """One more rank; it is told what the others were told before it was there."""
        self.processes.append(process)
        if self.received is not None:
            process.send_signal(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._send(number)
        super()._receive(number, frame)

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # here it stands until SIGCONT, which the shell's fg and bg send
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        for process in self.processes:
            process.send_signal(number)


def _first_failure(processes: Sequence[subprocess.Popen]) -> int | None:
    """Waits for all; the rank that failed first, if one did. The others get some seconds to end by themselves: one of
    them may be telling why."""
    failed, deadline_s = None, float("inf")
    while any(p.poll() is None for p in processes) and time.monotonic() < deadline_s:
        if failed is None:
            failed = _failed(processes)
            deadline_s = float("inf") if failed is None else time.monotonic() + OTHERS_S
            if failed is not None and processes[failed].returncode < 0:
                return failed  # it was killed: the others can only wait for it
        time.sleep(LOOK_S)
    return _failed(processes) if failed is None else failed


def _failed(processes: Sequence[subprocess.Popen]) -> int | None:
    """The first rank that has ended badly; one that was killed before others, which only lost it."""
    ended = [(rank, p.returncode) for rank, p in enumerate(processes) if p.poll() not in (None, 0, EXIT_STOPPED)]
    return min(ended, key=lambda e: (e[1] >= 0, e[0]))[0] if ended else None


def _tell(rank: int, process: subprocess.Popen, ranks: int, store: TCPStore) -> int:
    code = process.returncode
    if claim_telling(store):
        how = f"was killed by {_name(-code)}" if code < 0 else f"ended with code {code} and no message"
        memory = "; the system kills so when memory runs out (see dmesg)" if code == -signal.SIGKILL else ""
        print(
            f"error: rank {rank} of {ranks} (process {process.pid}) {how}{memory}. The others were ended; the same "
            "command goes on from the last checkpoint",
            file=sys.stderr,
        )
    return code if code > 0 else EXIT_FAILED


def _name(number: int) -> str:
    """ "SIGKILL"; signals of real time have no name."""
    return signal.Signals(number).name if number in [*signal.Signals] else f"signal {number}"


def _threads_each(ranks: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // ranks) if hasattr(os, "sched_getaffinity") else 1
