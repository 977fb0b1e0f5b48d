"""Pretraining once more, written plainly: padded batches, transformers' own model, LAMB and schedule spelt out, fp64.

Knows nothing of ours. Every step is given as plain arrays, one entry a sequence: `ids` (masked), `labels` (IGNORED
where nothing is masked), `types`, `next_labels`. test_golden.py holds our run to it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

IGNORED = -100
BETA1, BETA2, EPS, DECAY = 0.9, 0.999, 1e-6, 0.01


@dataclass
class Phase:
    steps: list[dict[str, Any]]
    peak_lr: float
    warmup: int


def learning_rate(phase: Phase, step: int) -> float:
    """Linear from 0, then linear to 0 counted from step 0."""
    if step < phase.warmup:
        return phase.peak_lr * step / phase.warmup
    return phase.peak_lr * (1 - step / len(phase.steps))


def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def train(bert: Any, phases: list[Phase], restart_step: bool) -> list[float]:
    """Trains in place; the loss of each step. restart_step: phase 2 counts bias correction from its own start."""
    parameters = dict(bert.named_parameters())
    m = {n: np.zeros(p.shape) for n, p in parameters.items()}
    v = {n: np.zeros(p.shape) for n, p in parameters.items()}
    losses, t = [], 0
    for number, phase in enumerate(phases):
        t = 0 if restart_step and number else t
        for step, batch in enumerate(phase.steps):
            t += 1
            mask = padded([[1] * len(row) for row in batch["ids"]], 0)
            out = bert(padded(batch["ids"], 0), mask, padded(batch["types"], 0))
            labels = padded(batch["labels"], IGNORED)
            mlm = torch.nn.functional.cross_entropy(out.prediction_logits.transpose(1, 2), labels)
            nsp = torch.nn.functional.cross_entropy(out.seq_relationship_logits, torch.tensor(batch["next_labels"]))
            bert.zero_grad()
            (mlm + nsp).backward()
            losses.append((mlm + nsp).item())
            for n, p in parameters.items():
                g, x = p.grad.numpy(), p.detach().numpy().copy()
                m[n] = BETA1 * m[n] + (1 - BETA1) * g
                v[n] = BETA2 * v[n] + (1 - BETA2) * g**2
                update = m[n] / (1 - BETA1**t) / (np.sqrt(v[n] / (1 - BETA2**t)) + EPS)
                ratio = 1.0
                if "bias" not in n and "LayerNorm" not in n:
                    update = update + DECAY * x
                    ratio = float(np.linalg.norm(x) / np.linalg.norm(update))
                p.data.copy_(torch.from_numpy(x - learning_rate(phase, step) * ratio * update))
    return losses
