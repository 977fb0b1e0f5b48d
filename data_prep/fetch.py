"""Downloads what data.hub names: `python -m data_prep.fetch data=wikipedia`. The one stage that needs a network.

Goes on where it was cut, within a file too; every file is held to the size and SHA-256 that the hub lists for it.
"""

import json
import logging
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from bert_lamb.checksums import is_inside
from bert_lamb.files import file_sha256, write_whole
from bert_lamb.settings import DataSettings, Settings, command
from bert_lamb.words import counted
from data_prep.reading.dataset_rows import keep_rows
from data_prep.reading.hub_files import HubError, about_path, hub_files, hub_folder, read_about
from data_prep.reading.sources import parts
from data_prep.store.pool import ProgressBar

log = logging.getLogger(__name__)
OUT_OF_REACH = (HTTPError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError)


@command
def main(s: Settings) -> None:
    """Fetches the corpus that the settings name."""
    if s.data.source == "hf":
        keep_rows(s.data)
        log.info("fetched; `make prepare` with the same settings needs no network")
        return
    wanted = [source for _, source, _ in parts(s.data) if source.hub and not source.paths]
    for source in wanted or [s.data]:
        fetch(source)


def fetch(data: DataSettings) -> None:
    """Every file of data.hub below data.root; HubError where that cannot be."""
    hub, folder, api = hub_files(data), hub_folder(data), HfApi()
    try:
        about = read_about(data) or listed(api, data)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(about_path(data), json.dumps(about | {"complete": False}).encode())
        total = sum(known["size"] for known in about["files"].values())
        log.info(
            "%s at %s: %s, %.2f GB, to %s",
            hub.dataset,
            about["commit"],
            counted(len(about["files"]), "file"),
            total / 1e9,
            folder,
        )
        there = {name for name, known in about["files"].items() if is_whole(folder / name, known)}
        progress = ProgressBar(total, sum(about["files"][name]["size"] for name in there), "fetch")
        for name in sorted(about["files"].keys() - there):
            download(api, hub.dataset, about["commit"], name, about["files"][name], folder)
            progress.add(about["files"][name]["size"])
        progress.end()
    except OUT_OF_REACH as error:
        raise HubError(
            f"{data.hub} could not be fetched from the hub: {(str(error) or type(error).__name__).splitlines()[0]}. "
            f"What has been downloaded is kept; run the same command again to go on. Without the hub: copy {folder} "
            "from a machine that has it, or name local files of the same text, data.paths=[...] (parquet, jsonl or "
            "txt)"
        ) from error
    write_whole(about_path(data), json.dumps(about | {"complete": True}).encode())
    log.info("fetched; `make prepare` with the same settings needs no network")


def listed(api: HfApi, data: DataSettings) -> dict[str, Any]:
    """The commit and its files that fit the pattern, with size and SHA-256 as the hub lists them."""
    hub = hub_files(data)
    info = api.dataset_info(hub.dataset, revision=hub.revision, files_metadata=True)
    chosen = [file for file in info.siblings or [] if fnmatch(file.rfilename, hub.pattern)]
    if not chosen:
        raise HubError(f"data.hub={data.hub}: no file of {hub.dataset} at {info.sha} matches {hub.pattern}")
    if outside := [file.rfilename for file in chosen if not is_inside(file.rfilename)]:
        raise HubError(f"data.hub={data.hub}: {outside[0]} would be outside of data.root")
    if unknown := [file.rfilename for file in chosen if not file.lfs]:
        raise HubError(
            f"data.hub={data.hub}: the hub lists no SHA-256 for {', '.join(unknown)}: choose another pattern"
        )
    files = {file.rfilename: {"size": file.size, "sha256": file.lfs.sha256} for file in chosen if file.lfs}
    return {"hub": data.hub, "commit": info.sha, "files": files}


def download(api: HfApi, dataset: str, commit: str, name: str, known: dict[str, Any], folder: Path) -> None:
    """One file. What is not as listed is put aside under another name, never read."""
    api.hf_hub_download(dataset, name, repo_type="dataset", revision=commit, local_dir=folder)
    if not is_whole(folder / name, known):
        aside = folder / f"{name}.damaged"
        (folder / name).replace(aside)
        raise HubError(
            f"{aside} differs from what the hub lists (size, SHA-256): fetch again; the disk of data.root may be faulty"
        )


def is_whole(path: Path, known: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == known["size"] and file_sha256(path) == known["sha256"]


if __name__ == "__main__":
    main()
