"""BERT for pretraining on packed batches: transformers' modules and parameters, our path through them (law 5)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForPreTraining

from bert_lamb.batch import IGNORED, LossSums, PackedBatch
from bert_lamb.model.attention import layout


def pretraining_losses(bert: BertForPreTraining, batch: PackedBatch) -> LossSums:
    """Summed MLM and NSP losses of one micro-batch.

    The vocabulary's logits are made at masked positions only: the same loss as over all positions, at 15% of the cost.
    """
    first_tokens = batch.cu_seqlens[:-1].long().clamp(max=len(batch.input_ids) - 1)  # filler sequences start past it
    hidden_ND = encode(bert, batch)
    logits_KV = bert.cls.predictions(hidden_ND.index_select(0, batch.masked_positions))
    assert bert.bert.pooler is not None
    pooled_MD = bert.bert.pooler(hidden_ND.index_select(0, first_tokens)[:, None])
    next_logits_M2 = bert.cls.seq_relationship(pooled_MD)
    mlm, mlm_correct = _summed(logits_KV, batch.masked_labels)
    nsp, nsp_correct = _summed(next_logits_M2, batch.next_labels)
    return LossSums(mlm, nsp, mlm_correct, nsp_correct)


def encode(bert: BertForPreTraining, batch: PackedBatch) -> Tensor:
    """Final hidden states of the packed tokens, [N, D]."""
    embedded = bert.bert.embeddings(
        input_ids=batch.input_ids[None],
        token_type_ids=batch.token_type_ids[None],
        position_ids=batch.position_ids[None],
    )
    where = layout(batch.cu_seqlens, len(batch.input_ids), batch.max_seqlen)
    return bert.bert.encoder(embedded, attention_mask=None, packed_layout=where).last_hidden_state[0]


def _summed(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over labels that count, in fp32 or wider, and how many of them are predicted right."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(wide, labels, reduction="sum", ignore_index=IGNORED)
    return loss, (logits.detach().argmax(-1) == labels).sum()
