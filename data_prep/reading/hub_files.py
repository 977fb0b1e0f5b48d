"""What of a dataset on the hub a corpus is made of, and where `make fetch` puts it."""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from bert_lamb.checksums import is_inside
from bert_lamb.errors import UserError
from bert_lamb.jsonfiles import object_or_aside
from bert_lamb.settings import DataSettings

HUB = re.compile(r"([\w.-]+/[\w.-]+)@([\w./-]+):(\S+)")


class HubError(UserError):
    """Files of the hub that are not there; the message tells how to get them, or how to do without."""


@dataclass(frozen=True)
class HubFiles:
    """`owner/name@revision:pattern`."""

    dataset: str
    revision: str  # a commit, or a branch that the first fetch pins
    pattern: str  # of paths in the dataset


def hub_files(data: DataSettings) -> HubFiles:
    """What data.hub names; HubError where it names nothing."""
    found = HUB.fullmatch(data.hub or "")
    if not found:
        raise HubError(
            f"data.hub={data.hub}: owner/name@revision:pattern is expected, as in data=wikipedia; or read local files, "
            "data.paths=[...]"
        )
    return HubFiles(*found.groups())


def hub_folder(data: DataSettings) -> Path:
    return Path(data.root) / "raw" / hub_files(data).dataset.replace("/", "--")


def about_path(data: DataSettings) -> Path:
    """Of the file that says what was fetched for this data.hub: commit, files, whether all are there."""
    return hub_folder(data) / f"fetched-{sha256((data.hub or '').encode()).hexdigest()[:8]}.json"


def read_about(data: DataSettings) -> dict[str, Any] | None:
    """What that file says; None where there is none. A damaged one is kept aside, and the files are listed anew."""
    return object_or_aside(about_path(data), _lists_files)


def _lists_files(value: dict[str, Any]) -> bool:
    files = value.get("files")
    return (
        isinstance(files, dict)
        and all(
            is_inside(name)
            and isinstance(known, dict)
            and type(known.get("size")) is int
            and isinstance(known.get("sha256"), str)
            for name, known in files.items()
        )
        and isinstance(value.get("complete"), bool)
        and isinstance(value.get("commit"), str)
    )


def fetched_paths(data: DataSettings) -> list[str]:
    """The fetched files; HubError where they are not all there."""
    about = read_about(data)
    files = about["files"] if about and about["complete"] else {}
    paths = {hub_folder(data) / name: known["size"] for name, known in files.items()}
    if not paths or any(not p.is_file() or p.stat().st_size != size for p, size in paths.items()):
        raise HubError(
            f"data.hub={data.hub} is not, or not wholly, in {hub_folder(data)}: run `make fetch` with the same "
            f"settings where there is network (and copy the folder here), or name local files: data.paths=[...]"
        )
    return [str(path) for path in paths]
