"""BERT with a span head (transformers' BertForQuestionAnswering), and its way in and out of files."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForQuestionAnswering

from bert_lamb.model import save_tensors
from bert_lamb.squadfiles import SquadError
from bert_lamb.tasks.squad_data import SquadBatch

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # the names that transformers looks for


def build_span_model(config: BertConfig, dropout: float, seed: int) -> BertForQuestionAnswering:
    """Random weights, drawn from the seed alone; the head's stay when an encoder is loaded over the rest."""
    config = BertConfig.from_dict(config.to_dict())
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    config._attn_implementation = "sdpa"
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = BertForQuestionAnswering(config)
    torch.set_rng_state(generator_state)
    return model


def load_encoder(model: BertForQuestionAnswering, weights: Path) -> None:
    """Copies the encoder of a BertForPreTraining's safetensors; its pooler and heads have no use here."""
    there = load_file(weights)
    own = {name: p for name, p in model.named_parameters() if name.startswith("bert.")}
    wrong = [
        f"{name}: {tuple(there[name].shape) if name in there else 'missing'}, expected {tuple(p.shape)}"
        for name, p in own.items()
        if name not in there or there[name].shape != p.shape
    ]
    if wrong:
        raise SquadError(f"{weights} does not hold this model's encoder:\n- " + "\n- ".join(wrong[:10]))
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(there[name])


def span_logits(model: BertForQuestionAnswering, batch: SquadBatch) -> tuple[Tensor, Tensor]:
    """Scores [B, T] of tokens as an answer's first and last; -inf on padding, so that it changes nothing."""
    out = model(input_ids=batch.input_ids, token_type_ids=batch.token_type_ids, attention_mask=batch.attention_mask)
    padding = batch.attention_mask == 0
    start, end = (
        x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(padding, -torch.inf)
        for x in (out.start_logits, out.end_logits)
    )
    return start, end


def span_loss(start_BT: Tensor, end_BT: Tensor, answer_B2: Tensor) -> Tensor:
    """Cross-entropy of first and last token, their mean, summed over the windows; nats."""
    start = F.cross_entropy(start_BT, answer_B2[:, 0], reduction="sum")
    end = F.cross_entropy(end_BT, answer_B2[:, 1], reduction="sum")
    return (start + end) / 2


def save_span_model(model: BertForQuestionAnswering, folder: Path) -> None:
    """model.safetensors and config.json: `BertForQuestionAnswering.from_pretrained(folder)` opens them."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    save_tensors(tensors, folder / WEIGHTS)
    about = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": str(model.dtype)[6:]}
    (folder / CONFIG).write_text(BertConfig.from_dict(about).to_json_string())


def load_span_model(folder: Path, device: torch.device) -> BertForQuestionAnswering:
    """The model that save_span_model wrote, from that folder alone."""
    config = BertConfig.from_json_file(folder / CONFIG)
    model = build_span_model(config, config.hidden_dropout_prob, seed=0)
    tensors = load_file(folder / WEIGHTS)
    if next(iter(tensors.values())).dtype == torch.float64:
        model.double()
    model.load_state_dict(tensors)
    return model.to(device)  # type: ignore[arg-type]  # transformers' decorator hides the method's own signature


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 products over fp32 weights where the precision says so; else nothing changes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
