"""Floating-point operations of pretraining, counted from shapes (a multiply-add is two)."""

from typing import Protocol


class Sized(Protocol):
    """What is counted of a BERT."""

    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def intermediate(self) -> int: ...


def training_flops(model: Sized, vocab_size: int, seq_len: int, masked: int) -> float:
    """Forward and backward of one sequence of `seq_len` tokens, `masked` of them predicted."""
    return batch_flops(model, vocab_size, seq_len, seq_len**2, masked, 1)


def batch_flops(model: Sized, vocab_size: int, tokens: float, squared: float, masked: float, sequences: float) -> float:
    """Forward and backward of a batch; `squared` is the sum of its sequences' squared lengths, for attention.

    Matrix products only, backward counted as twice the forward (Kaplan et al. 2020, arXiv 2001.08361); attention within
    whole sequences; the vocabulary's logits at masked positions only. Padding is no work.
    """
    h, f = model.hidden, model.intermediate
    layer = tokens * (4 * h * h + 2 * h * f) + 2 * squared * h
    heads = masked * (h * h + h * vocab_size) + sequences * (h * h + 2 * h)
    return 3 * 2.0 * (model.layers * layer + heads)
