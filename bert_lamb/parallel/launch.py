"""Starting one process a device with torchrun, from inside the command."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil


def inside_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def start_ranks(module: str, folder: Path, ranks: int) -> int:
    """Runs `python -m module folder` as `ranks` processes of this machine and waits; returns the exit code.

    SIGTERM and SIGINT go to the ranks themselves, which save and end well; torchrun would call that a failure.
    """
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1",
        f"--nproc-per-node={ranks}", "--module", module, str(folder),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(_threads_each(ranks)))}
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # Ctrl-C comes here alone

    def pass_on(number: int, _frame: object) -> None:
        launcher = psutil.Process(process.pid)
        for receiver in launcher.children() or [launcher]:
            receiver.send_signal(number)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, pass_on)
    return process.wait()


def _threads_each(ranks: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // ranks) if hasattr(os, "sched_getaffinity") else 1
