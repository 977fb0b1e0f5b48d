"""Rank program of test_processes: rank 1 meets an error of the program while rank 0 waits for it."""

import sys
from pathlib import Path

import torch
from tools import tiny

from bert_lamb.parallel import open_strategy, run_rank


def program() -> None:
    strategy = open_strategy(tiny(Path(sys.argv[1])).hardware, Path(sys.argv[1]) / "stacks")
    strategy.reduce_sums(torch.ones(1) / (1 // (1 - strategy.rank)))


if __name__ == "__main__":
    run_rank(program)
