"""Rank program of test_global_batch: one step's reduced gradient for several token budgets, written by rank 0.

python -m torch.distributed.run --standalone --nproc-per-node=2 tests/ranks/gradients.py RUN_FOLDER RESULTS 64 160 ...
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from bert_lamb.parallel import Single, open_strategy
from bert_lamb.parallel import strategy as strategy_module
from bert_lamb.run import RunFolder
from bert_lamb.training.assembly import Assembly

STEP = 3


def reduced_gradient(
    folder: RunFolder, strategy: Single, budget: int, padded: bool = True
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Gradient by parameter, and the two summed losses, of step STEP of phase 1 with micro-batches of this budget."""
    s = folder.settings()
    s.hardware.micro_batch_tokens = budget
    run = Assembly(s, folder, strategy)
    sums = torch.zeros(2, dtype=torch.float64)
    counts = []
    data = run.data(1)
    data.padded = padded
    for step in data.steps(STEP, STEP + 1):
        for batch in step.batches:
            losses = run.losses(batch)
            (losses.mlm / step.denominators.masked + losses.nsp / step.denominators.sequences).backward()
            sums += torch.stack([losses.mlm.detach(), losses.nsp.detach()])
            counts.append(len(batch.next_labels))
    strategy.reduce_gradients(run.parameters)
    sequences = strategy.reduce_sums(torch.tensor([sum(counts), len(counts)]))
    result = {name: p.grad for name, p in run.bert.named_parameters() if p.grad is not None}
    return result | {"losses": strategy.reduce_sums(sums), "sequences, micro-batches": sequences}


def main() -> None:
    folder, results = RunFolder(Path(sys.argv[1])), Path(sys.argv[2])
    strategy = open_strategy(folder.settings().hardware, folder.stacks)
    strategy_module.BUCKET_BYTES = 20_000  # several buckets, the last one not full
    for budget in map(int, sys.argv[3:]):
        gradient = reduced_gradient(folder, strategy, budget)
        if strategy.rank == 0:
            save_file(gradient, results / f"{strategy.ranks}-ranks-{budget}.safetensors")
    strategy.close()


if __name__ == "__main__":
    main()
