"""How several processes act as one: a small interface, and the two strategies behind it.

Gradients are summed, never averaged: every rank divides its losses by the global batch's own counts (law 1).
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from bert_lamb.parallel.rank import LostRankError
from bert_lamb.parallel.watch import Watch
from bert_lamb.settings import HardwareSettings

BUCKET_BYTES = 25 * 2**20  # as torch's DistributedDataParallel


@dataclass
class Single:
    """One process on one device; every exchange is the identity."""

    device: torch.device
    rank: int = 0
    ranks: int = 1

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sums p.grad over all ranks, in place."""

    def reduce_sums(self, sums: Tensor) -> Tensor:
        """The sum over all ranks of a small tensor."""
        return sums

    def barrier(self) -> None:
        """Returns when every rank has come here."""

    def close(self) -> None:
        """Ends the group."""


@dataclass
class Ddp(Single):
    """Data parallel: whole weights on every rank, gradients reduced once a step.

    Buckets are fixed runs of parameters in their own order, so that sums do not depend on how a process was started
    (torch's own wrapper reorders its buckets after the first step, which would change bits after a resume).
    """

    watch: Watch | None = None  # None: a single rank has nobody to wait for

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        bucket: list[Tensor] = []
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            bucket.append(p.grad)
            if sum(g.numel() * g.element_size() for g in bucket) >= BUCKET_BYTES:
                self._reduce(bucket)
                bucket = []
        if bucket:
            self._reduce(bucket)
        if self.device.type == "cuda":  # nccl's sums only begin above: a rank that is missing is waited for here
            with self._exchange("a sum of gradients"):
                torch.cuda.synchronize(self.device)

    def reduce_sums(self, sums: Tensor) -> Tensor:
        with self._exchange("a sum of counts"):
            dist.all_reduce(sums)
            if sums.is_cuda:  # the wait is here then and not where the sums are read
                torch.cuda.synchronize(sums.device)
        return sums

    def barrier(self) -> None:
        with self._exchange("a barrier"):
            dist.barrier()

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()
        dist.destroy_process_group()

    @contextmanager
    def _exchange(self, what: str) -> Iterator[None]:
        if self.watch is None:
            yield
        else:
            with self.watch.exchange(what):
                yield

    def _reduce(self, bucket: list[Tensor]) -> None:
        flat = torch.cat([g.flatten() for g in bucket])
        with self._exchange("a sum of gradients"):
            dist.all_reduce(flat)
        for g, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            g.copy_(part.view_as(g))


def use_cuda(hardware: HardwareSettings) -> bool:
    """Whether these settings mean GPUs on this machine."""
    return hardware.device == "cuda" or (hardware.device == "auto" and torch.cuda.is_available())


def run_device(hardware: HardwareSettings) -> torch.device:
    """The kind of device that these settings mean on this machine; torch's current GPU where it is one."""
    return torch.device("cuda" if use_cuda(hardware) else "cpu")


def device_count(hardware: HardwareSettings) -> int:
    """Processes that the settings ask for on this machine, one a device."""
    if hardware.devices:
        return hardware.devices
    return max(1, torch.cuda.device_count()) if use_cuda(hardware) and hardware.strategy != "single" else 1


def open_strategy(hardware: HardwareSettings, stacks: Path) -> Single:
    """The strategy of this process: `ddp` where a launcher started several, else `single`.

    Where a rank has to be waited for longer than `hardware.timeout_s`, all write down in the folder `stacks` where they
    stand, and end.
    """
    ranks, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if use_cuda(hardware) else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if ranks == 1 and hardware.strategy != "ddp":
        return Single(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" not in os.environ:  # one process asked for as ddp: a group of its own
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return Ddp(device)
    rank = int(os.environ["RANK"])
    timeout = timedelta(seconds=2 * hardware.timeout_s)  # torch's own, which names nobody, comes after ours
    try:
        dist.init_process_group(backend, timeout=timeout)
    except RuntimeError as error:
        raise LostRankError(
            f"rank {rank} of {ranks} on {socket.gethostname()} did not meet the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} ({str(error).splitlines()[0]})"
        ) from error
    return Ddp(device, rank, ranks, Watch(rank, ranks, hardware.timeout_s, stacks) if ranks > 1 else None)
