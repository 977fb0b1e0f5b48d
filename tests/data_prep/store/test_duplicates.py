"""Equal documents: the first stays, whatever the processes, the order of work, or kills in either pass."""

import json
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from prepare_tools import command, data_settings, digests, overrides, write_text

from bert_lamb.data.manifest import read_manifest, verify_store
from bert_lamb.data.store import documents_name, read_documents
from data_prep.prepare import prepare
from data_prep.store import duplicates, pool
from data_prep.store.duplicates import later_ones

FILES = 4


def write(folder: Path, rows: list[list[tuple[str, str]]]) -> Path:
    """A file of JSON lines for each list of (id, text)."""
    folder.mkdir(parents=True)
    for number, file in enumerate(rows):
        lines = [json.dumps({"id": key, "text": text}) + "\n" for key, text in file]
        (folder / f"part-{number:02d}.jsonl").write_text("".join(lines))
    return folder


def rows_with_duplicates(documents: int = 40) -> list[list[tuple[str, str]]]:
    """Every file repeats five texts of itself and five of the one after it; some differ before cleaning only."""
    own = [write_text(seed, documents) for seed in range(FILES)]
    rows = []
    for number, texts in enumerate(own):
        again = [text.replace("\n", "\r\n\n") + "\u200b" for text in texts[:5]]
        mixed = texts + again + own[(number + 1) % FILES][20:25]
        nothing = (f"f{number}empty", "\u200b")  # has no place
        rows.append([nothing, *((f"f{number}n{i}", text) for i, text in enumerate(mixed))])
    return rows


@pytest.fixture(scope="module")
def double(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("double") / "text", rows_with_duplicates())


@pytest.fixture(scope="module")
def single(double, tmp_path_factory) -> Path:
    """The store of `double`, made by one process."""
    folder = tmp_path_factory.mktemp("single") / "store"
    prepare(data_settings(paths=[double], deduplicate=True), folder)
    return folder


def ids(store: Path) -> set[str]:
    return {id for path in store.glob("*/documents-*") for id in read_documents(path).ids}


def test_later_ones_by_hand():
    a, b = 5, 2**63 + 5  # of different shares
    signatures = np.array([a, b, a, 7, b, 0, 7, 7, a], "<u8")
    found = later_ones(signatures, [3, 0, 2, 4])
    assert [places.tolist() for places in found] == [[2], [], [1], [2 - 1, 2, 3]]
    assert all(places.dtype == np.uint32 for places in found)


def test_later_ones_are_those_of_a_dictionary():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64 - 1, 700, dtype=np.uint64)
    lengths = rng.integers(0, 60, 50).tolist()
    signatures = rng.choice(values, sum(lengths)).astype("<u8")
    seen: set[int] = set()
    expected, rest = [], iter(signatures.tolist())
    for length in lengths:
        drawn = [(place, next(rest)) for place in range(length)]
        expected.append([place for place, value in drawn if value in seen or seen.add(value)])  # type: ignore[func-returns-value]
    assert [places.tolist() for places in later_ones(signatures, lengths)] == expected
    assert sum(map(len, expected)) > 300


def test_the_store_is_that_of_the_input_without_its_duplicates(double, single, tmp_path):
    seen: set[str] = set()
    unique, dropped = [], Counter()
    for number, file in enumerate(rows_with_duplicates()):
        unique.append([])
        for key, text in file:
            plain = "\n".join(text.replace("\u200b", "").split())
            if plain and plain in seen:
                dropped[number] += 1
            else:
                seen.add(plain)
                unique[-1].append((key, text))
    assert dropped == {0: 5, 1: 10, 2: 10, 3: 15}  # a text of two files stays in the first
    prepare(data_settings(paths=[write(tmp_path / "text", unique)]), tmp_path / "store")
    made, expected = digests(single), digests(tmp_path / "store")
    for name in ("manifest.json", *(n for n in made if n.startswith("rejects/"))):
        made.pop(name, None)
        expected.pop(name, None)
    assert made == expected
    assert len(made) > 20
    manifest = read_manifest(single)
    assert manifest["left_out"] == {"the same text as an earlier document": 40}
    assert manifest["counts"]["records"] == 4 * 51 - 40
    assert manifest["rejects"] == {"empty": 4}
    lines = [json.loads(line) for path in sorted(single.glob("rejects/*")) for line in path.read_text().splitlines()]
    lines = [line for line in lines if line["reason"] != "empty"]
    assert len(lines) == 40
    assert {"file": "part-00.jsonl:f0n40", "line": 42}.items() <= lines[0].items()


def test_processes_and_the_place_of_the_input_never_change_a_byte(double, single, tmp_path):
    moved = shutil.copytree(double, tmp_path / "elsewhere")
    paths = sorted(moved.iterdir(), reverse=True)
    prepare(data_settings(paths=paths, processes=3, deduplicate=True), tmp_path / "store")
    assert digests(tmp_path / "store") == digests(single)


def test_a_first_pass_that_was_cut_goes_on(double, single, tmp_path, monkeypatch):
    signed, stops = [], [2, 4]

    def stop_twice(place, data, part, texts):
        if stops and len(signed) == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        signed.append(part.number)
        return sign(place, data, part, texts)

    sign = duplicates.sign
    monkeypatch.setattr(duplicates, "sign", stop_twice)
    in_order = pool.payloads
    monkeypatch.setattr(pool, "payloads", lambda slices, data: reversed(list(in_order(slices, data))))
    other = shutil.copytree(double, tmp_path / "other")
    (other / "part-03.jsonl").write_text((other / "part-02.jsonl").read_text())
    data = data_settings(paths=[double], deduplicate=True)
    for begun in (data_settings(paths=[other], deduplicate=True), data):  # another input's signatures are of no use
        with pytest.raises(KeyboardInterrupt):
            prepare(begun, tmp_path / "store")
    prepare(data, tmp_path / "store")
    assert signed == [3, 2, 3, 2, 1, 0]
    assert digests(tmp_path / "store") == digests(single)


def test_kills_in_both_passes_never_change_a_byte(tmp_path):
    text = write(tmp_path / "text", rows_with_duplicates(400))
    store = tmp_path / "cut" / "store"
    settings = overrides(text, tmp_path / "cut", "data.processes=2", "data.deduplicate=true")
    for pattern in (".work/signatures-*/*.u8", ".work/shard-*.json"):
        run = command(*settings, start_new_session=True)
        deadline_s = time.monotonic() + 60
        while run.poll() is None and not list(store.glob(pattern)) and time.monotonic() < deadline_s:
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=30)
        assert not (store / "manifest.json").exists()
    resumed = command(*settings)
    _, said = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, said
    assert "making signatures of 0 of 4 slices" in said
    prepare(
        data_settings(paths=[text], seq_lens=[32, 64, 128, 512], shard_mib=64, deduplicate=True), tmp_path / "whole"
    )
    assert digests(store) == digests(tmp_path / "whole")


def test_a_damaged_store_is_mended_without_its_duplicates(double, single, tmp_path):
    store = Path(shutil.copytree(single, tmp_path / "store"))
    (store / "train" / documents_name(3)).unlink()
    prepare(data_settings(paths=[double], deduplicate=True), store)
    assert digests(store) == digests(single)
    assert not verify_store(store, read_manifest(store))


def test_tasks_of_an_array_know_the_duplicates_of_all(double, single, tmp_path):
    for part in (1, 0, None):
        parts = {} if part is None else {"part": part, "parts": 2}
        prepare(data_settings(paths=[double], deduplicate=True, **parts), tmp_path / "store")
    assert digests(tmp_path / "store") == digests(single)


def test_off_it_costs_nothing_and_is_no_part_of_the_store(double, single, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "sign", None)
    prepare(data_settings(paths=[double]), tmp_path / "store")
    assert "deduplicate" not in read_manifest(tmp_path / "store")["settings"]
    assert read_manifest(single)["settings"]["deduplicate"] is True
    assert len(ids(tmp_path / "store")) - len(ids(single)) == 40
