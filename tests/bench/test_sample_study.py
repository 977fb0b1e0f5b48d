"""The study's page says what its rows say."""

import json
import os
import signal
import subprocess
import sys

import pytest
from tools import environment

from bert_lamb.bench import sample_study
from bert_lamb.bench.sample_study import Study, interval, page, rows
from bert_lamb.settings import compose_settings

FOREVER = "stage_that_never_ends"
PRETRAINED, SCRATCH, SHUFFLED = [60.0, 70.0, 80.0], [20.0, 20.0, 26.0], [21.0, 22.0, 26.0]


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(sample_study, "read_manifest", lambda folder: {"counts": {"tokens": 3_000_000}})
    return rows(compose_settings(()))


def study(path, measured) -> Study:
    about = {"em": 0, "run": "r", "precision": "bf16", "device": "a CPU", "torch": "2", "commit": "c", "dirty": False}
    lines = [about | {"row": row.words, "seed": i, "f1": f1} for row, f1s in measured for i, f1 in enumerate(f1s)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"row": "cut off in the mid')
    return Study((), 1, path)


def test_the_interval_is_students():
    mean, half = interval([40.0, 50.0, 54.0])
    assert mean == pytest.approx(48)
    assert half == pytest.approx(17.9133, abs=5e-3)  # 4.30265 * 7.2111 / sqrt(3), by hand


def test_a_study_that_was_cut_gives_the_page_of_what_it_has(table, tmp_path):
    headline = [(table[0], PRETRAINED), (table[1], SCRATCH), (table[-1], SHUFFLED)]
    text = page(table, study(tmp_path / "a.jsonl", headline), 3)
    assert "gains **48.0 points** (95% interval 30.1 to 65.9)" in text
    assert "shuffled over the whole corpus, gains 1.0 (-1.5 to 3.5)" in text
    assert "| pretrained | 70.0 | 60.0 | 70.0 | 80.0 |" in text
    assert "4 times the labels" not in text
    controls = [(row, SCRATCH) for row in table[2:-1]]
    whole = page(table, study(tmp_path / "b.jsonl", headline + controls), 3)
    assert "| random weights, 4 times the labels | 22.0 | 20.0 | 20.0 | 26.0 |" in whole
    assert [line for line in text.splitlines() if line not in whole] == []


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_study_that_is_asked_to_stop_ends_with_its_stages(tmp_path, asked):
    """Stages that take forever, two at a time, more of them waiting: none is left, none is begun."""
    code = f"""
import os, signal, subprocess, sys
from pathlib import Path
from bert_lamb.bench import sample_study
from bert_lamb.bench.sample_study import Study

class Forever(Study):
    def _run(self, row, seed, arm):
        os.write(1, b"begun\\n")  # in one piece, beside others
        self.stage("{FOREVER}", (row,))
    def place(self, row, seed):
        return None

class Row(str):
    words = property(str)

def measured(overrides):
    Forever((), 2, Path("{tmp_path / "kept.jsonl"}")).measure([(Row(n), 0) for n in "abcd"])

sample_study.compose_settings = measured
sys.argv = ["study"]
sample_study.main()
"""
    (tmp_path / f"{FOREVER}.py").write_text("import os, time\nos.write(1, b'running\\n')\ntime.sleep(600)\n")
    given = environment()
    given["PYTHONPATH"] += os.pathsep + str(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", code], env=given, stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline().strip() for _ in range(4)]
    process.send_signal(asked)
    rest = process.stdout.read()  # ends when every process that could write there has ended
    assert sorted(lines) == ["begun", "begun", "running", "running"]
    assert process.wait() != 0
    assert "begun" not in rest


def test_damaged_lines_are_set_aside_and_measured_again(table, tmp_path):
    kept = tmp_path / "a.jsonl"
    study(kept, [(table[0], PRETRAINED)])
    kept.write_text(kept.read_text() + '{"row": "pretrained", "seed": "7"}\n[1]\n{"row": \n')
    again = Study((), 1, kept)
    assert sorted(seed for _, seed in again.lines) == [0, 1, 2]
    assert (tmp_path / "damaged-a.jsonl").read_text().count("\n") == 3
    assert kept.read_text().count("\n") == 3


def test_a_damaged_result_of_an_arm_is_named(table, tmp_path):
    class Arm:
        path, result_file, machine_file = tmp_path, tmp_path / "result.json", tmp_path / "machine.json"

    Arm.machine_file.write_text('{"device": "a CPU", "commit": null, "dirty": null, "versions": {"torch": "2"}}')
    Arm.result_file.write_text('{"arm": "pretrained", "f1": ')
    with pytest.raises(sample_study.StudyError, match=r"result.json is damaged: .* remove .* and run the same command"):
        study(tmp_path / "a.jsonl", [])._keep(table[0], 0, Arm)


def test_a_stage_of_an_ending_study_is_not_begun(tmp_path):
    """However far a thread had come between two stages."""
    ending = Study((), 1, tmp_path / "a.jsonl")
    ending.place = lambda row, seed: None
    ending._run = lambda row, seed, arm: 1 / 0
    with pytest.raises(ZeroDivisionError):
        ending.measure([(rows(compose_settings(()))[0], 0)])
    with pytest.raises(subprocess.CalledProcessError, match="SIGTERM"):
        ending.stage("this", ())
