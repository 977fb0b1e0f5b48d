"""Several sources in one store: each with its own documents and its share of them."""

import json

from prepare_tools import data_settings, digests, write_jsonl, write_text
from tools import composed

from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import read_documents
from bert_lamb.settings import MixSettings
from bert_lamb.settings.checks import setting_problems
from data_prep.prepare import prepare


def test_each_source_has_its_own_documents_and_share(tmp_path):
    articles = write_jsonl(tmp_path / "a" / "x.jsonl", write_text(1, 200))
    lines = [line for text in write_text(2, 100) for line in text.split("\n")][:300]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    mix = {
        "wikipedia": MixSettings([str(articles)], None, 0, 0.5),
        "books": MixSettings([str(tmp_path / "b")], None, 10, 1.0),
    }
    prepare(data_settings(mix=mix), tmp_path / "store")
    manifest = read_manifest(tmp_path / "store")
    assert [source["name"] for source in manifest["sources"]] == ["books/x.jsonl", "wikipedia/x.jsonl"]
    ids = [id for path in tmp_path.glob("store/*/documents-*") for id in read_documents(path).ids]
    taken = [id for id in ids if id.startswith("wikipedia/")]
    assert sorted(set(ids) - set(taken)) == sorted(f"books/x.jsonl:{n}" for n in range(1, 300, 10))
    assert 75 < len(taken) < 125
    assert manifest["left_out"] == {"beyond its source's share": 200 - len(taken)}
    assert manifest["settings"]["mix"]["wikipedia"] == {"sentences_per_document": 0, "share": 0.5}
    assert any("10 consecutive ones are a document" in note for note in manifest["notes"])
    back = dict(reversed(mix.items()))
    prepare(data_settings(mix=back), tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "store")
    mix["wikipedia"].share = 0.8  # more of the same: those of before and others
    prepare(data_settings(mix=mix), tmp_path / "more")
    more = {id for path in tmp_path.glob("more/*/documents-*") for id in read_documents(path).ids}
    assert set(ids) < more


def test_the_notes_name_every_list_of_sentences(tmp_path):
    for folder in ("b", "c"):
        (tmp_path / folder).mkdir()
        lines = [line for text in write_text(2, 60) for line in text.split("\n")][:200]
        (tmp_path / folder / "x.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    mix = {name: MixSettings([str(tmp_path / name)], None, n, 1.0) for name, n in (("b", 10), ("c", 20))}
    prepare(data_settings(mix=mix, passes=1), tmp_path / "store")
    notes = [n for n in read_manifest(tmp_path / "store")["notes"] if n.startswith("Lists of sentences")]
    assert [n.split(" consecutive")[0] for n in notes] == [
        "Lists of sentences: b/x.jsonl. 10",
        "Lists of sentences: c/x.jsonl. 20",
    ]


def test_the_settings_compose_and_are_checked():
    s = composed("data=wikibooks", "data.mix.bookcorpus.share=0.5", "data.mix.wikipedia.paths=[/w]")
    assert s.data.mix["bookcorpus"].share == 0.5
    assert s.data.mix["wikipedia"].paths == ["/w"]
    assert not [p for p in setting_problems(s) if "data.mix" in p]
    s.data.mix["bookcorpus"].share = 0
    s.data.paths = ["/both"]
    problems = [p for p in setting_problems(s) if "data.mix" in p]
    assert (
        "data.mix names its own sources (wikipedia, bookcorpus): give their files as data.mix.NAME.paths" in problems[0]
    )
    assert problems[1].startswith("data.mix.bookcorpus: share=0 and")
