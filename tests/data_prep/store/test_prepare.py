"""The data stage as a whole: same input, same bytes; store and text agree; bad input is named."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_tools import command, corpus, data_settings, digests, overrides, write_jsonl, write_text

from bert_lamb.data.manifest import read_manifest, verify_store
from bert_lamb.data.store import documents_name, read_documents, read_spans, spans_name
from bert_lamb.data.vocabulary import load_tokenizer
from data_prep.prepare import prepare
from data_prep.reading.slices import payloads, plan_input
from data_prep.reading.sources import source_files
from data_prep.store import build, pool, verdicts
from data_prep.store.resume import PrepareError
from data_prep.text.document import Document
from data_prep.text.records import records
from data_prep.text.sentences import clean, sentences


def test_processes_never_change_a_byte(text, finished, tmp_path):
    prepare(data_settings(paths=[text], processes=3), tmp_path / "store")
    assert digests(tmp_path / "store") == digests(finished)
    assert len(list((finished / "train").glob("documents-*"))) == 4


def test_order_of_completion_and_place_of_the_input_never_change_a_byte(text, finished, tmp_path, monkeypatch):
    moved = shutil.copytree(text, tmp_path / "elsewhere")
    in_order = pool.payloads
    monkeypatch.setattr(pool, "payloads", lambda slices, data: reversed(list(in_order(slices, data))))
    prepare(data_settings(paths=sorted(moved.iterdir(), reverse=True)), tmp_path / "store")
    assert digests(tmp_path / "store") == digests(finished)


def test_nothing_written_names_a_path_a_host_or_a_user(finished):
    for file in finished.rglob("*"):
        if file.is_file():
            assert str(finished.parent).encode() not in file.read_bytes()
    manifest = (finished / "manifest.json").read_text()
    assert "/tmp" not in manifest
    assert os.uname().nodename not in manifest
    assert sorted(p.name for p in finished.iterdir()) == [
        "heldout",
        "manifest.json",
        "rejects",
        "train",
        "vocab.txt",
    ]


def test_every_sequence_says_what_the_text_says(text, finished):
    data = data_settings(paths=[text])
    manifest = read_manifest(finished)
    tokenizer = load_tokenizer(finished, manifest)
    plan = plan_input(data, source_files(data), 1)
    texts = {
        item.id: clean(item.text)
        for part, raw in payloads(plan.slices, data)
        for item in records(part, raw, data)
        if isinstance(item, Document)
    }
    seen = 0
    for split, passes in (("train", 2), ("heldout", 1)):
        for number in range(4):
            path = finished / split / documents_name(number)
            if not path.exists():
                continue
            documents = read_documents(path)
            flat: list[int] = []
            borders = {0}
            for id in documents.ids:  # tokenised again from the raw text
                for sentence in sentences(texts[id], "en"):
                    flat += tokenizer.encode(sentence, add_special_tokens=False).ids
                    borders.add(len(flat))
            assert documents.tokens.tolist() == flat
            assert documents.tokens.dtype == np.uint16
            for seq_len in data.seq_lens:
                for pass_ in range(passes):
                    spans = read_spans(finished / split / spans_name(seq_len, pass_, number))
                    assert spans.lengths.max() <= seq_len
                    whole = spans.lengths < seq_len  # not truncated
                    for start, length in ((spans.a_start, spans.a_length), (spans.b_start, spans.b_length)):
                        assert length.min() >= 1
                        assert {*start[whole], *(start + length)[whole]} <= borders
                    seen += len(spans)
    pairs = [entry for tables in manifest["instances"].values() for t in tables.values() for entry in t]
    assert seen == sum(entry["instances"] for entry in pairs) > 500
    shared = texts.keys() & {i for p in finished.glob("*/documents-*") for i in read_documents(p).ids}
    assert shared == texts.keys()


def test_the_manifest_counts_what_the_files_hold(finished):
    manifest = read_manifest(finished)
    counts = manifest["counts"]
    documents = [read_documents(p) for p in sorted(finished.glob("train/documents-*"))]
    assert counts["documents"] == sum(len(d.ids) for d in documents)
    assert counts["tokens"] == sum(len(d.tokens) for d in documents)
    assert counts["sentences"] == sum(len(d.sentence_ends) for d in documents)
    assert counts["documents"] + counts["heldout_documents"] == counts["records"] == 120
    assert 3 <= counts["heldout_documents"] <= 25
    shares = np.bincount(np.concatenate([d.tokens for d in documents])) / counts["tokens"]
    shares = shares[shares > 0]
    assert manifest["unigram_entropy_nats"] == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-5)
    for pass_, entry in enumerate(manifest["instances"]["train"]["32"]):
        spans = [read_spans(p) for p in finished.glob(f"train/seq32-pass{pass_}-*")]
        assert entry == {
            "pass": pass_,
            "instances": sum(map(len, spans)),
            "tokens": sum(int(s.lengths.sum()) for s in spans),
            "random_next": sum(int((s.is_next == 0).sum()) for s in spans),
        }
    listed = set(manifest["files"])
    on_disk = {p.relative_to(finished).as_posix() for p in finished.glob("*/*.arrow")} | {"vocab.txt"}
    assert listed == on_disk


def test_equal_texts_never_stand_on_both_sides(tmp_path):
    texts = write_text(9, 150)
    write_jsonl(tmp_path / "text" / "a.jsonl", texts)
    write_jsonl(tmp_path / "text" / "b.jsonl", [" " + t.replace("\n", "\r\n\r\n") for t in texts])  # cleans to the same
    prepare(data_settings(paths=[tmp_path / "text"], heldout_share=0.3), tmp_path / "store")
    sides: dict[str, set[str]] = {}
    for split in ("train", "heldout"):
        for path in (tmp_path / "store" / split).glob("documents-*"):
            for id in read_documents(path).ids:
                sides.setdefault(id.split(":")[1], set()).add(split)
    assert len(sides) == 150
    assert all(len(side) == 1 for side in sides.values())
    assert 25 < sum(side == {"heldout"} for side in sides.values()) < 65


def test_rejects_are_counted_kept_and_stop_the_run_above_the_share(tmp_path):
    path = write_jsonl(tmp_path / "text" / "a.jsonl", write_text(1, 97))
    with path.open("ab") as file:
        file.write(b'{"broken\n{"other": 1}\n{"text": ""}\n')
    data = data_settings(paths=[tmp_path / "text"], max_reject_share=0.02)
    with pytest.raises(PrepareError) as error:
        prepare(data, tmp_path / "store")
    message = str(error.value)
    assert "3 of 100 records cannot be used, more than data.max_reject_share=0.02 allows" in message
    assert "- 1 x malformed JSON" in message
    data.max_reject_share = 0.05  # goes on with what is done
    prepare(data, tmp_path / "store")
    manifest = read_manifest(tmp_path / "store")
    assert manifest["rejects"] == {"malformed JSON": 1, "no field 'text'": 1, "empty": 1}
    assert manifest["notes"] == ["3 of 100 records were rejected; samples are in rejects/."]
    kept = [json.loads(line) for line in (tmp_path / "store/rejects/rejects-00000.jsonl").read_text().splitlines()]
    assert [(k["file"], k["line"], k["reason"]) for k in kept] == [
        ("a.jsonl", 98, "malformed JSON"), ("a.jsonl", 99, "no field 'text'"), ("a.jsonl", 100, "empty"),
    ]  # fmt: skip


def test_a_hopeless_input_stops_early(tmp_path, monkeypatch):
    for i in range(3):
        write_jsonl(tmp_path / "text" / f"{i}.jsonl", ["x"] * 10 if i else ["x. y."] * 200)
    (tmp_path / "text" / "0.jsonl").open("ab").write(b'{"broken\n' * 900)
    made = []
    monkeypatch.setattr(build, "check_rejects", lambda *a: made.append("end"))
    with pytest.raises(PrepareError, match="900 of 1,100 records cannot be used"):
        prepare(data_settings(paths=[tmp_path / "text"], vocab_size=100), tmp_path / "store")
    assert not made


def test_a_wrong_field_is_named_before_anything_is_trained(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", write_text(1, 5))
    with pytest.raises(PrepareError, match=r"no field 'body' \(fields: text\)"):
        prepare(data_settings(paths=[tmp_path], text_field="body"), tmp_path / "store")


def test_a_shard_of_one_document_has_no_random_pairs_and_the_manifest_says_so(tmp_path):
    write_jsonl(tmp_path / "text" / "a.jsonl", write_text(1, 20))
    write_jsonl(tmp_path / "text" / "b.jsonl", ["\n".join(write_text(2, 20))])
    prepare(data_settings(paths=[tmp_path / "text"], heldout_share=0.0), tmp_path / "store")
    lone = read_spans(tmp_path / "store" / "train" / spans_name(32, 0, 1))
    assert len(lone) > 10
    assert lone.is_next.all()
    assert read_manifest(tmp_path / "store")["notes"] == [
        "Shards of train with one document, hence without random pairs: 1 (1).",
        "No document is held out: there will be no held-out loss.",
    ]


def test_too_little_text_is_no_store(tmp_path):
    write_jsonl(tmp_path / "text" / "a.jsonl", ["One sentence of a few words"])
    with pytest.raises(
        PrepareError, match=r"no pair of sentences for data.seq_lens=32: only 1 document with 1 sentence left"
    ):
        prepare(data_settings(paths=[tmp_path / "text"], heldout_share=0.0, vocab_size=100), tmp_path / "store")


def test_a_damaged_input_is_named_in_the_manifest(tmp_path):
    corpus(tmp_path / "text", files=2)
    (tmp_path / "text" / "z.jsonl.gz").write_bytes(b"no gzip at all")
    data = data_settings(paths=[tmp_path / "text"])
    prepare(data, tmp_path / "store")
    manifest = read_manifest(tmp_path / "store")
    assert manifest["rejects"] == {"damaged file": 1}
    assert "Damaged input: z.jsonl.gz: broken .gz data" in manifest["notes"][0]


def test_a_full_disk_is_foreseen(text, tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(PrepareError, match=r"GB are free: choose another data\.root"):
        prepare(data_settings(paths=[text]), tmp_path / "store")


def test_errors_reach_people_without_a_traceback(tmp_path):
    run = command(*overrides(tmp_path / "none", tmp_path))
    _, error = run.communicate(timeout=60)
    assert run.returncode == 2
    assert error.startswith("error: data.paths: ")
    assert "Traceback" not in error


def test_the_embedded_corpus_comes_with_its_questions(tmp_path):
    data = data_settings(source="sample", articles=60, books=3, vocab_size=500)
    prepare(data, tmp_path / "store")
    manifest = read_manifest(tmp_path / "store")
    assert manifest["counts"]["records"] == 63
    assert manifest["sources"][0]["name"] == "sample"
    train = json.loads((tmp_path / "store/squad/train.json").read_text())
    assert train["version"] == "1.1"
    assert manifest["files"]["squad/dev.json"]["rows"] > 100
    (tmp_path / "store/squad/dev.json").unlink()
    prepare(data, tmp_path / "store")
    assert not verify_store(tmp_path / "store", manifest)


@pytest.mark.skipif("BERT_LAMB_TEXT" not in os.environ, reason="BERT_LAMB_TEXT names no real text")
def test_real_text(tmp_path):
    prepare(data_settings(paths=[os.environ["BERT_LAMB_TEXT"]], vocab_size=8000, processes=0), tmp_path / "store")
    assert not verify_store(tmp_path / "store", read_manifest(tmp_path / "store"))


def test_runs_of_sentences_are_the_same_for_any_number_of_processes(tmp_path):
    lines = [s.replace(" ", " " * 300) for text in write_text(6, 900) for s in text.split("\n")][:1700]
    pq.write_table(pa.table({"text": lines}), tmp_path / "a.parquet", row_group_size=1000, compression=None)
    (tmp_path / "b.txt").write_text("\n".join(lines))
    paths = [tmp_path / "a.parquet", tmp_path / "b.txt"]
    for processes in (1, 3):
        data = data_settings(paths=paths, sentences_per_document=30, passes=1, processes=processes)
        prepare(data, tmp_path / str(processes))
    assert digests(tmp_path / "1") == digests(tmp_path / "3")
    manifest = read_manifest(tmp_path / "1")
    assert manifest["settings"]["sentences_per_document"] == 30
    assert any("30 consecutive ones are a document" in note for note in manifest["notes"])
    assert manifest["counts"]["records"] == 3400
    assert manifest["counts"]["documents"] + manifest["counts"]["heldout_documents"] == 34 + 24 + 57
