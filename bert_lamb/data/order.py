"""Which sequences form step s: a pure function of (seed, phase, s + data offset) and the passes' sizes (law 2)."""

from dataclasses import dataclass

import numpy as np

from bert_lamb.hashing import Domain, key, permute


@dataclass
class GlobalBatch:
    """The sequences of one global batch, each column [B], in the order of the stream."""

    epoch: np.ndarray  # int64
    pass_: np.ndarray  # int64, epoch mod number of passes
    instance: np.ndarray  # int64, row of the pass's instance table (all shards end to end)


@dataclass
class Order:
    """An endless stream of instances: epoch e is a permutation of pass e mod P; a batch may cross epochs."""

    seed: int
    phase: int
    pass_sizes: list[int]  # instances of each pass
    global_batch: int

    def step(self, step: int, data_offset: int = 0) -> GlobalBatch:
        """The global batch of a step. `data_offset` (in steps) moves past sequences after a roll-back."""
        position = (step + data_offset) * self.global_batch + np.arange(self.global_batch, dtype=np.int64)
        ends = np.cumsum(self.pass_sizes)
        cycle, within = np.divmod(position, ends[-1])
        pass_ = np.searchsorted(ends, within, side="right")
        epoch = cycle * len(ends) + pass_
        offset_in_epoch = within - (ends - self.pass_sizes)[pass_]
        instance = np.empty_like(position)
        for e in np.unique(epoch):
            here = epoch == e
            size = self.pass_sizes[e % len(ends)]
            instance[here] = permute(offset_in_epoch[here], size, key(Domain.ORDER, self.seed, self.phase, int(e)))
        return GlobalBatch(epoch, pass_, instance)
