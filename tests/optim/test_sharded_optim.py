"""Sharded parameters (fully_shard, two gloo processes) move as whole ones do, with two reductions a step."""

import subprocess

from tools import RANKS, environment, torchrun


def test_sharded_parameters_move_as_whole_ones() -> None:
    program = RANKS / "optim.py"
    done = subprocess.run(torchrun(2, program), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rank 0: equal" in done.stdout
    assert "rank 1: equal" in done.stdout
