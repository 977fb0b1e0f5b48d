"""How much memory training takes, by counting: parameters, and what autograd keeps of our forward pass."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # as in build.py
    from bert_lamb.settings import ModelSettings

STATIC = {"auto": 16, "bf16": 16, "fp32": 16, "fp64": 32}  # bytes a parameter: weight, gradient and two moments
# Bytes that a layer keeps of a token, as autograd's hooks on saved tensors count them (tests/model/test_memory.py): for
# each of `hidden`, of `intermediate`, and, where attention is written out for its dropout, for each head and key.
LAYER = {"bf16": (26, 4, 7), "fp32": (36, 8, 9), "fp64": (72, 16, 17)}
AROUND = {"bf16": 18, "fp32": 18, "fp64": 36}  # of the embeddings and their norm, for each of `hidden`
# For each logit, while the loss is made and differentiated: from the peak memory of a process.
LOGIT = {"bf16": 16, "fp32": 18, "fp64": 36}


def parameter_count(m: "ModelSettings", vocab_size: int) -> int:
    """Parameters of BertForPreTraining."""
    h, f = m.hidden, m.intermediate
    layer = 4 * (h * h + h) + 2 * h * f + f + h + 4 * h
    embeddings = (vocab_size + m.max_positions + 2) * h + 2 * h
    heads = (h * h + h) + (h * h + h + 2 * h + vocab_size) + 2 * h + 2
    return m.layers * layer + embeddings + heads


def activation_bytes(
    m: "ModelSettings", vocab_size: int, tokens: int, seq_len: int, masked: int, precision: str, recompute: bool,
    written_out: bool,
) -> int:  # fmt: skip
    """About the memory of a micro-batch of full sequences, uncompiled; a compiler keeps less.

    written_out: attention is (attention.py, on a CPU), so that dropout keeps something for each pair of tokens.
    """
    per_hidden, per_intermediate, per_pair = LAYER[precision]
    pairs = m.heads * seq_len if written_out and m.attention_dropout else 0
    layer = per_hidden * m.hidden + per_intermediate * m.intermediate + per_pair * pairs
    kept = m.layers * 4 * m.hidden + layer if recompute else m.layers * layer
    return tokens * (kept + AROUND[precision] * m.hidden) + masked * vocab_size * LOGIT[precision]
