"""A folder of torch's compiled code for each kind of processor.

torch's cache does not tell processors apart where there is no GPU: code that one machine compiled without AVX-512 broke
the memory of the next one, which had it ("free(): invalid pointer"), where both used one folder.
"""

import hashlib
import os
import platform
from pathlib import Path

import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir

CACHE = "TORCHINDUCTOR_CACHE_DIR"  # read by torch at each use, and inherited by ranks and compiling processes


def cache_by_processor() -> Path:
    """Names torch's cache anew: a folder of this kind of processor below the one that it would use."""
    base, own = Path(cache_dir()), f"cpu-{_processor()}"
    folder = base if base.name == own else base / own
    os.environ[CACHE] = str(folder)
    return folder


def _processor() -> str:
    """A short name of what code may use here: the instructions, as the system lists them and as torch was told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):
        features = f"{platform.machine()} {platform.processor()}"
    instructions = " ".join(sorted(features.partition(":")[2].split() or [features]))
    return hashlib.sha256(f"{instructions} {torch.backends.cpu.get_cpu_capability()}".encode()).hexdigest()[:12]
