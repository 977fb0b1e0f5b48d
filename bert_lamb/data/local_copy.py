"""A prepared store on a node's own disk: `hardware.local_data`. For clusters whose shared folder is slow or crowded.

Only what training reads is copied. A file appears whole, its SHA-256 compared on the way, so that a cut copy goes on
and several processes may copy at a time; a store that was prepared anew has a folder of its own.
"""

import hashlib
import logging
import secrets
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bert_lamb.data.manifest import verify_store
from bert_lamb.data.store import StoreError, manifest_bytes
from bert_lamb.data.vocabulary import VOCABULARY

log = logging.getLogger(__name__)

CHUNK = 2**24  # bytes read at a time
EVERY_S = 5.0  # seconds between lines of progress


def local_folder(store: Path, manifest: dict[str, Any], root: Path) -> Path:
    """Where the copy of this very store stands below `root`."""
    return root / f"{store.name}-{hashlib.sha256(manifest_bytes(manifest)).hexdigest()[:10]}"


def copy_store(store: Path, manifest: dict[str, Any], lengths: Collection[int], root: Path) -> None:
    """Brings what training at these lengths reads to `local_folder`; StoreError where it does not fit or is damaged."""
    folder, started_s = local_folder(store, manifest, root), time.monotonic()
    wanted = {n: about for n, about in manifest["files"].items() if is_read(n, lengths)}
    missing = [name for name in wanted if not (folder / name).is_file()]
    for part in {(folder / name).parent for name in wanted}:
        part.mkdir(parents=True, exist_ok=True)
    total = sum((store / name).stat().st_size for name in missing)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise StoreError(
            f"hardware.local_data={root} has {free / 1e9:.1f} GB free, the store's files need {total / 1e9:.1f}: "
            "choose another disk, or null to read the shared folder"
        )
    done, told_s = 0, started_s
    for name in missing:
        _copy(store / name, folder / name, wanted[name]["sha256"])
        done += (folder / name).stat().st_size
        if time.monotonic() - told_s > EVERY_S:
            told_s = time.monotonic()
            left_s = (told_s - started_s) * (total - done) / done
            log.info("  copying data to %s: %.1f of %.1f GB, %.0f s left", root, done / 1e9, total / 1e9, left_s)
    if missing:
        log.info("  data copied to %s: %.1f GB in %.0f s", folder, total / 1e9, time.monotonic() - started_s)
    if problems := verify_store(folder, {"files": wanted}):
        raise StoreError(f"hardware.local_data={root}: delete the copy, it is damaged: {problems[0]}")


def is_read(name: str, lengths: Collection[int]) -> bool:
    """Whether training at these lengths reads a file of the manifest."""
    of_length = any(f"/seq{length}-" in name for length in lengths)
    return of_length or "/documents-" in name or name == VOCABULARY


def _copy(source: Path, target: Path, sha256: str) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    digest = hashlib.sha256()
    try:
        with source.open("rb") as old, temporary.open("wb") as new:
            while chunk := old.read(CHUNK):
                digest.update(chunk)
                new.write(chunk)
        if digest.hexdigest() != sha256:
            raise StoreError(f"{source} does not match its SHA-256 in the manifest; run `make prepare` again")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
