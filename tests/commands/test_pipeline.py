"""The whole chain through its commands, small: raw text to F1 and a report; again; and as a sweep."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools import ROOT

SMALL = [
    "data.articles=120", "data.books=2", "data.vocab_size=400", "data.passes=1", "data.seq_lens=[64,128]",
    "data.heldout_share=0.1", "data.shard_mib=1", "model.hidden=32", "model.intermediate=64", "model.max_positions=192",
    "phase1.seq_len=64", "phase1.global_batch=32", "phase1.steps=6", "phase1.warmup_steps=2",
    "phase2.seq_len=128", "phase2.global_batch=16", "phase2.steps=3", "phase2.warmup_steps=1",
    "finetune.max_train_questions=64", "finetune.epochs=1", "hardware=cpu", "run.trust_ratios_every=2",
    "run.wandb=disabled", "data.processes=1",
]  # fmt: skip


def run(module: str, folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, f"data.root={folder}/data", f"run.root={folder}/runs", *SMALL, *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


STAGES = ("data_prep.prepare", "bert_lamb.pretrain", "bert_lamb.finetune", "bert_lamb.evaluate", "bert_lamb.report")


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("chain")
    said = {}
    for stage in STAGES:
        done = run(stage, folder)
        assert done.returncode == 0, f"{stage}:\n{done.stdout}\n{done.stderr}"
        said[stage] = done.stdout + done.stderr
    return folder, said


def test_chain_ends_with_both_scores_and_a_report(chain):
    folder, said = chain
    (run_folder,) = [p for p in (folder / "runs").iterdir() if p.is_dir()]
    results = run_folder.glob("squad/*/result.json")
    scores = {p.parent.name.partition("-")[0]: json.loads(p.read_text()) for p in results}
    assert scores.keys() == {"pretrained", "scratch"}
    last_line = said["bert_lamb.report"].strip().splitlines()[-1]
    for result in scores.values():
        assert f"{result['f1']:.2f}" in last_line
    report = run_folder / "report" / "report.md"
    assert str(report) in last_line
    assert report.is_file()


def test_again_does_nothing_twice(chain):
    folder, _ = chain
    (run_folder,) = [p for p in (folder / "runs").iterdir() if p.is_dir()]
    before = {p: p.stat().st_mtime_ns for p in run_folder.rglob("*") if p.is_file() and "report" not in p.parts}
    results = {p for p in before if p.name in ("result.json", "metrics.jsonl", "model.safetensors")}
    for stage in STAGES[:3]:
        done = run(stage, folder)
        assert done.returncode == 0, done.stderr
        assert "already" in done.stdout + done.stderr
    assert all(p.stat().st_mtime_ns == before[p] for p in results)


def test_other_hardware_is_the_same_run_and_another_recipe_another(chain):
    folder, _ = chain
    same = run("bert_lamb.pretrain", folder, "hardware.micro_batch_tokens=512", "run.log_every=3")
    assert "done already" in same.stdout + same.stderr
    other = run("bert_lamb.pretrain", folder, "seed=1", "phase1.steps=3", "phase2.steps=2")
    assert other.returncode == 0, other.stderr
    assert len([p for p in (folder / "runs").iterdir() if p.is_dir()]) == 2


def test_sweep_gives_a_run_a_trial_several_ranks_each(chain, tmp_path):
    folder, _ = chain
    shutil.copytree(folder / "data", tmp_path / "data")
    sweep = ["optimizer=lamb,adamw", "hardware.devices=2", "hardware.strategy=ddp", "finetune.arms=[pretrained]"]
    done = run("bert_lamb.sweep", tmp_path, *sweep)
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = (tmp_path / "runs" / "sweeps").glob("*/summary.md")
    assert table.read_text().count("sample-") >= 2
    runs = [p for p in (tmp_path / "runs").iterdir() if p.name != "sweeps"]
    assert len(runs) == 2
    for each in runs:
        assert json.loads((each / "machine.json").read_text())["ranks"] == 2
    again = run("bert_lamb.sweep", tmp_path, "optimizer=lamb", *sweep[1:])
    assert again.returncode == 0
    assert (again.stdout + again.stderr).count("pretraining is done already") == 1
