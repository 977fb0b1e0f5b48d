"""hardware.local_data: what is copied, that it is whole, cut copies, damage, and that training reads the copy."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tools import fresh, losses_of, make_store

from bert_lamb.data import local_copy
from bert_lamb.data.local_copy import LOCK, copy_store
from bert_lamb.data.manifest import read_manifest, verify_store, write_manifest
from bert_lamb.data.store import StoreError
from bert_lamb.files import file_sha256
from bert_lamb.pretrain import pretrain


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "made"
    make_store(folder)
    return folder


def files(folder: Path) -> dict[str, str]:
    found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(LOCK))
    return {str(p.relative_to(folder)): file_sha256(p) for p in found}


def test_what_training_reads_and_nothing_else(store: Path, tmp_path: Path) -> None:
    manifest, there = read_manifest(store), tmp_path / "node"
    copied, whole = files(copy_store(store, manifest, {32}, there)), files(store)
    assert copied == {name: sha for name, sha in whole.items() if "/seq64-" not in name and name != "manifest.json"}
    assert any("/seq64-" in name for name in whole)
    assert not verify_store(store, manifest)
    del whole["manifest.json"]
    assert files(copy_store(store, manifest, {32, 64}, there)) == whole


def test_a_second_time_nothing_is_read(store: Path, tmp_path: Path) -> None:
    manifest = read_manifest(store)
    copy_store(store, manifest, {32, 64}, tmp_path)
    with mock.patch.object(local_copy, "_copy", side_effect=AssertionError("copied twice")):
        copy_store(store, manifest, {32, 64}, tmp_path)


def test_a_cut_copy_goes_on(store: Path, tmp_path: Path) -> None:
    manifest, inside, done = read_manifest(store), local_copy._copy, []

    def cut(source: Path, target: Path, partial: Path, sha256: str) -> None:
        if len(done) == 3:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(target)
        inside(source, target, partial, sha256)

    with mock.patch.object(local_copy, "_copy", cut), pytest.raises(KeyboardInterrupt):
        copy_store(store, manifest, {32, 64}, tmp_path / "node")
    times = [target.stat().st_mtime_ns for target in done]
    assert len(files(copy_store(store, manifest, {32, 64}, tmp_path / "node"))) == len(files(store)) - 1
    assert [target.stat().st_mtime_ns for target in done] == times


@pytest.mark.parametrize("when", ["before", "after"])
def test_damage_is_named(store: Path, tmp_path: Path, when: str) -> None:
    """A flipped byte in the shared folder, or later in the copy, stops the run and leaves nothing half under a name."""
    manifest, name, node = read_manifest(store), "train/documents-00001.arrow", tmp_path / "node"
    copy = copy_store(store, manifest, {32}, node)
    guilty = (store if when == "before" else copy) / name
    content = bytearray(guilty.read_bytes())
    content[len(content) // 2] ^= 1
    guilty.write_bytes(content)
    if when == "before":
        shutil.rmtree(node)
    with pytest.raises(StoreError) as told:
        copy_store(store, manifest, {32}, node)
    assert f"{guilty} does not match its SHA-256" in str(told.value)
    assert ("make prepare" in str(told.value)) == (when == "before")
    assert (f"delete {copy}" in str(told.value)) == (when == "after")
    assert (copy / name).exists() == (when == "after")


def test_a_store_prepared_anew_is_copied_anew(store: Path, tmp_path: Path) -> None:
    before = copy_store(store, read_manifest(store), {32}, tmp_path)
    write_manifest(store, read_manifest(store) | {"settings": {"other": 1}})
    assert copy_store(store, read_manifest(store), {32}, tmp_path) != before


def test_a_full_disk_is_told_before_anything_is_copied(store: Path, tmp_path: Path) -> None:
    full = shutil._ntuple_diskusage(100, 99, 1)  # type: ignore[attr-defined]
    node = tmp_path / "node"
    with mock.patch("shutil.disk_usage", return_value=full), pytest.raises(StoreError) as told:
        copy_store(store, read_manifest(store), {32}, node)
    assert f"hardware.local_data={node}: 0.0 GB are free" in str(told.value)
    assert not list(node.rglob("*.arrow"))


def test_a_folder_that_cannot_be_is_told(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"hardware\.local_data=.*file.*choose another disk"):
        copy_store(store, read_manifest(store), {32}, tmp_path / "file")


def test_processes_of_a_node_copy_once(store: Path, tmp_path: Path) -> None:
    """The second waits for the first one's lock and finds everything there."""
    manifest, copied, inside = read_manifest(store), [], local_copy._copy

    def slow(source: Path, *more: Any) -> None:
        time.sleep(0.02)
        copied.append(source)
        inside(source, *more)

    with mock.patch.object(local_copy, "_copy", slow), ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: copy_store(store, manifest, {32}, tmp_path), range(3)))
    assert len(set(folders)) == 1
    assert len(copied) == len(set(copied)) > 3


def test_training_reads_the_copy(store: Path) -> None:
    """The same losses; the shared shards may be gone once they are copied."""
    place = store.parents[1]
    plain = fresh(place, "plain")
    pretrain(plain)
    local = fresh(place, "local", f"hardware.local_data={place / 'node'}")
    copy_store(store, read_manifest(store), {32, 64}, place / "node")
    for shard in (store / "train").iterdir():
        shard.unlink()
    pretrain(local)
    for number in (1, 2):
        assert losses_of(local.path, number) == losses_of(plain.path, number)
