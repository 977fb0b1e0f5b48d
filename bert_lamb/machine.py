"""What a result ran on: host, devices, versions, commit."""

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pyarrow", "safetensors", "hydra-core")


def machine_record(device: torch.device, ranks: int) -> dict[str, Any]:
    """A plain record for machine.json."""
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": device_name(device),
        "ranks": ranks,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),  # of these threads; None: the runtime's own, they spin
        "versions": {library: _version(library) for library in LIBRARIES},
        **_commit(),
    }


def device_name(device: torch.device) -> str:
    """The GPU's or the CPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def measured_on(machine: dict[str, Any]) -> str:
    """The record in the words of a results page."""
    versions = machine["versions"]
    return (
        f"commit {machine['commit']}{', changed' if machine['dirty'] else ''}; {machine['device']}, "
        f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}, torch {versions['torch']}, "
        f"transformers {versions['transformers']}"
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """The checkout's commit and whether it was changed; nothing where the package is installed without one."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != Path(__file__).parents[1]:
            return {"commit": None, "dirty": None}  # installed inside another project's checkout
        # from the root: pages of results are written by what is measured, and change nothing of it
        changed = git("status", "--porcelain", "--", ":/", ":(top,exclude)docs/results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
