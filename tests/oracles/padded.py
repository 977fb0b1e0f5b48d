"""The same sequences as a padded batch through transformers' own BertForPreTraining."""

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

from bert_lamb.batch import IGNORED

CONFIG = {
    "vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip


def plain_bert(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: object) -> Any:
    """transformers' BERT with its own attention; wide weights, so that softmax and GELU leave their linear range."""
    torch.manual_seed(seed)
    config = BertConfig.from_dict(CONFIG | changes)
    config._attn_implementation = "eager"
    bert: Any = BertForPreTraining(config)
    bert.to(dtype)
    with torch.no_grad():
        for name, p in bert.named_parameters():
            if "bias" in name or "LayerNorm" in name:  # else zeros and ones, which hide a forgotten term
                p.add_(torch.randn_like(p), alpha=0.1)
    return bert


def padded_losses(bert: Any, arrays: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed MLM and NSP losses over all positions of a padded batch."""
    inputs = {k: arrays[k] for k in ("input_ids", "token_type_ids", "attention_mask")}
    out = bert(**inputs)
    mlm = torch.nn.functional.cross_entropy(
        out.prediction_logits.flatten(0, 1), arrays["labels"].flatten(), reduction="sum", ignore_index=IGNORED
    )
    nsp = torch.nn.functional.cross_entropy(out.seq_relationship_logits, arrays["next_sentence_label"], reduction="sum")
    return mlm, nsp


def gradients(bert: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in bert.named_parameters() if p.grad is not None}
