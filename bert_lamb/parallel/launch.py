"""Starting one process a device with torchrun, from inside the command."""

import os
import signal
import subprocess
import sys
from pathlib import Path


def inside_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def start_ranks(module: str, folder: Path, ranks: int) -> int:
    """Runs `python -m module folder` as `ranks` processes of this machine and waits; returns the exit code.

    SIGTERM and SIGINT are passed on, so that ranks can save before they go.
    """
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1",
        f"--nproc-per-node={ranks}", "--module", module, str(folder),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(_threads_each(ranks)))}
    process = subprocess.Popen(command, env=environment)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, _: process.send_signal(number))
    return process.wait()


def _threads_each(ranks: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // ranks) if hasattr(os, "sched_getaffinity") else 1
