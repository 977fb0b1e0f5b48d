"""Rank program of test_processes: `pretrain`, whose rank 1 stops making batches at step 3."""

import sys
import time
from pathlib import Path
from unittest import mock

from bert_lamb.data.loader import PhaseData
from bert_lamb.parallel import run_rank
from bert_lamb.pretrain import pretrain
from bert_lamb.run import RunFolder

made = PhaseData.plan


def nap(data: PhaseData, number: int, *arguments: object) -> object:
    if data.rank == 1 and number == 3:
        time.sleep(1000)
    return made(data, number, *arguments)


if __name__ == "__main__":
    with mock.patch.object(PhaseData, "plan", nap):
        run_rank(lambda: pretrain(RunFolder(Path(sys.argv[1]))))
