"""Rank program of test_resume: `pretrain` in several run folders one after another, each cut after some steps.

python -m torch.distributed.run --standalone --nproc-per-node=2 tests/ranks/pretrain.py FOLDER:STEPS ...   (0: uncut)
"""

import sys
from pathlib import Path
from unittest import mock

from bert_lamb.parallel import Single, open_strategy
from bert_lamb.pretrain import pretrain
from bert_lamb.run import RunFolder


class StopAfter:
    """In place of StopRequest: asked to stop once so many steps of this process are done; 0: never."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left == 0


def pretrain_for(folder: RunFolder, steps: int, strategy: Single | None = None) -> None:
    """`pretrain`, stopped after so many steps; with a strategy given, within its open process group."""
    with mock.patch("bert_lamb.pretrain.StopRequest", return_value=StopAfter(steps)):
        if strategy is None:
            pretrain(folder)
        else:
            with mock.patch("bert_lamb.pretrain.open_strategy", return_value=strategy):
                pretrain(folder)


def main() -> None:
    jobs = [(RunFolder(Path(path)), int(steps)) for path, _, steps in (a.rpartition(":") for a in sys.argv[1:])]
    strategy = open_strategy(jobs[0][0].settings().hardware, jobs[0][0].stacks)
    with mock.patch.object(type(strategy), "close", return_value=None):
        for folder, steps in jobs:
            pretrain_for(folder, steps, strategy)
    strategy.close()


if __name__ == "__main__":
    main()
