"""Ranks that torchrun starts: they keep the folder from others, and tell of every start's failure."""

import subprocess

from tools import RANKS, environment, fresh, make_store, torchrun

from bert_lamb.locks import sole_use


def test_a_failure_after_a_restart_is_told_too(tmp_path):
    """torchrun keeps its store when it starts the ranks again."""
    line = torchrun(1, RANKS / "again.py", tmp_path)
    line.insert(3, "--max-restarts=1")
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert (tmp_path / "started-1").exists()
    assert done.stderr.count("error: failure 0") == 1, done.stderr
    assert done.stderr.count("error: failure 1") == 1, done.stderr


def test_ranks_of_another_launcher_keep_the_folder(tmp_path):
    make_store(tmp_path / "data" / "made")
    folder = fresh(tmp_path, "held")
    line = torchrun(1, "-m", "bert_lamb.pretrain", folder.path)
    with sole_use(folder.path, "wait"):
        done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode
    assert done.stderr.count("in use by another process") == 1, done.stderr
    assert not folder.phase_result(1)
