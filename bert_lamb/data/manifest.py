"""Trust in a token store: its manifest, and the check that its files are the ones that it names."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bert_lamb.data.manifest_form import manifest_problems, parse_manifest
from bert_lamb.data.stamps import Stamp, Stamps
from bert_lamb.data.store import FORMAT_VERSION, StoreError, manifest_bytes
from bert_lamb.files import write_whole

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 1 << 28  # bytes; of 10,000 shards with 20 tables each it has some 30 MB
SHOWN = 5  # problems of a manifest that a message lists


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Written last: its presence says that the store is complete."""
    write_whole(folder / MANIFEST, manifest_bytes(manifest))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a store; StoreError where there is none, or one that must not be used."""
    path = folder / MANIFEST
    if not path.is_file():
        raise StoreError(f"{path} is missing: no prepared data there; run `make prepare` with the same settings")
    return read_manifest_file(path)


def read_manifest_file(path: Path) -> dict[str, Any]:
    """The manifest in a file, checked field by field; StoreError with every problem where it must not be used."""
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise StoreError(f"{path} is larger than any manifest ({LARGEST_MANIFEST >> 20} MiB): it is damaged")
        manifest = parse_manifest(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise StoreError(f"{path} is not JSON ({error}); run `make prepare` again") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if isinstance(version, bool) or version != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format {str(version)[:100]}, this version reads {FORMAT_VERSION}; "
            "run `make prepare` into another data.name"
        )
    problems = list(manifest_problems(manifest))
    if problems:
        shown = "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        raise StoreError(f"{path} is damaged or not by `make prepare`: {shown}; prepare the data again")
    return manifest


def verify_store(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Every problem of the store's files, as messages; none when all match their SHA-256.

    Files are hashed once per user and machine (stamps.py); whatever changed since is hashed again.
    """
    stamps = Stamps(folder)

    def check(item: tuple[str, dict]) -> tuple[str, Stamp | None, str | None]:
        name, about = item
        path = folder / name
        if not path.is_file():
            return name, None, f"{path} is named in the manifest but missing; run `make prepare` again"
        sha256, stamp = stamps.sha256(name, path)
        if sha256 == about["sha256"]:
            return name, stamp, None
        problem = "does not match its SHA-256 in the manifest: it was changed or damaged"
        return name, None, f"{path} {problem}; delete it and run `make prepare` again"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        checked = list(pool.map(check, sorted(manifest["files"].items())))
    stamps.keep({name: stamp for name, stamp, _ in checked if stamp})
    return [problem for _, _, problem in checked if problem]
