"""Rank program of test_other_launchers: rank 0 fails at its first start, and in another way at its second."""

import os
import sys
from pathlib import Path

from bert_lamb.errors import UserError
from bert_lamb.parallel import run_rank


def program() -> None:
    Path(sys.argv[1], f"started-{os.environ['TORCHELASTIC_RESTART_COUNT']}").touch()
    raise UserError(f"failure {os.environ['TORCHELASTIC_RESTART_COUNT']}")


if __name__ == "__main__":
    run_rank(program)
