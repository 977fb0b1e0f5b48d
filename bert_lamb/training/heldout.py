"""Masked-token loss and accuracy on documents that training never sees."""

import numpy as np
import torch

from bert_lamb.data.masking import masked_counts
from bert_lamb.data.order import GlobalBatch
from bert_lamb.hashing import Domain, key, permute
from bert_lamb.run import Progress
from bert_lamb.settings import Settings
from bert_lamb.training.assembly import Assembly


def heldout_due(s: Settings, progress: Progress) -> bool:
    """Every so many steps, and at the phase's end."""
    every, last = s.run.heldout_every, s.phase(progress.phase).steps
    return progress.step == last or bool(every and progress.step % every == 0)


def heldout_numbers(run: Assembly, number: int) -> dict[str, float]:
    """Readings over the same sequences and masks every time; empty where no document was held out."""
    data = run.data(number, "heldout")
    count = min(data.tables.sizes[0], run.settings.run.heldout_sequences) if data.tables.sizes else 0
    if not count:
        return {}
    data.static_shapes = False
    zeros = np.zeros(count, np.int64)
    # drawn over all shards, by a key that knows no seed: runs of other seeds are read on the same sequences
    chosen = GlobalBatch(
        epoch=zeros, pass_=zeros, instance=permute(np.arange(count), data.tables.sizes[0], key(Domain.HELDOUT))
    )
    lengths = data.tables.rows(zeros, chosen.instance).spans.lengths
    sums = torch.zeros(2, dtype=torch.float64, device=run.strategy.device)
    run.bert.eval()
    with torch.no_grad():
        for rows in data.cut(lengths):
            if len(rows):
                # uncompiled: a few passes would not repay another compilation
                losses = run.losses(data.make(chosen, rows).to(run.strategy.device), compiled=False)
                sums += torch.stack([losses.mlm.double(), losses.mlm_correct.double()])
    run.bert.train()
    loss, correct = (run.strategy.reduce_sums(sums) / int(masked_counts(lengths, data.rule.share).sum())).tolist()
    return {"heldout_mlm_loss": loss, "heldout_mlm_accuracy": correct}
