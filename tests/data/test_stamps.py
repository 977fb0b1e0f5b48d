"""Files are hashed once, and no stamp is believed that somebody else could have written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools import ROOT, environment, make_store

from bert_lamb.data import stamps
from bert_lamb.data.manifest import read_manifest, verify_store

NAME = "vocab.txt"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stamps, "FRESH_NS", -1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_store(tmp_path / "made")
    return tmp_path / "made"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed since the list was last cleared."""
    names, plain = [], stamps.hashlib.file_digest
    monkeypatch.setattr(
        stamps.hashlib, "file_digest", lambda file, kind: names.append(Path(file.name).name) or plain(file, kind)
    )
    return names


def verified(store: Path) -> list[str]:
    return verify_store(store, read_manifest(store))


def damage(file: Path) -> None:
    """Other bytes of the same size under the same time."""
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0])
def test_files_are_hashed_once_and_nothing_is_written_into_the_store(store, hashed, mask):
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    old = os.umask(mask)
    try:
        assert verified(store) == []
    finally:
        os.umask(old)
    assert len(hashed) == len(read_manifest(store)["files"])
    hashed.clear()
    assert verified(store) == []
    assert hashed == []
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_a_change_behind_size_and_time_is_seen(store, hashed):
    verified(store)
    hashed.clear()
    damage(store / NAME)
    (problem,) = verified(store)
    assert f"{NAME} does not match its SHA-256" in problem
    assert hashed == [NAME]
    hashed.clear()
    assert len(verified(store)) == 1  # nor is what is wrong ever stamped
    assert hashed == [NAME]


def test_another_file_under_the_name_is_hashed(store, hashed):
    verified(store)
    hashed.clear()
    shutil.copy2(store / NAME, store / "copy")
    (store / "copy").replace(store / NAME)
    assert verified(store) == []
    assert hashed == [NAME]


def test_what_changed_a_moment_ago_is_hashed_again(store, hashed, monkeypatch):
    """Another change within the same tick of the file system's clock would look the same."""
    monkeypatch.setattr(stamps, "FRESH_NS", 10**12)
    verified(store)
    hashed.clear()
    verified(store)
    assert len(hashed) == len(read_manifest(store)["files"])


def test_stamps_inside_a_store_are_not_believed(store, hashed):
    """Those of earlier versions; whoever damages a file there could forge them."""
    damage(store / NAME)
    status = (store / NAME).stat()
    about = read_manifest(store)["files"][NAME]
    forged = {NAME: [about["sha256"], status.st_size, status.st_mtime_ns]}
    for name in (os.uname().nodename, "localhost"):
        (store / f".verified-{name}.json").write_text(json.dumps(forged))
    assert len(verified(store)) == 1


def test_a_copy_elsewhere_has_stamps_of_its_own(store, hashed, tmp_path):
    verified(store)
    hashed.clear()
    copied = Path(shutil.copytree(store, tmp_path / "copied"))
    damage(copied / NAME)
    assert len(verified(copied)) == 1
    assert verified(store) == []


@pytest.mark.parametrize("bad", ["", "[]", "{", "[" * 1_000_000, '{"vocab.txt": 5}', '{"vocab.txt": [1, 2]}', "{}"])
def test_damaged_stamps_cost_time_alone(store, hashed, tmp_path, bad):
    verified(store)
    (kept,) = (tmp_path / "cache/bert_lamb/verified").iterdir()
    kept.write_text(bad)
    hashed.clear()
    assert verified(store) == []
    assert NAME in hashed


def test_the_folder_is_the_users_alone(store, tmp_path):
    verified(store)
    for folder in ("cache/bert_lamb", "cache/bert_lamb/verified"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("change", ["open to all", "a link", "no folder", "another user", "file open to all"])
def test_a_cache_that_others_can_write_is_not_used(store, hashed, tmp_path, monkeypatch, change):
    """Then everything is hashed, each time, and no more is said."""
    verified(store)
    folder = tmp_path / "cache/bert_lamb/verified"
    if change == "open to all":
        folder.chmod(0o777)
    elif change == "a link":
        folder.replace(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif change == "no folder":
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache").write_text("a file")
    elif change == "another user":
        monkeypatch.setattr(stamps.os, "geteuid", lambda: os.getuid() + 1)
    else:
        next(folder.iterdir()).chmod(0o666)
    hashed.clear()
    assert verified(store) == []
    assert len(hashed) == len(read_manifest(store)["files"])


def test_without_a_home_everything_is_hashed(store):
    code = "import sys; from pathlib import Path; from bert_lamb.data.manifest import *; s = Path(sys.argv[1])\n"
    code += "print(verify_store(s, read_manifest(s)))"
    given = environment(XDG_CACHE_HOME="relative", HOME="/nonexistent/home")
    done = subprocess.run([sys.executable, "-c", code, store], env=given, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not (ROOT / "relative").exists()
