"""A million brackets in each small file that some command reads: damaged like any other, one message or made again."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from prepare_tools import data_settings, write_jsonl
from tools import tiny

from bert_lamb import sweep
from bert_lamb.bench.gpu import Results
from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import StoreError
from bert_lamb.errors import UserError
from bert_lamb.planning import rates
from bert_lamb.planning.cost import BudgetError, device_rate
from bert_lamb.run import RunFolderError, open_run, run_precision
from bert_lamb.run.progress import STATE, Progress, ProgressError, read_progress
from data_prep.prepare import prepare
from data_prep.reading.hub_files import about_path, read_about
from data_prep.shards.folder import StoreFolder
from data_prep.shards.make import read_record
from data_prep.store.resume import PrepareError, earlier_begun

BAD = ["[" * 1_000_000, '{"a":' * 1_000_000, "{", "[]", '{"a": ' + "[" * 900 + "]" * 900 + "}", '{"a": 1}']
each = pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad[:5]}*{len(bad)}")


@each
def test_state_of_a_checkpoint(tmp_path, bad):
    (tmp_path / STATE).write_text(bad)
    with pytest.raises(ProgressError, match=r"state\.json cannot be read"):
        read_progress(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"step": "5"}, {"step": -1}, {"step": 1.5}, {"step": 10**30}, {"skipped": True}, {"recent_losses": ["a"]},
     {"recent_losses": {}}, {"recent_losses": None}, {"pending": [1]}, {"pending": {"tokens": None}}],
    ids=str,
)  # fmt: skip
def test_state_with_a_wrong_kind_inside(tmp_path, wrong):
    good = dataclasses.asdict(Progress(1, 5, recent_losses=[7.0, 6], pending={"tokens": 1.0}))
    (tmp_path / STATE).write_text(json.dumps(good))
    assert read_progress(tmp_path).step == 5
    (tmp_path / STATE).write_text(json.dumps(good | wrong))
    with pytest.raises(ProgressError, match=next(iter(wrong))):
        read_progress(tmp_path)


@each
def test_manifest(tmp_path, bad):
    (tmp_path / "manifest.json").write_text(bad)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        read_manifest(tmp_path)


@each
def test_precision_of_a_run(place, bad, caplog):
    s = tiny(place, "hardware.precision=auto", "run.name=brackets")
    folder = open_run(s)
    folder.precision_file.write_text(bad)
    with pytest.raises(RunFolderError, match=r"precision\.json is missing"):
        run_precision(s, folder)
    assert "kept aside as damaged-precision.json" in caplog.text


@each
def test_rates_are_timed_again(place, tmp_path, bad, monkeypatch):
    monkeypatch.setattr(rates, "device_tflops", lambda *_: 0.5)
    kept = tmp_path / "rates.json"
    kept.write_text(bad.replace("1}", '"fast"}'))
    assert rates.measured_rates(tiny(place), 1, torch.device("cpu"), "fp32", 120, kept)[1][0] == 0.5
    assert (tmp_path / "damaged-rates.json").is_file()


@each
def test_figures_of_a_gpu(place, tmp_path, bad):
    path = tmp_path / "gpu.json"
    path.write_text(bad)
    with pytest.raises(BudgetError, match=r"hardware\.measured=.*gpu\.json: not a file"):
        device_rate(tiny(place, f"hardware.measured={path}"), 128)
    with pytest.raises(SystemExit, match=r"gpu\.json is damaged"):
        Results(path, {"device": "x"})
    path.write_text('{"machine": {"device": "x", "commit": "y"}, "a": {"tflops": "fast"}}')
    with pytest.raises(BudgetError, match="not a file"):
        device_rate(tiny(place, f"hardware.measured={path}"), 128)


@each
def test_trials_of_a_sweep(tmp_path, bad, monkeypatch, capsys):
    """What one trial left is named beside the others'."""

    def trial() -> None:
        good = {"overrides": ["seed=1"], "folder": None, "failed": "prepare", "reason": "no text"}
        (tmp_path / "trial-000.json").write_text(json.dumps(good))
        (tmp_path / "trial-001.json").write_text(bad)

    monkeypatch.setattr(sweep, "trial", trial)
    monkeypatch.setattr(sweep, "summary", lambda folders: "")
    monkeypatch.setattr(sys, "argv", ["sweep", f"hydra.sweep.dir={tmp_path}"])
    with pytest.raises(SystemExit):
        sweep.main()
    said = capsys.readouterr().out
    assert "failed in prepare: seed=1" in said
    assert "trial-001.json is damaged" in said


@each
def test_files_of_a_begun_store(tmp_path, bad):
    folder = StoreFolder(tmp_path)
    folder.work.mkdir()
    for file in (folder.begun_file, folder.record_file(0)):
        file.parent.mkdir(exist_ok=True)
        file.write_text(bad)
    with pytest.raises(PrepareError, match=r"is damaged.*delete .* or choose another data\.name"):
        earlier_begun(folder, {})
    assert read_record(folder, 0) is None


def test_a_record_of_a_shard_names_files_of_the_store_alone(tmp_path):
    folder = StoreFolder(tmp_path / "store")
    record = {"number": 0, "files": {"../secret": {"sha256": "0" * 64}}}
    folder.record_file(0).parent.mkdir(parents=True)
    folder.record_file(0).write_text(json.dumps(record))
    assert read_record(folder, 0) is None


@pytest.mark.parametrize(
    "bad", [*BAD, '{"files": {"../x": {"size": 1, "sha256": ""}}, "complete": true, "commit": "c"}']
)
def test_what_was_fetched(tmp_path, bad):
    data = data_settings(root=str(tmp_path))
    data.hub = "some/text@main:en/*.parquet"
    about_path(data).parent.mkdir(parents=True)
    about_path(data).write_text(bad)
    assert read_about(data) is None


def test_records_of_jsonl_cost_themselves_alone(text, tmp_path):
    """Read, rejected by name, and counted; a field nested 900 deep cannot even be printed."""
    source = tmp_path / "text"
    source.mkdir()
    for old in Path(text).glob("*.jsonl"):
        (source / old.name).write_bytes(old.read_bytes())
    write_jsonl(source / "z.jsonl", ["One good record. It has two sentences."])
    deep = ["[" * 1_000_000, '{"text":' * 1_000_000, '{"text": ' + "[" * 900 + "]" * 900 + "}"]
    with (source / "z.jsonl").open("a") as file:
        file.writelines(line + "\n" for line in deep)
    try:
        prepare(data_settings(paths=[source]), tmp_path / "store")
    except UserError as error:  # too large a share of rejects, where the corpus is small
        pytest.fail(str(error))
    assert read_manifest(tmp_path / "store")["rejects"] == {"malformed JSON": 3}
