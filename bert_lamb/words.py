"""Numbers and durations as people read them. Imports nothing of ours."""

from collections.abc import Sequence
from typing import Any


def duration(seconds: float) -> str:
    """ "1 h 05 min", "3 min 20 s", "7 s"."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 60} min {s % 60:02d} s" if s >= 60 else f"{s} s"


def rough_duration(seconds: float) -> str:
    """A time that is only estimated: "less than a minute", "about 12 minutes", "about 1.5 hours"."""
    if seconds >= 3600:
        return f"about {seconds / 3600:,.1f} hours"
    minutes = round(seconds / 60)
    return f"about {counted(minutes, 'minute')}" if minutes else "less than a minute"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """ "1 shard", "2 shards", "3 processes" (where the plural is no mere s)."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def times_read(passes: float) -> str:
    """How often data is read: "2% of the data read", "data read 3.4 times"."""
    if passes >= 1:
        return f"data read {passes:.1f} times"
    share = 100 * passes
    return f"{f'{share:.0f}%' if share >= 1 else 'less than 1%'} of the data read"


def rate_words(phases: Sequence[dict[str, Any]]) -> str:
    """The rates that a plan's hours are computed from, as plan.json holds them."""
    sources: dict[str, dict[str, None]] = {}
    for p in phases:
        sources.setdefault(p["tflops_from"], {})[f"{p['tflops']:.3g}"] = None
    return "; ".join(f"{' and '.join(rates)} TFLOP/s per device ({source})" for source, rates in sources.items())
