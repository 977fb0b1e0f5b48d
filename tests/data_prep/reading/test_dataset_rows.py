"""Datasets of the `datasets` library as a source: their rows are kept once, whole, and read as any other text."""

import json
from pathlib import Path

import datasets
import pytest
from prepare_tools import data_settings, digests, write_text

from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import read_documents
from data_prep.prepare import prepare
from data_prep.reading import dataset_rows
from data_prep.reading.dataset_rows import input_files, keep_rows, rows_folder
from data_prep.reading.sources import SourceError


@pytest.fixture
def texts() -> list[str]:
    return write_text(3, 60)


def asked(tmp_path: Path, **given) -> object:
    return data_settings(source="hf", root=str(tmp_path / "root"), **given)


def saved(folder: Path, texts: list[str]) -> str:
    rows = datasets.Dataset.from_dict({"body": texts, "id": [f"doc-{i}" for i in range(len(texts))]})
    datasets.DatasetDict({"train": rows, "test": rows.select(range(3))}).save_to_disk(str(folder))
    return str(folder)


def ids_of(store: Path) -> list[str]:
    return [i for path in sorted(store.glob("*/documents-*.arrow")) for i in read_documents(path).ids]


def test_a_folder_of_save_to_disk_becomes_a_store(tmp_path, texts):
    data = asked(tmp_path, dataset=saved(tmp_path / "saved", texts), text_field="body")
    prepare(data, tmp_path / "one")
    assert sorted(i.split(":")[1] for i in ids_of(tmp_path / "one")) == sorted(f"doc-{i}" for i in range(60))
    manifest = read_manifest(tmp_path / "one")
    assert manifest["counts"]["records"] == 60
    assert "saved" not in json.dumps(manifest["sources"]), "no path is written"
    prepare(data, tmp_path / "two")  # from the rows that are kept
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


def test_files_by_the_name_of_their_format(tmp_path, texts):
    (tmp_path / "list.json").write_text(json.dumps([{"text": text} for text in texts]))
    data = asked(tmp_path, dataset="json", paths=[str(tmp_path / "list.json")])
    prepare(data, tmp_path / "store")
    assert len(ids_of(tmp_path / "store")) == 60


def test_reading_that_was_cut_goes_on_to_the_same_rows(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(dataset_rows, "FILE_BYTES", 2000)
    name = saved(tmp_path / "saved", texts)
    whole = data_settings(source="hf", root=str(tmp_path / "whole"), dataset=name, text_field="body")
    cut = data_settings(source="hf", root=str(tmp_path / "cut"), dataset=name, text_field="body")
    keep_rows(whole)
    write, written = dataset_rows.write_whole, []

    def fails_at_the_fourth(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 4:
            raise ConnectionError("the network is gone\nand more")
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(dataset_rows, "write_whole", fails_at_the_fourth)
        with pytest.raises(SourceError, match=r"ConnectionError: the network is gone\. What was read is kept"):
            keep_rows(cut)
    with pytest.raises(SourceError, match="not, or not all, in"):
        input_files(cut)
    keep_rows(cut)
    contents = [{p.name: p.read_bytes() for p in rows_folder(d).glob("rows-*")} for d in (whole, cut)]
    assert len(contents[0]) > 5
    assert contents[0] == contents[1]


def test_a_wrong_column_split_or_name_is_told_with_what_there_is(tmp_path, texts):
    name = saved(tmp_path / "saved", texts)
    with pytest.raises(SourceError, match=r"data\.text_field=text: .* has no such column; it has body, id"):
        keep_rows(asked(tmp_path, dataset=name))
    with pytest.raises(SourceError, match=r"data\.split=dev: .*saved has train, test"):
        keep_rows(asked(tmp_path, dataset=name, split="dev", text_field="body"))
    with pytest.raises(SourceError, match=r"data\.dataset=json .*cannot be read: \w+Error"):
        keep_rows(asked(tmp_path, dataset="json", paths=[str(tmp_path / "none.json")]))


def test_a_forged_list_of_rows_names_no_file_elsewhere(tmp_path, texts):
    data = asked(tmp_path, dataset=saved(tmp_path / "saved", texts), text_field="body")
    folder = rows_folder(data)
    folder.mkdir(parents=True)
    (folder / "about.json").write_text(json.dumps({"files": [["../../../etc/passwd", 1]], "complete": True}))
    with pytest.raises(SourceError, match="not, or not all, in"):
        input_files(data)
    keep_rows(data)
    assert [Path(f.path).parent for f in input_files(data)] == [folder]
