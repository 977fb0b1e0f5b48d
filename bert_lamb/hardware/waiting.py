"""How threads wait for each other on a CPU that other programs use too.

A step is hundreds of parallel regions. A thread that is done with its part spins for the others: best on an idle
machine, ruinous where one of the others stands still because another program has its core.
"""

import os
import sys

import psutil
import torch

POLICY = "OMP_WAIT_POLICY"  # OpenMP's own: every runtime reads it, once, when it is loaded
CHOSEN_BY_USER = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
LOOK_S = 0.3  # seconds that this process looks on
BUSY_CORES = 0.5  # taken by others, from which on the machine counts as busy; ours
IDLE = 10  # percent of a core: what the system itself does on each of many cores makes no machine busy


def taken_by_others() -> float:
    """Cores' worth of work of other programs just now, on the cores that this process may use."""
    busy = psutil.cpu_percent(LOOK_S, percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
    return sum(share for core, share in enumerate(busy) if core in mine and share > IDLE) / 100


def wait_passively_if_busy() -> None:
    """Starts this very command anew with passive waiting where other programs use its cores; says so in one line.

    A command's first act, before it holds anything. Nothing happens where a GPU does the work, where there is one
    thread, or where the user has set one of the variables that decide it.
    """
    if torch.cuda.is_available() or torch.get_num_threads() == 1 or any(name in os.environ for name in CHOSEN_BY_USER):
        return
    others = taken_by_others()
    if others < BUSY_CORES:
        return
    print(
        f"other programs take {others:.1f} of this machine's cores: threads wait without spinning "
        f"({POLICY}=passive; set {POLICY}=active to have them spin)",
        file=sys.stderr,
        flush=True,
    )
    sys.stdout.flush()
    os.environ[POLICY] = "passive"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
