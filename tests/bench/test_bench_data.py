"""The peers of `make bench-data` do what they are compared for, and its page says what was measured."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prepare_tools import write_jsonl, write_text
from tools import environment

from bert_lamb.bench import data as bench
from bert_lamb.bench.own_text import TextError, take, texts
from bert_lamb.bench.peers.pipelines import Pipeline
from bert_lamb.data.masking import masked_counts


def test_the_pipeline_writes_padded_masked_pairs_so_many_times(finished: Path):
    pipeline = Pipeline(finished / "vocab.txt", 32, times=3)
    made = pipeline({"text": write_text(1, 30)})
    assert {len(column) for column in made.values()} == {len(made["labels"])}
    singles = Pipeline(finished / "vocab.txt", 32, times=1)({"text": write_text(1, 30)})
    assert len(made["labels"]) == pytest.approx(3 * len(singles["labels"]), rel=0.2)
    for ids, seen, types, labels in zip(*(made[k] for k in list(made)[:4]), strict=True):
        length = sum(seen)
        assert len(ids) == len(seen) == len(types) == len(labels) == 32
        assert ids[length:] == [pipeline.pad] * (32 - length)
        assert sum(label != -100 for label in labels) == masked_counts([length], 0.15)[0]
        first = ids.index(pipeline.sep)
        assert types[: first + 1] == [0] * (first + 1)
        assert ids[length - 1] == pipeline.sep
    assert 0.4 < sum(made["next_sentence_label"]) / len(made["labels"]) < 0.8


def test_text_is_taken_up_to_the_size_or_refused(tmp_path):
    path = write_jsonl(tmp_path / "a, b.jsonl", ["é" * 10, "two", "three"])
    assert take(texts([path]), 21) == ["é" * 10, "two"]
    with pytest.raises(TextError, match="ends 2 bytes too early"):
        take(texts([path]), 30)


def test_a_contender_is_measured_and_a_failure_is_told(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", write_text(1, 20))
    contender = bench.Contender("splitter", [bench.PEERS, "splitter", str(path)])
    contender.turn()
    assert contender.cpu_s[0] > 0
    assert 20 < contender.peak_mib[0] < 1000
    with pytest.raises(bench.ContenderError, match="splitter ended with exit code 1"):
        bench.Contender("splitter", [bench.PEERS, "splitter", "nowhere"]).turn()


def test_the_page_is_the_measure(finished: Path, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["data", "--text", "/my/own/texts", "--mb", "8"])
    seconds = {bench.OURS: 4.0, bench.PIPELINE: 40.0, "tokenizers alone": 3.0, "splitter alone": 1.5,
               "reading alone": 1.0, bench.DUMP: 10.0, bench.PAGES: 6.0}  # fmt: skip
    contenders = [bench.Contender(n, [], cpu_s=[s, 9 * s, s], peak_mib=[100.0] * 3) for n, s in seconds.items()]
    contenders[0].written, contenders[1].written = 4_000_000, 80_000_000
    contenders[-1].said = ["noise", json.dumps({"documents": 7, "parser_share": 0.25})]
    (tmp_path / "ours").mkdir()
    (tmp_path / "dump").mkdir()
    for name in ("ours", "dump"):
        (tmp_path / name / "manifest.json").write_bytes((finished / "manifest.json").read_bytes())
    dump = tmp_path / "a.xml"
    dump.write_bytes(b"x" * 1_000_000)
    said = bench.page(contenders, [dump], tmp_path, (8_000_000, 120, 5, 3))
    assert said.startswith("`make bench-data ARGS='--text texts --mb 8'`, commit ")
    assert "| prepare | 4.0 (4.0-36.0) | 2.00 | 30 | 100 | " in said
    # 1 s reading, 0.5 s splitter, 2 s tokenizers: 8 MB in 3.5 s
    assert "reach 2.29 MB/s" in said
    assert "reaches 2.00, 0.88 times as much. The splitter takes 12% of its time." in said
    assert "10.0 times as fast, and its files are 20.0 times smaller" in said
    assert "| prepare, from a dump | 10.0 (10.0-90.0) | 0.10 | 1 | 100 |" in said
    assert "Turning pages into text takes 60% of the time" in said
    assert "Disk: 10 GB (0.50 bytes per byte of text). Memory: 100 MiB per process." in said
    assert said.endswith("| 2 | 1.39 |\n| 16 | 0.17 |\n| 64 | 0.04 |")  # 20,000 MB / 2 MB/s / 3600 s


def test_what_a_contender_prints_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.measured, "__file__", str(tmp_path / "silent.py"))
    (tmp_path / "silent.py").write_text("print('no numbers')\n")
    with pytest.raises(bench.ContenderError, match="splitter did not print its time and memory, but 'no numbers'"):
        bench.Contender("splitter", ["anything"]).turn()
    (tmp_path / "silent.py").write_text("")
    with pytest.raises(bench.ContenderError, match="did not print its time"):
        bench.Contender("splitter", ["anything"]).turn()


@pytest.mark.parametrize("last", ['{"documents": 7', '{"documents": 7}', "[]"])
def test_figures_of_a_dump_are_checked(finished: Path, tmp_path, last):
    ours, pages = (bench.Contender(name, [], cpu_s=[1.0]) for name in (bench.DUMP, bench.PAGES))
    pages.said = [last]
    with pytest.raises(bench.ContenderError, match="did not print its figures"):
        bench.dump_lines({bench.DUMP: ours, bench.PAGES: pages}, [], finished)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_contender_ends_with_the_benchmark(tmp_path, asked):
    """Also what the contender has started, which would otherwise go on alone."""
    (tmp_path / "slow.py").write_text("import time\nprint('runs', flush=True)\ntime.sleep(600)\n")
    code = """
import sys
from pathlib import Path
from bert_lamb.bench import data
def measure(given):
    data.Contender("slow", ["slow"]).turn()
data.measure = measure
data.subprocess.PIPE = None  # its words come here
sys.argv = ["data", "--text", "x", "--vocab", "y"]
data.main()
"""
    given = environment()
    given["PYTHONPATH"] += os.pathsep + str(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", code], env=given, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "runs\n"
    process.send_signal(asked)
    assert process.stdout.read() == "", "the end of all that could write there"
    assert process.wait() == 130
