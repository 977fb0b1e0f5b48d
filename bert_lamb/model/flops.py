"""Floating-point operations of pretraining, counted from shapes (a multiply-add is two)."""

from bert_lamb.settings import ModelSettings


def training_flops(model: ModelSettings, vocab_size: int, seq_len: int, masked: int) -> float:
    """Forward and backward of one sequence of `seq_len` tokens, `masked` of them predicted.

    Matrix products only, backward counted as twice the forward (Kaplan et al. 2020, arXiv 2001.08361); attention over
    the whole sequence; the vocabulary's logits at masked positions only.
    """
    h, f = model.hidden, model.intermediate
    layer = seq_len * (4 * h * h + 2 * h * f) + 2 * seq_len * seq_len * h
    heads = masked * (h * h + h * vocab_size) + h * h + 2 * h
    return 3 * 2.0 * (model.layers * layer + heads)
