"""The data stage cut, run again, run with other settings, and its store damaged."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from prepare_tools import command, corpus, data_settings, digests, overrides, write_jsonl

from bert_lamb.data.manifest import read_manifest, verify_store
from bert_lamb.data.store import documents_name, spans_name
from data_prep.prepare import prepare
from data_prep.store import pool
from data_prep.store.resume import PrepareError


def left_running(session: int) -> list[int]:
    """Processes of a session that still run after some patience."""

    def runs(process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    deadline_s = time.monotonic() + 10
    while (alive := [p.pid for p in psutil.process_iter() if runs(p)]) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return alive


def test_a_run_that_fails_in_the_middle_goes_on_to_the_same_bytes(text, finished, tmp_path, monkeypatch):
    made = []

    def stop_after_two(folder, data, encoder, rules, part, texts):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(part.number)
        return make_shard(folder, data, encoder, rules, part, texts)

    make_shard = pool.make_shard
    monkeypatch.setattr(pool, "make_shard", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        prepare(data_settings(paths=[text]), tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()
    # a finished shard whose file was damaged meanwhile is made again
    (tmp_path / "store" / "train" / documents_name(1)).write_bytes(b"damaged")
    monkeypatch.setattr(pool, "make_shard", lambda *a: (made.append(a[4].number), make_shard(*a))[1])
    prepare(data_settings(paths=[text]), tmp_path / "store")
    assert made == [0, 1, 1, 2, 3]
    assert digests(tmp_path / "store") == digests(finished)


def stop_in_the_middle(process: subprocess.Popen, folder: Path, how: signal.Signals) -> str:
    """Sends a signal once another shard is finished; what the process said."""
    before = set(folder.glob(".work/shard-*.json"))
    deadline_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline_s:
        if set(folder.glob(".work/shard-*.json")) - before:
            break
        time.sleep(0.002)
    os.kill(process.pid, how)
    _, said = process.communicate(timeout=30)  # an orphan would hold the pipe
    assert not (folder / "manifest.json").exists()
    assert not left_running(process.pid)  # its processes went with it
    return said


def test_a_killed_command_goes_on_to_the_same_bytes(tmp_path):
    text = corpus(tmp_path / "text", files=12, documents=200)
    store = tmp_path / "cut" / "store"
    settings = overrides(text, tmp_path / "cut", "data.processes=2")
    killed = command(*settings, start_new_session=True)
    stop_in_the_middle(killed, store, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    stopped = command(*settings, start_new_session=True)
    assert "finished shards are kept" in stop_in_the_middle(stopped, store, signal.SIGTERM)
    assert stopped.returncode == 75
    assert 0 < len(list(store.glob(".work/shard-*.json"))) < 12
    resumed = command(*settings)
    _, said = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, said
    assert "resuming: " in said
    prepare(data_settings(paths=[text], seq_lens=[32, 64, 128, 512], shard_mib=64), tmp_path / "whole")
    assert digests(store) == digests(tmp_path / "whole")


def test_a_second_run_does_nothing_and_says_so(text, store, caplog):
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()}
    with caplog.at_level("INFO"):
        prepare(data_settings(paths=[text], processes=2, max_reject_share=0.2, root="elsewhere"), store)
    count = read_manifest(store)["counts"]["documents"]
    assert caplog.messages == [f"prepared already: {store}, {count} documents"]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_finished_store_does_not_need_its_raw_text(store, tmp_path):
    prepare(data_settings(paths=[tmp_path / "deleted"]), store)
    prepare(data_settings(paths=[tmp_path / "deleted"], strip_accents=True), store)  # the same as null, in lower case


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 4, "passes": 3}, "- data.passes: 2 -> 3\n- data.seed: 3 -> 4\n"),
        ({"seq_lens": [32]}, r"- data.seq_lens: \[32, 64\] -> \[32\]\n"),
        ({"lower_case": False}, "- data.lower_case: True -> False\n"),
        ({"strip_accents": False}, "- data.strip_accents: None -> False\n"),
    ],
)
def test_other_settings_are_refused_with_the_difference(text, store, changed, message):
    with pytest.raises(PrepareError, match=message) as error:
        prepare(data_settings(paths=[text], **changed), store)
    assert f"another name (data.name=...), or delete {store}" in str(error.value)


def test_other_input_is_refused_with_the_difference(text, store, tmp_path):
    other = shutil.copytree(text, tmp_path / "other")
    write_jsonl(other / "part-09.jsonl", ["More."])
    write_jsonl(other / "part-00.jsonl", ["Other."])
    with pytest.raises(PrepareError) as error:
        prepare(data_settings(paths=[other]), store)
    assert "- input part-00.jsonl: bytes" in str(error.value)
    assert "- input part-09.jsonl: is among data.paths now, but was not read before" in str(error.value)


def test_a_begun_store_is_refused_to_other_settings_and_other_input(text, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(pool, "make_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(data_settings(paths=[text]), tmp_path / "store")
    with pytest.raises(PrepareError, match=r"was begun with other settings:\n- data.seed: 3 -> 5"):
        prepare(data_settings(paths=[text], seed=5), tmp_path / "store")
    other = shutil.copytree(text, tmp_path / "other")
    path = other / "part-00.jsonl"
    path.write_bytes(path.read_bytes().replace(b"ba", b"be", 1))  # same name, same size
    with pytest.raises(PrepareError, match=r"- input part-00.jsonl: sha256 "):
        prepare(data_settings(paths=[other]), tmp_path / "store")


def test_a_flipped_byte_is_named_and_mended(text, store, finished):
    path = store / "train" / spans_name(32, 1, 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    problems = verify_store(store, read_manifest(store))
    assert len(problems) == 1
    assert str(path) in problems[0]
    prepare(data_settings(paths=[text]), store)
    assert digests(store) == digests(finished)


def test_only_missing_files_are_made_again(text, store, finished, monkeypatch):
    (store / "train" / documents_name(1)).unlink()
    (store / "heldout" / spans_name(64, 0, 0)).unlink()
    untouched = {p: p.stat().st_mtime_ns for p in store.glob("*/*-0000[023].arrow")}
    prepare(data_settings(paths=[text]), store)
    assert digests(store) == digests(finished)
    assert {p: p.stat().st_mtime_ns for p in untouched} == untouched
    assert not (store / ".work").exists()


def test_a_lost_trained_vocabulary_is_not_replaced_by_a_guess(text, store):
    (store / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(PrepareError, match=r"vocab\.txt is missing or damaged, and was trained"):
        prepare(data_settings(paths=[text]), store)


def test_one_request_to_stop_by_two_ways_is_one(tmp_path):
    """A launcher may signal a whole group, and its parent too."""
    text = corpus(tmp_path / "text", files=12, documents=200)
    process = command(*overrides(text, tmp_path / "cut", "data.processes=2"), start_new_session=True)
    while not list((tmp_path / "cut" / "store").glob(".work/shard-*.json")):
        time.sleep(0.002)
    for how in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "Traceback" not in said
    assert not left_running(process.pid)
