"""Numbers and durations as people read them. Imports nothing of ours."""

from collections.abc import Sequence
from typing import Any


def duration(seconds: float) -> str:
    """ "1 h 05 min", "3 min 20 s", "7 s"."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 60} min {s % 60:02d} s" if s >= 60 else f"{s} s"


def rate_words(phases: Sequence[dict[str, Any]]) -> str:
    """The rates that a plan's hours are computed from, as plan.json holds them."""
    rates = dict.fromkeys((f"{p['tflops']:.3g} TFLOP/s a device", p["tflops_from"]) for p in phases)
    return "; ".join(f"{rate} ({source})" for rate, source in rates)
