"""A store made by independent tasks, as separate processes: the bytes of one process, whatever is killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from prepare_tools import ROOT, command, corpus, data_settings, digests, overrides
from tools import composed

from data_prep.prepare import prepare
from data_prep.reading.slices import Plan, Slice
from data_prep.reading.sources import source_files
from data_prep.shards.folder import StoreFolder
from data_prep.store import plan_file, resume
from data_prep.store.plan_file import kept_plan, slices_of_part
from data_prep.store.resume import PrepareError

WHOLE = {"seq_lens": [32, 64, 128, 512], "shard_mib": 64}  # what prepare_tools.overrides says


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    return corpus(tmp_path_factory.mktemp("texts"), files=12, documents=150)


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory) -> dict[str, str]:
    """Digests of the store that one process makes."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    prepare(data_settings(paths=[texts], **WHOLE), folder)
    return digests(folder)


def shards(store: Path, numbers: range) -> list[Path]:
    return [p for n in numbers if (p := store / ".work" / f"shard-{n:05d}.json").is_file()]


def ended(process: subprocess.Popen) -> str:
    _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    return said


def test_three_tasks_one_of_them_killed_give_the_bytes_of_one_process(texts, whole, tmp_path):
    store = tmp_path / "store"
    settings = overrides(texts, tmp_path, "data.processes=1", "data.parts=3")
    tasks = [command(*settings, f"data.part={part}") for part in range(3)]
    deadline_s = time.monotonic() + 60
    while not (store / ".work" / "begun.json").is_file() and time.monotonic() < deadline_s:
        time.sleep(0.002)
    os.kill(tasks[1].pid, signal.SIGKILL)
    said = [task.communicate(timeout=100)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, -signal.SIGKILL, 0], said
    assert sum(text.count("training a vocabulary") for text in said) == 1
    assert sum(text.count("reading 12 input files") for text in said) == 1
    assert "data.part=2 of data.parts=3 is done (4 shards)" in said[2]
    missing = 4 - len(shards(store, range(4, 8)))
    assert missing > 0
    assert not (store / "manifest.json").exists()
    closing = ended(command(*settings))
    assert "the input is unchanged" in closing
    assert f"resuming: {12 - missing} of 12 shards are finished" in closing
    assert digests(store) == whole
    assert "prepared already" in ended(command(*settings, "data.part=1"))


def test_a_multirun_through_submitit_gives_the_bytes_of_one_process(texts, whole, tmp_path):
    settings = overrides(texts, tmp_path, "data.processes=1", "data.parts=2")
    ended(command("-m", "hydra/launcher=submitit_local", "data.part=0,1", *settings))
    assert len(shards(tmp_path / "store", range(12))) == 12
    assert "resuming: 12 of 12 shards are finished" in ended(command(*settings))
    assert digests(tmp_path / "store") == whole


def test_a_task_that_cannot_run_ends_the_multirun_with_its_message(texts, tmp_path):
    settings = overrides(texts, tmp_path, "data.parts=2", "data.text_field=body")
    run = command("-m", "hydra/launcher=submitit_local", "data.part=1", *settings)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "\nerror: the input has no usable document" in said
    assert "no field 'body' (fields: text)" in said
    assert "Traceback" not in said


def test_the_slurm_script_begins_makes_every_part_and_ends(texts, whole, tmp_path):
    """`sbatch` is a script here that runs each job at once, its array one task after the other."""
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/bash\n"
        'while [[ $1 == -* ]]; do [[ $1 == --array=0-* ]] && last=${1#--array=0-}; echo "$1" >&2; shift; done\n'
        'if [ -n "${last:-}" ]; then for i in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$i "$@" >&2 || exit 1; done\n'
        'else "$@" >&2; fi\n'
        "echo 17\n"
    )
    fake.chmod(0o755)
    env = os.environ | {
        "PATH": f"{fake.parent}:{os.environ['PATH']}",
        "PYTHON": os.sys.executable,
        "OPTIONS": "--mem=1G",
    }
    script = [str(ROOT / "launch/prepare_array.sh"), "2", *overrides(texts, tmp_path, "data.processes=1")]
    run = subprocess.run(script, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    assert "jobs 17 (reads the input), 17 (2 tasks), 17 (ends the store)" in run.stdout
    assert run.stderr.count("--mem=1G") == 3
    assert run.stderr.count("--dependency=afterok:17\n") == 1
    for said in ("begun: ", "data.part=0 of data.parts=2", "data.part=1 of data.parts=2", "resuming: 12 of 12"):
        assert run.stderr.count(said) == 1, said
    assert digests(tmp_path / "store") == whole


@pytest.mark.parametrize("sizes", [[5] * 8, [1, 1, 1, 100, 1, 1, 0], [0], [3]])
@pytest.mark.parametrize("parts", [1, 3, 20])
def test_every_slice_is_in_one_part(sizes, parts):
    plan = Plan([], [Slice(i, [], size) for i, size in enumerate(sizes)])
    split = [[s.number for s in slices_of_part(plan, part, parts)] for part in range(parts)]
    assert [number for numbers in split for number in numbers] == list(range(len(sizes)))
    if (sizes, parts) == ([5] * 8, 3):
        assert split == [[0, 1, 2], [3, 4], [5, 6, 7]]
    assert slices_of_part(plan, None, parts) == plan.slices


def test_a_part_outside_of_the_parts_is_refused(texts):
    with pytest.raises(Exception, match=r"data\.part=3 is not one of data\.parts=3: choose 0 to 2, or null"):
        composed("data.part=3", "data.parts=3")


def test_the_input_is_read_again_only_where_it_changed(text, tmp_path, monkeypatch):
    data = data_settings(paths=[text])
    read: list[str] = []
    plan_files = plan_file.plan_files
    monkeypatch.setattr(
        plan_file, "plan_files", lambda d, files, t: (read.extend(f.name for f in files), plan_files(d, files, t))[1]
    )
    folder = StoreFolder(tmp_path)
    folder.work.mkdir()
    first = kept_plan(folder, data, {"seed": 1}, source_files(data), 1)
    assert len(read) == 4
    assert kept_plan(folder, data, {"seed": 1}, source_files(data), 1) == first
    assert len(read) == 4
    os.utime(text / "part-02.jsonl")
    assert kept_plan(folder, data, {"seed": 1}, source_files(data), 1) == first
    assert read[4:] == ["part-02.jsonl"]
    kept_plan(folder, data, {"seed": 2}, source_files(data), 1)  # might cut otherwise
    assert len(read) == 9


def test_other_versions_of_the_libraries_do_not_mix_their_bytes(text, tmp_path, monkeypatch):
    prepare(data_settings(paths=[text], part=0, parts=2), tmp_path / "store")
    there = resume.version
    monkeypatch.setattr(resume, "version", lambda name: "9.9" if name == "sentencex" else there(name))
    with pytest.raises(PrepareError, match=r"- library sentencex: \S+ -> 9\.9"):
        prepare(data_settings(paths=[text], part=1, parts=2), tmp_path / "store")
