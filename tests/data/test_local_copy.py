"""hardware.local_data: what is copied, that it is whole, cut copies, damage, and that training reads the copy."""

import os
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


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0])
def test_a_second_time_nothing_is_read(store: Path, tmp_path: Path, mask: int) -> None:
    manifest, before = read_manifest(store), os.umask(mask)
    try:
        copy_store(store, manifest, {32, 64}, tmp_path)
    finally:
        os.umask(before)
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


def all_below(folder: Path) -> dict[str, bytes | str]:
    """Links as what they say, files as their bytes."""
    found = sorted(p for p in folder.rglob("*") if p.is_symlink() or p.is_file())
    return {str(p): str(p.readlink()) if p.is_symlink() else p.read_bytes() for p in found}


def test_links_that_another_user_planted_are_not_followed(store: Path, tmp_path: Path) -> None:
    """Under every name that a copy writes to; the folder was open to all, as a umask of 0 makes it."""
    manifest, victims, node = read_manifest(store), tmp_path / "victims", tmp_path / "node"
    copy = copy_store(store, manifest, {32}, node)
    names = [*files(copy), local_copy.PARTIAL]
    copy.chmod(0o777)
    (copy / "train").chmod(0o777)
    victims.mkdir()
    for number, name in enumerate(names):
        victim = victims / str(number)
        victim.write_bytes(b"mine" if number % 2 else (store / "vocab.txt").read_bytes())
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to(victim if number % 3 else victims / "new")
    before = all_below(victims)
    copied = copy_store(store, manifest, {32}, node)
    assert all_below(victims) == before
    assert not any((copied / name).is_symlink() for name in names)
    assert not any(folder.stat().st_mode & 0o022 for folder in (copied, copied / "train"))
    assert all(files(store)[name] == sha256 for name, sha256 in files(copied).items())


def test_a_file_that_others_can_change_is_copied_again(store: Path, tmp_path: Path) -> None:
    copy = copy_store(store, read_manifest(store), {32}, tmp_path)
    (copy / "vocab.txt").chmod(0o666)
    (copy / "vocab.txt").write_text("theirs")
    copy_store(store, read_manifest(store), {32}, tmp_path)
    assert (copy / "vocab.txt").read_bytes() == (store / "vocab.txt").read_bytes()
    assert not (copy / "vocab.txt").stat().st_mode & 0o022


@pytest.mark.parametrize("place", ["root", "folder", "train"])
def test_a_folder_that_is_a_link_is_refused(store: Path, tmp_path: Path, place: str) -> None:
    manifest, elsewhere, node = read_manifest(store), tmp_path / "elsewhere", tmp_path / "node"
    copy = copy_store(store, manifest, {32}, node)
    link = {"root": node, "folder": copy, "train": copy / "train"}[place]
    link.replace(elsewhere)
    link.symlink_to(elsewhere)
    before = all_below(elsewhere)
    with pytest.raises(StoreError, match=r"hardware\.local_data=.* is a link.*: name (the|a) folder"):
        copy_store(store, manifest, {32, 64}, node)
    assert all_below(elsewhere) == before


def test_folders_of_another_user_are_refused(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the root's owner, and of the folder's below a root that root owns, as scratch disks are."""
    manifest, node, owner = read_manifest(store), tmp_path / "node", os.geteuid()
    copy = copy_store(store, manifest, {32}, node)
    monkeypatch.setattr(local_copy.os, "geteuid", lambda: 4321)
    monkeypatch.setattr(Path, "lstat", as_if({node: 1234, copy: 1234}))
    with pytest.raises(StoreError, match=r"hardware\.local_data=.*belongs to another user; choose another disk"):
        copy_store(store, manifest, {32}, node)
    monkeypatch.setattr(Path, "lstat", as_if({node: 0, copy: 1234}))
    with pytest.raises(
        StoreError, match=f"{copy.name} is a link, or belongs to another user: name a folder of your own"
    ):
        copy_store(store, manifest, {32}, node)
    monkeypatch.setattr(local_copy.os, "geteuid", lambda: owner)
    monkeypatch.setattr(Path, "lstat", as_if({node: 0}))
    assert copy_store(store, manifest, {32}, node) == copy


LSTAT = Path.lstat


def as_if(owners: dict[Path, int]) -> Any:
    """`Path.lstat` where these paths belong to others."""

    def lstat(path: Path) -> os.stat_result:
        status = list(LSTAT(path))
        status[4] = owners.get(path, status[4])
        return os.stat_result(status)

    return lstat


def test_a_root_where_all_may_rename_is_refused(store: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.mkdir()
    node.chmod(0o777)
    with pytest.raises(StoreError, match="every user may rename what lies in it"):
        copy_store(store, read_manifest(store), {32}, node)
    node.chmod(0o1777)
    assert copy_store(store, read_manifest(store), {32}, node).is_dir()
