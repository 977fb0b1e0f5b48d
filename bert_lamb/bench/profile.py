"""Where the time of a step goes, by operator: `make bench ARGS='--profile'` adds it to the page."""

from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

LINES = 16


def name_generated_kernels() -> None:
    """Lets the compiler's CPU kernels tell their names; before anything is compiled."""
    torch._inductor.config.cpp.enable_kernel_profile = True


def shares(work: Callable[[], object], device: torch.device) -> list[tuple[str, float, int]]:
    """Operators of `work` by their own time, largest first: name, share of all, calls."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        work()
    events = found.key_averages()
    if on_gpu:  # an operator's device time is that of its kernels, which are events of their own
        kernels = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
        times = [(kernel.key, kernel.self_device_time_total, kernel.count) for kernel in kernels]
    else:
        times = [(event.key, event.self_cpu_time_total, event.count) for event in events]
    total = sum(time for _, time, _ in times)
    return sorted(((name, time / total, count) for name, time, count in times), key=lambda row: -row[1])


def table(rows: list[tuple[str, float, int]]) -> list[str]:
    """Markdown lines: the largest, and the rest as one."""
    lines = ["| operator | share | calls |", "|---|---|---|"]
    lines += [f"| `{name[:90]}` | {100 * share:.1f}% | {count:,} |" for name, share, count in rows[:LINES]]
    rest = rows[LINES:]
    return [*lines, f"| {len(rest)} others | {100 * sum(r[1] for r in rest):.1f}% | {sum(r[2] for r in rest):,} |"]
