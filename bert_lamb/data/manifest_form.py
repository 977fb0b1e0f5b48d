"""What a manifest must look like before any of it is used: names, types and ranges of its fields.

A manifest comes from a disk that others may write to. Whatever passes here cannot lead a reader out of the store's
folder, and holds every field that training, reports and `prepare` read.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from bert_lamb.data.store import SPLITS
from bert_lamb.jsonfiles import parse_json

STORE_FILE = re.compile(
    r"vocab\.txt|squad/(train|dev)\.json"
    r"|(train|heldout)/(documents|seq[1-9][0-9]{0,4}-pass(0|[1-9][0-9]{0,3}))-([0-9]{5}|[1-9][0-9]{5})\.arrow",
    re.ASCII,
)  # of a manifest's "files": nothing else is ever a path
SHA256 = re.compile(r"[0-9a-f]{64}")
LENGTH = re.compile(r"[1-9][0-9]{0,4}")
MOST = 10**15  # of any count: more than all text there is, and far from where 64 bits end
LARGEST_VOCABULARY = 2**24  # entries; the largest in use have some 10^6
COUNTS = ("documents", "sentences", "tokens", "heldout_documents")  # that reports read
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")  # that batches need


def parse_manifest(content: bytes) -> Any:
    """The JSON value of a manifest; ValueError where it is none, holds NaN or Infinity, or is nested without end."""
    return parse_json(content, numbers_only=True)


def manifest_problems(manifest: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the fields of a manifest, in words; nothing where every field is as its readers need it."""
    yield from _tokenizer(manifest.get("tokenizer"))
    yield from _files(manifest.get("files"))
    yield from _instances(manifest.get("instances"))
    for name in ("settings", "libraries"):
        if not isinstance(manifest.get(name, {}), dict):
            yield f"{name!r} is not an object"
    for name in ("counts", "rejects", "left_out", "squad"):
        if not _counts(manifest.get(name, {})):
            yield f"{name!r} is not an object of counts"
    missing = set(COUNTS) - _keys(manifest.get("counts"))
    if missing:
        yield f"'counts' lacks {', '.join(sorted(missing))}"
    entropy = manifest.get("unigram_entropy_nats")
    if isinstance(entropy, bool) or not isinstance(entropy, int | float) or not 0 <= entropy < math.inf:
        yield f"'unigram_entropy_nats' is {entropy!r}, not a finite number from 0"
    yield from _lists(manifest)
    yield from _findings(manifest)


def is_store_file(name: Any) -> bool:
    """Whether a name is one that a store's file can have: such a name stays inside the store's folder."""
    return isinstance(name, str) and STORE_FILE.fullmatch(name) is not None


def _tokenizer(about: Any) -> Iterator[str]:
    if not isinstance(about, dict):
        yield "'tokenizer' is missing or not an object"
        return
    size, ids = about.get("size"), about.get("special_ids")
    if not _is_hash(about.get("sha256")):
        yield "'tokenizer' has no SHA-256"
    if not isinstance(about.get("lower_case"), bool):
        yield f"'tokenizer' has lower_case {about.get('lower_case')!r}, not true or false"
    if not isinstance(about.get("strip_accents", True), bool):
        yield f"'tokenizer' has strip_accents {about.get('strip_accents')!r}, not true or false"
    if not isinstance(size, int) or not _is_count(size) or not 0 < size <= LARGEST_VOCABULARY:
        yield f"'tokenizer' has size {size!r}, not a number from 1 to {LARGEST_VOCABULARY}"
    elif not isinstance(ids, dict) or not all(_is_count(ids.get(token)) and ids[token] < size for token in SPECIAL):
        yield f"'tokenizer' has special_ids without a number below {size} for each of {', '.join(SPECIAL)}"


def _files(files: Any) -> Iterator[str]:
    if not isinstance(files, dict):
        yield "'files' is missing or not an object"
        return
    for name, about in files.items():
        if not is_store_file(name):
            yield f"'files' names {name[:200]!r}, which no file of a store is called"
        elif not isinstance(about, dict) or not _is_hash(about.get("sha256")):
            yield f"'files' has no SHA-256 of {name}"
        elif not all(_is_count(about.get(number)) for number in ("rows", "tokens")):
            yield f"'files' has no counts of rows and tokens of {name}"


def _instances(instances: Any) -> Iterator[str]:
    if not isinstance(instances, dict) or not all(isinstance(instances.get(split), dict) for split in SPLITS):
        yield f"'instances' lacks an object for each of {', '.join(SPLITS)}"
        return
    for split in SPLITS:
        for length, passes in instances[split].items():
            where = f"'instances' of {split}, {length[:20]!r} tokens"
            if not LENGTH.fullmatch(length):
                yield f"{where}: no length"
            elif not isinstance(passes, list) or not passes or not all(_is_pass(*p) for p in enumerate(passes)):
                yield f"{where}: not a list of passes 0, 1, ... with counts of instances, tokens and random_next"


def _is_pass(number: int, about: Any) -> bool:
    return (
        isinstance(about, dict)
        and about.get("pass") == number
        and all(_is_count(about.get(name)) for name in ("pass", "instances", "tokens", "random_next"))
    )


def _lists(manifest: dict[str, Any]) -> Iterator[str]:
    notes, sources = manifest.get("notes"), manifest.get("sources")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        yield "'notes' is not a list of sentences"
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        yield "'sources' is not a list of objects"


def _findings(manifest: dict[str, Any]) -> Iterator[str]:
    """Fields that stores have since version 0.2."""
    shares, warnings = manifest.get("random_next_share", {}), manifest.get("warnings", [])
    if not isinstance(warnings, list) or not all(isinstance(warning, str) for warning in warnings):
        yield "'warnings' is not a list of sentences"
    if not isinstance(shares, dict) or not all(_are_shares(of_table) for of_table in shares.values()):
        yield "'random_next_share' is not an object of shares by table and length"


def _are_shares(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1 for share in value.values()
    )


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_count(number) for number in value.values())


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None
