"""hardware.local_data: what is copied, that it is whole, cut copies, damage, and that training reads the copy."""

import shutil
from pathlib import Path
from unittest import mock

import pytest
from tools import fresh, losses_of, make_store

from bert_lamb.data import local_copy
from bert_lamb.data.local_copy import copy_store, local_folder
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
    found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".verified"))
    return {str(p.relative_to(folder)): file_sha256(p) for p in found}


def test_what_training_reads_and_nothing_else(store: Path, tmp_path: Path) -> None:
    manifest, there = read_manifest(store), tmp_path / "node"
    copy_store(store, manifest, {32}, there)
    copied, whole = files(local_folder(store, manifest, there)), files(store)
    assert copied == {name: sha for name, sha in whole.items() if "/seq64-" not in name and name != "manifest.json"}
    assert any("/seq64-" in name for name in whole)
    assert not verify_store(store, manifest)
    copy_store(store, manifest, {32, 64}, there)
    del whole["manifest.json"]
    assert files(local_folder(store, manifest, there)) == whole


def test_a_second_time_nothing_is_read(store: Path, tmp_path: Path) -> None:
    manifest = read_manifest(store)
    copy_store(store, manifest, {32, 64}, tmp_path)
    with mock.patch.object(local_copy, "_copy", side_effect=AssertionError("copied twice")):
        copy_store(store, manifest, {32, 64}, tmp_path)


def test_a_cut_copy_goes_on(store: Path, tmp_path: Path) -> None:
    manifest, inside, done = read_manifest(store), local_copy._copy, []

    def cut(source: Path, target: Path, sha256: str) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(target)
        inside(source, target, sha256)

    with mock.patch.object(local_copy, "_copy", cut), pytest.raises(KeyboardInterrupt):
        copy_store(store, manifest, {32, 64}, tmp_path)
    times = [target.stat().st_mtime_ns for target in done]
    copy_store(store, manifest, {32, 64}, tmp_path)
    assert len(files(local_folder(store, manifest, tmp_path))) == len(files(store)) - 1
    assert [target.stat().st_mtime_ns for target in done] == times


@pytest.mark.parametrize("when", ["before", "after"])
def test_damage_is_named(store: Path, tmp_path: Path, when: str) -> None:
    """A flipped byte in the shared folder, or later in the copy, stops the run and leaves nothing half under a name."""
    manifest, name = read_manifest(store), "train/documents-00001.arrow"
    copy = local_folder(store, manifest, tmp_path)
    if when == "after":
        copy_store(store, manifest, {32}, tmp_path)
    guilty = (store if when == "before" else copy) / name
    content = bytearray(guilty.read_bytes())
    content[len(content) // 2] ^= 1
    guilty.write_bytes(content)
    with pytest.raises(StoreError, match=name):
        copy_store(store, manifest, {32}, tmp_path)
    if when == "before":
        assert not (copy / name).exists()
        assert not list(copy.rglob("*.tmp"))


def test_a_store_prepared_anew_is_copied_anew(store: Path, tmp_path: Path) -> None:
    manifest = read_manifest(store)
    copy_store(store, manifest, {32}, tmp_path)
    write_manifest(store, manifest | {"settings": {"other": 1}})
    anew = read_manifest(store)
    assert local_folder(store, anew, tmp_path) != local_folder(store, manifest, tmp_path)


def test_a_full_disk_is_told_before_anything_is_copied(store: Path, tmp_path: Path) -> None:
    full = shutil._ntuple_diskusage(100, 99, 1)  # type: ignore[attr-defined]
    with mock.patch("shutil.disk_usage", return_value=full), pytest.raises(StoreError, match=r"local_data=.* 0\.0 GB"):
        copy_store(store, read_manifest(store), {32}, tmp_path)
    assert not list(tmp_path.rglob("made-*/train/*"))


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
