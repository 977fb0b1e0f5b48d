"""A prepared store on a node's own disk: `hardware.local_data`. For clusters whose shared folder is slow or crowded.

Only what training reads is copied. A file appears whole, its SHA-256 compared on the way, so that a cut copy goes on;
of a node's processes the first one copies and the others wait for its lock. A store that was prepared anew has a folder
of its own.

A node's scratch disk is shared, and the names here can be guessed: what another user has put there is neither followed
nor used.
"""

import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bert_lamb.data.manifest import verify_store
from bert_lamb.data.manifest_form import is_store_file
from bert_lamb.data.stamps import is_ours
from bert_lamb.data.store import StoreError, manifest_bytes
from bert_lamb.data.vocabulary import VOCABULARY
from bert_lamb.locks import one_at_a_time

log = logging.getLogger(__name__)

LOCK, PARTIAL = ".lock", ".partial"  # names of the copy's own, beside the store's
CHUNK = 2**24  # bytes read at a time
EVERY_S = 5.0  # seconds between lines of progress


def copy_store(store: Path, manifest: dict[str, Any], lengths: Collection[int], root: Path) -> Path:
    """Brings what training at these lengths reads below `root`. Returns the copy's folder.

    Raises StoreError where it does not fit, cannot be written or is damaged.
    """
    outside = [name for name in manifest["files"] if not is_store_file(name)]
    if outside:
        raise StoreError(f"the manifest of {store} names {outside[0][:200]!r}, which is no file of a store")
    folder = root / f"{store.name}-{hashlib.sha256(manifest_bytes(manifest)).hexdigest()[:10]}"
    wanted = {name: about for name, about in manifest["files"].items() if is_read(name, lengths)}
    try:
        root.mkdir(parents=True, exist_ok=True)
        _refuse_root(root)
        for part in [folder, *sorted({(folder / name).parent for name in wanted} - {folder})]:
            _make_own(part)
        with one_at_a_time(folder / LOCK, f"copies to {folder}") as without_locks:
            if without_locks:
                raise without_locks
            _copy_missing(store, folder, wanted)
            damaged = verify_store(folder, {"files": wanted})
    except OSError as error:
        raise StoreError(f"hardware.local_data={root}: {error}; choose another disk, or null: read in place") from error
    if damaged:
        raise StoreError(f"hardware.local_data={root}: delete {folder}: {damaged[0].partition(';')[0]}")
    return folder


def is_read(name: str, lengths: Collection[int]) -> bool:
    """Whether training at these lengths reads a file of the manifest."""
    of_length = any(f"/seq{length}-" in name for length in lengths)
    return of_length or "/documents-" in name or name == VOCABULARY


def _refuse_root(root: Path) -> None:
    """OSError where others decide what lies under a name below this folder."""
    status = root.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise OSError("it is a link, which may lead elsewhere tomorrow: name the folder itself")
    if status.st_uid not in (os.geteuid(), 0):
        raise OSError("it belongs to another user")
    if status.st_mode & 0o002 and not status.st_mode & stat.S_ISVTX:
        raise OSError("every user may rename what lies in it (chmod +t forbids it): name a folder of your own in it")


def _make_own(folder: Path) -> None:
    """Makes a folder that only the user can write to; OSError where what stands under its name is something else."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise OSError(f"{folder} is a link, or belongs to another user: name a folder of your own")
    if status.st_mode & 0o022:  # as versions before 0.2 made them under some umasks
        folder.chmod(stat.S_IMODE(status.st_mode) & ~0o022)


def _copy_missing(store: Path, folder: Path, wanted: dict[str, dict[str, Any]]) -> None:
    missing = [name for name in wanted if not is_ours(folder / name)]
    total, free = sum((store / name).stat().st_size for name in missing), shutil.disk_usage(folder).free
    if total > free:
        raise OSError(f"{free / 1e9:.1f} GB are free, the store's files need {total / 1e9:.1f}")
    done, started_s = 0, time.monotonic()
    told_s = started_s
    for name in missing:
        _copy(store / name, folder / name, folder / PARTIAL, wanted[name]["sha256"])
        done += (folder / name).stat().st_size
        now_s = time.monotonic()
        if now_s - told_s > EVERY_S:
            told_s, left_s = now_s, (now_s - started_s) * (total - done) / done
            log.info("  copying data to %s: %.1f of %.1f GB, %.0f s left", folder, done / 1e9, total / 1e9, left_s)
    if missing:
        log.info("  data copied to %s: %.1f GB in %.0f s", folder, total / 1e9, time.monotonic() - started_s)


def _copy(source: Path, target: Path, partial: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    partial.unlink(missing_ok=True)  # of a copy that was cut
    with source.open("rb") as old, partial.open("xb") as new:
        partial.chmod(0o600)  # whatever the umask: `is_ours`
        while chunk := old.read(CHUNK):
            digest.update(chunk)
            new.write(chunk)
    if digest.hexdigest() != sha256:
        raise StoreError(f"{source} does not match its SHA-256 in the manifest: delete it and run `make prepare` again")
    partial.replace(target)
