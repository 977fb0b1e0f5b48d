"""What stops `prepare`: no text, too little disk, too many rejects, nothing to train on. Each in one message."""

import logging
import shutil
from typing import Any

from bert_lamb.settings import DataSettings
from bert_lamb.settings.languages import has_rules
from bert_lamb.words import counted
from data_prep.reading.slices import Plan
from data_prep.shards.folder import StoreFolder
from data_prep.shards.make import ShardRecord
from data_prep.store.resume import PrepareError

log = logging.getLogger(__name__)

HOPELESS_RECORDS = 1000  # so many first records,
HINTS = {  # beginning of a reason: the setting that may be wrong
    "no field": "Set data.text_field to the field that holds the text.",
    "not UTF-8": "Set data.encoding to the encoding of the files (utf-16, cp1252, ...).",
    "NUL characters": "If the text is in UTF-16, set data.encoding=utf-16.",
}
HOPELESS_SHARE = 0.5  # so many of them bad: no need to read the rest


def check_input(data: DataSettings, plan: Plan) -> None:
    """Tells of damages; PrepareError where there is no text."""
    for damage in plan.damages:
        log.warning("damaged input, read as far as possible: %s", damage)
    for encoding in sorted({f.seems for f in plan.files if f.seems}):
        names = [f.file.name for f in plan.files if f.seems == encoding]
        more = f" and {counted(len(names) - 1, 'more file')} seem" if len(names) > 1 else " seems"
        log.warning("not UTF-8: %s%s to be %s; to read them, set data.encoding=%s", names[0], more, encoding, encoding)
    if not has_rules(data.language):
        log.info(
            "data.language=%s: the sentence splitter has no rules for it, and takes those of a related language or of "
            "English",
            data.language,
        )
    if not plan.slices:
        raise PrepareError(
            f"data.paths={data.paths}: there is no text in these files: {'; '.join(plan.damages) or 'all are empty'}"
        )


def check_space(data: DataSettings, plan: Plan, folder: StoreFolder) -> None:
    """Room for tokens (2 bytes for some 4 of text) and spans (13 bytes an instance)."""
    there = next(p for p in (folder.path, *folder.path.absolute().parents) if p.exists())
    tokens = plan.size / 4
    expected = 2 * tokens + sum(13 * data.passes * tokens / (0.7 * length) for length in data.seq_lens)
    free = shutil.disk_usage(there).free
    already = sum(p.stat().st_size for p in folder.path.rglob("*") if p.is_file()) if folder.path.exists() else 0
    if expected - already > free:
        raise PrepareError(
            f"data.root={data.root}: about {expected / 1e9:.1f} GB are needed there, but {free / 1e9:.1f} GB are "
            "free: choose another data.root, or fewer data.passes"
        )


def check_hopeless(data: DataSettings, first: list[ShardRecord], folder: StoreFolder) -> None:
    """Stops early where most of the input is bad; looks at shards in order, so the verdict never varies."""
    total, rejected = sum(r.records for r in first), sum(sum(r.rejects.values()) for r in first)
    if total >= HOPELESS_RECORDS and rejected > max(HOPELESS_SHARE, data.max_reject_share) * total:
        raise PrepareError(rejects_message(data, first, 0, folder))


def check_rejects(data: DataSettings, shards: list[ShardRecord], damaged: int, folder: StoreFolder) -> None:
    """Stops where more records were rejected than the settings allow."""
    total, rejected = sum(r.records for r in shards), sum(sum(r.rejects.values()) for r in shards)
    if rejected + damaged > data.max_reject_share * (total + damaged):
        raise PrepareError(rejects_message(data, shards, damaged, folder))


def rejects_message(data: DataSettings, shards: list[ShardRecord], damaged: int, folder: StoreFolder) -> str:
    reasons: dict[str, int] = {"damaged file": damaged} if damaged else {}
    for record in shards:
        for reason, count in record.rejects.items():
            reasons[reason] = reasons.get(reason, 0) + count
    hints = [f" {hint}" for start, hint in HINTS.items() if any(reason.startswith(start) for reason in reasons)]
    lines = [f"- {count} x {reason}" for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))]
    return (
        f"{sum(reasons.values())} of {counted(sum(r.records for r in shards), 'record')} cannot be used, more than "
        f"data.max_reject_share={data.max_reject_share} allows:\n" + "\n".join(lines) + f"\nSamples with file and "
        f"line: {folder.path / 'rejects'}.{''.join(hints)} Correct the input, or raise data.max_reject_share; finished "
        "shards are kept."
    )


def check_size(manifest: dict[str, Any]) -> None:
    """A store that nothing can be trained on is none."""
    counts = manifest["counts"]
    left_out = ", ".join(f"{count} x {reason}" for reason, count in manifest.get("left_out", {}).items())
    for length, passes in manifest["instances"]["train"].items():
        if not all(p["instances"] for p in passes):
            raise PrepareError(
                f"the text gives no pair of sentences for data.seq_lens={length}: only "
                f"{counted(counts['documents'], 'document')} with {counted(counts['sentences'], 'sentence')} left for "
                f"training; give more text{f' (left out by rules: {left_out})' if left_out else ''}"
            )
