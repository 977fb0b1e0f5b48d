"""How each part of a run was computed: every start and resume leaves in events.jsonl what moves the bits of its result.

A run may go on with other hardware settings, on another machine or with another commit. Its record then has parts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_lamb.jsonfiles import read_lines, read_object
from bert_lamb.run.folder import RunFolder, is_event, is_phase_result
from bert_lamb.run.retention import list_checkpoints, step_of
from bert_lamb.settings import HardwareSettings

BEGINNINGS = ("start", "resume")  # events that begin a part
MOVES_BITS = {  # what is compared between two starts, in words
    "precision": "precision",
    "compiled": "compiled",
    "deterministic": "hardware.deterministic",
    "micro_batch_tokens": "hardware.micro_batch_tokens",
    "ranks": "devices",
    "strategy": "strategy",
    "device": "device",
    "threads": "threads",
    "torch": "torch",
    "commit": "commit",
    "dirty": "changed files beside the commit",
}


@dataclass(frozen=True)
class Part:
    """Steps `first` + 1 ... `last` of a phase, all computed in one way."""

    phase: int
    first: int
    last: int
    how: dict[str, Any]  # the keys of MOVES_BITS, as far as they are known

    @property
    def steps(self) -> str:
        """ "1 to 35", in words."""
        return f"{self.first + 1:,} to {self.last:,}"


def how_computed(machine: dict[str, Any], hardware: HardwareSettings) -> dict[str, Any]:
    """The part of a machine's record, and of the settings, that an event keeps."""
    return {
        "precision": machine["precision"],
        "compiled": machine["compiled"],
        "deterministic": hardware.deterministic,
        "micro_batch_tokens": hardware.micro_batch_tokens,
        "ranks": machine["ranks"],
        "strategy": "ddp" if machine["ranks"] > 1 else "single",
        "device": machine["device"],
        "threads": machine["threads"],
        "torch": machine["versions"]["torch"],
        "commit": machine["commit"],
        "dirty": machine["dirty"],
        "host": machine["host"],
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What moves bits and is not as before, in words; nothing of what an older version did not record."""
    return [
        f"{words} {_said(now[key])} instead of {_said(before[key])}"
        for key, words in MOVES_BITS.items()
        if key in before and key in now and before[key] != now[key]
    ]


def last_how(folder: RunFolder) -> dict[str, Any] | None:
    """How the steps were computed that this run would go on from; None where there are none yet.

    A start that ended before its first checkpoint left none to go on from, and does not count.
    """
    saved = {number: _saved_steps(folder, number) for number in (1, 2)}
    events, _ = read_lines(folder.events_file, is_event)
    found = [part.how for part in parts(events, saved) if part.first < saved.get(part.phase, 0)]
    return found[-1] if found else None


def _saved_steps(folder: RunFolder, phase_number: int) -> int:
    """Steps of a phase that a run would not do again: those of its newest checkpoint."""
    names = [path.name for path in list_checkpoints(folder.checkpoints(phase_number))]
    result, _ = read_object(folder.result_file(phase_number), is_phase_result)  # read only: asked before the lock
    if result:  # done, and its checkpoint maybe moved away
        names.append(Path(result["checkpoint"]).name)
    return max((step_of(Path(name)) or 0 for name in names), default=0)


def parts(events: Iterable[dict[str, Any]], steps: dict[int, int]) -> list[Part]:
    """The parts of a run, from its events and the steps that each phase has done. Steps that were done again after a
    resume belong to the resumed start."""
    begun: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for event in events:
        phase = event.get("phase")
        if event["event"] not in BEGINNINGS or not isinstance(phase, int):
            continue
        first, how = event.get("step", 0), event.get("how", {})
        earlier = [] if event["event"] == "start" else begun.get(phase, [])
        begun[phase] = [*((f, h) for f, h in earlier if f < first), (first, how)]
    found: list[Part] = []
    for phase, starts in sorted(begun.items()):
        ends = [first for first, _ in starts[1:]] + [max(steps.get(phase, 0), starts[-1][0])]
        for (first, how), last in zip(starts, ends, strict=True):
            before = found[-1] if found and found[-1].phase == phase else None
            if before and not differences(before.how, how):
                found[-1] = Part(phase, before.first, last, how)
            elif last > first:
                found.append(Part(phase, first, last, how))
    return found


def precisions(found: Sequence[Part]) -> list[str]:
    """The precisions that a run was computed in, in the order in which they came."""
    return list(dict.fromkeys(part.how["precision"] for part in found if "precision" in part.how))


def _said(value: Any) -> str:
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)
