"""BERT for pretraining on packed batches: transformers' modules and parameters, our path through them (law 5).

The path is ours for the sake of attention and dropout (attention.py, dropout.py); every product and norm is a module of
transformers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import BertForPreTraining

from bert_lamb.batch import IGNORED, LossSums, PackedBatch
from bert_lamb.model.attention import Layout, attend, layout
from bert_lamb.model.dropout import dropped


def pretraining_losses(bert: BertForPreTraining, batch: PackedBatch, recompute: bool = False) -> LossSums:
    """Summed MLM and NSP losses of one micro-batch.

    The vocabulary's logits are made at masked positions only: the same loss as over all positions, at 15% of the cost.
    `recompute` keeps each layer's input only, and runs the layer again in the backward pass.
    """
    first_tokens = batch.cu_seqlens[:-1].long().clamp(max=len(batch.input_ids) - 1)  # filler sequences start past it
    hidden_ND = encode(bert, batch, recompute)
    logits_KV = bert.cls.predictions(hidden_ND.index_select(0, batch.masked_positions))
    assert bert.bert.pooler is not None
    pooled_MD = bert.bert.pooler(hidden_ND.index_select(0, first_tokens)[:, None])
    next_logits_M2 = bert.cls.seq_relationship(pooled_MD)
    mlm, mlm_correct = _summed(logits_KV, batch.masked_labels)
    nsp, nsp_correct = _summed(next_logits_M2, batch.next_labels)
    return LossSums(mlm, nsp, mlm_correct, nsp_correct)


def encode(bert: BertForPreTraining, batch: PackedBatch, recompute: bool = False) -> Tensor:
    """Final hidden states of the packed tokens, [N, D]; dropout as in the configuration where bert.training."""
    body, config = bert.bert, bert.config
    where = layout(batch.cu_seqlens, len(batch.input_ids), batch.max_seqlen)
    dropouts = config.attention_probs_dropout_prob, config.hidden_dropout_prob
    attention, hidden = dropouts if bert.training else (0.0, 0.0)
    embedding = body.embeddings
    summed_ND = (
        embedding.word_embeddings(batch.input_ids)
        + embedding.token_type_embeddings(batch.token_type_ids)
        + embedding.position_embeddings(batch.position_ids)
    )
    hidden_ND = dropped(embedding.LayerNorm(summed_ND), batch.dropout_keys, 0, hidden)
    for number, layer in enumerate(body.encoder.layer):
        arguments = layer, hidden_ND, where, batch.dropout_keys, 1 + 3 * number, attention, hidden
        hidden_ND = checkpoint(_layer, *arguments, use_reentrant=False) if recompute else _layer(*arguments)
    return hidden_ND


def _layer(
    layer: Any, hidden_ND: Tensor, where: Layout, keys_N: Tensor, site: int, attention: float, hidden: float
) -> Tensor:
    """One of BERT's layers; its three dropouts are `site` and the two after it."""
    own, attended = layer.attention.self, layer.attention.output
    query, key, value = (
        product(hidden_ND).unflatten(-1, (own.num_attention_heads, -1)) for product in (own.query, own.key, own.value)
    )
    context_ND = attended.dense(attend(query, key, value, where, keys_N, site, attention).flatten(1))
    mixed_ND = attended.LayerNorm(dropped(context_ND, keys_N, site + 1, hidden) + hidden_ND)
    out_ND = layer.output.dense(layer.intermediate(mixed_ND))
    return layer.output.LayerNorm(dropped(out_ND, keys_N, site + 2, hidden) + mixed_ND)


def _summed(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over labels that count, in fp32 or wider, and how many of them are predicted right."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(wide, labels, reduction="sum", ignore_index=IGNORED)
    return loss, (logits.detach().argmax(-1) == labels).sum()
