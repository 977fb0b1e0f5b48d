"""What a forged or damaged manifest may do: be refused with its name, and nothing else."""

import copy
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tools import make_store

from bert_lamb.data.local_copy import copy_store
from bert_lamb.data.manifest import read_manifest, read_manifest_file
from bert_lamb.data.store import StoreError

NAMES = [
    "../../../x", "/etc/passwd", "train/../../x", "train/seq32-pass0-00000.arrow/../../../y", "vocab.txt\n", "",
    "./vocab.txt", "train/documents-0.arrow", "train/documents-00000.arrow\0", "train/documents-99999999999.arrow",
    "other/documents-00000.arrow", "train/seq32-pass٣-00000.arrow", ".lock", "squad/test.json", "manifest.json",
    "train/seq032-pass0-00000.arrow", "..", "train\\documents-00000.arrow", "train//documents-00000.arrow",
]  # fmt: skip
VALUES: list[Any] = [None, True, -1, 10**30, 1.5, "x", "", [], {}, [1], {"a": None}, [[]]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "made"
    make_store(folder)
    return folder


@pytest.fixture
def forged(store: Path, tmp_path: Path) -> Path:
    """A folder with nothing but a copy of the manifest."""
    (tmp_path / "forged").mkdir()
    (tmp_path / "forged/manifest.json").write_bytes((store / "manifest.json").read_bytes())
    return tmp_path / "forged"


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value inside an object."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [place for key, inner in items for place in [(*path, key), *places(inner, (*path, key))]]


def changed(manifest: dict[str, Any], path: tuple, new: Any) -> dict[str, Any]:
    manifest = copy.deepcopy(manifest)
    inside: Any = manifest
    for key in path[:-1]:
        inside = inside[key]
    if new is KeyError:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return manifest


def what_readers_do(manifest: dict[str, Any]) -> None:
    """The accesses of training, planning and reports."""
    assert 0 < manifest["tokenizer"]["size"] < 2**31
    assert isinstance(manifest["tokenizer"]["lower_case"], bool)
    assert all(manifest["tokenizer"]["special_ids"][t] >= 0 for t in ("[PAD]", "[CLS]", "[SEP]", "[MASK]"))
    for passes in (p for split in ("train", "heldout") for p in manifest["instances"][split].values()):
        assert all(p["instances"] + p["tokens"] + p["random_next"] >= 0 for p in passes)
    for name, about in manifest["files"].items():
        assert ".." not in name
        assert len(about["sha256"]) == 64
        assert about["rows"] + about["tokens"] >= 0
    assert f"{manifest['unigram_entropy_nats']:.3f} {manifest['counts']['sentences']:,}"
    assert "".join([*manifest["notes"], *manifest.get("warnings", [])]) is not None
    assert all(0 <= s <= 1 for shares in manifest.get("random_next_share", {}).values() for s in shares.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_file_of_a_store_has(forged: Path, store: Path, tmp_path: Path, name: str) -> None:
    manifest = read_manifest(store)
    manifest["files"][name] = {"sha256": "0" * 64, "rows": 1, "tokens": 1}
    (forged / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="which no file of a store is called"):
        read_manifest(forged)
    with pytest.raises(StoreError, match="no file of a store"):
        copy_store(store, manifest, {32, 64}, tmp_path / "node/a/b")
    assert not (tmp_path / "node/x").exists()


def test_the_names_that_there_are(forged: Path, store: Path) -> None:
    manifest = read_manifest(store)
    for name in (
        "squad/train.json",
        "squad/dev.json",
        "heldout/seq512-pass0-00003.arrow",
        "train/documents-123456.arrow",
    ):
        manifest["files"][name] = {"sha256": "0" * 64, "rows": 1, "tokens": 1}
    (forged / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(forged) == manifest


def test_every_field_of_any_other_kind(forged: Path, store: Path) -> None:
    """A field that is missing or of another type is refused, or is one that no reader needs."""
    manifest, file, refused = read_manifest(store), forged / "manifest.json", 0
    for path in places(manifest):
        for new in [KeyError, *VALUES]:
            file.write_text(json.dumps(changed(manifest, path, new)))
            try:
                readable = read_manifest_file(file)
            except StoreError as error:
                refused += str(file) in str(error)
            else:
                what_readers_do(readable)
    assert refused > 500


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 1_000_000, "nested without end"),
        (b'{"a":' * 1_000_000, "nested without end"),
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b'{"format_version": NaN}', "NaN is not a number"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"format_version": true}', "has format True"),
        (b'{"format_version": 1}', "'tokenizer' is missing"),
    ],
)
def test_content_that_is_no_manifest(forged: Path, content: bytes, words: str) -> None:
    (forged / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=words) as told:
        read_manifest(forged)
    assert len(str(told.value)) < 2000


def test_a_number_that_is_none(forged: Path) -> None:
    text = (forged / "manifest.json").read_text()
    for word in ("NaN", "Infinity", "-Infinity", "1e999", "-0.5"):
        broken = text.replace('"unigram_entropy_nats": ', f'"unigram_entropy_nats": {word}, "was": ')
        (forged / "manifest.json").write_text(broken)
        with pytest.raises(StoreError):
            read_manifest(forged)


def test_a_manifest_larger_than_any(forged: Path) -> None:
    os.truncate(forged / "manifest.json", 2**40)  # a file with a hole: no block of it is on the disk
    with pytest.raises(StoreError, match="larger than any manifest"):
        read_manifest(forged)


def test_flipped_bits(forged: Path) -> None:
    """Whatever is read after a flip has everything that readers need."""
    dice, whole, told = random.Random(0), (forged / "manifest.json").read_bytes(), []
    for _ in range(1000):
        content = bytearray(whole)
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (forged / "manifest.json").write_bytes(content)
        try:
            what_readers_do(read_manifest(forged))
        except StoreError as error:
            told.append(str(error))
    assert len(told) > 500
    assert all(str(forged) in message for message in told)
