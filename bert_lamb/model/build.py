"""Making a BertForPreTraining from settings, and its weights' way in and out of files."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

from bert_lamb.errors import UserError

if TYPE_CHECKING:  # a model's shape is all that is read: this package works without Hydra
    from bert_lamb.settings import ModelSettings

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # the names that transformers looks for


class WeightsError(UserError):
    """Weights that do not fit the model; the message names them."""


def bert_config(model: "ModelSettings", vocab_size: int, pad_id: int) -> BertConfig:
    """transformers' configuration of this model."""
    return BertConfig(
        vocab_size=vocab_size,
        pad_token_id=pad_id,
        num_hidden_layers=model.layers,
        hidden_size=model.hidden,
        num_attention_heads=model.heads,
        intermediate_size=model.intermediate,
        max_position_embeddings=model.max_positions,
        hidden_dropout_prob=model.dropout,
        attention_probs_dropout_prob=model.attention_dropout,
        initializer_range=model.initializer_range,
    )


def build_bert(model: "ModelSettings", vocab_size: int, pad_id: int, seed: int) -> BertForPreTraining:
    """Weights drawn from the seed alone, or those of model.init_from; what is missing there is drawn too."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    bert = BertForPreTraining(bert_config(model, vocab_size, pad_id))
    if model.init_from is not None:
        bert_from_folder(bert, Path(model.init_from))
    torch.set_rng_state(generator_state)
    return bert


def bert_from_folder(bert: BertForPreTraining, folder: Path) -> None:
    """Starts from any BERT that transformers opens; refuses one of another shape."""
    try:
        there = BertForPreTraining.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{folder} cannot be opened as a BERT with model.safetensors: {error}") from error
    load_parameters(bert, dict(there.named_parameters()), str(folder))


def named_tensors(bert: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters by name, each once: the decoder shares the embedding's."""
    return {name: p.detach() for name, p in bert.named_parameters()}


def load_parameters(bert: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copies tensors into the parameters of the same names; every name and shape must match."""
    wrong = misfits(bert, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if wrong:
        raise WeightsError(f"weights of {source} do not fit this model:\n- " + "\n- ".join(wrong[:10]))
    with torch.no_grad():
        for name, parameter in bert.named_parameters():
            parameter.copy_(tensors[name])


def misfits(bert: torch.nn.Module, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Names of weights that a model lacks, that only it has, or that have another shape there; in words."""
    own = {name: tuple(p.shape) for name, p in bert.named_parameters()}
    wrong = [f"{n}: missing" for n in own.keys() - shapes.keys()]
    wrong += [f"{n}: unknown to this model" for n in shapes.keys() - own.keys()]
    wrong += [
        f"{n}: shape {shapes[n]}, the settings give {own[n]}" for n in own.keys() & shapes.keys() if own[n] != shapes[n]
    ]
    return sorted(wrong)


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of a safetensors file by name, of which no number is read."""
    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, not a dict


def save_weights(bert: BertForPreTraining, folder: Path) -> None:
    """model.safetensors and config.json: `BertForPreTraining.from_pretrained(folder)` gives equal logits."""
    tensors = {name: t.cpu().contiguous() for name, t in named_tensors(bert).items()}
    save_tensors(tensors, folder / WEIGHTS)
    config = bert.config.to_dict() | {"architectures": ["BertForPreTraining"], "dtype": str(_dtype(bert))[6:]}
    (folder / CONFIG).write_text(BertConfig.from_dict(config).to_json_string())


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """A safetensors file, as transformers opens it; an error of the disk names the file."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def load_weights(bert: torch.nn.Module, folder: Path) -> None:
    """The weights that save_weights wrote."""
    load_parameters(bert, load_file(folder / WEIGHTS), str(folder))


def _dtype(bert: torch.nn.Module) -> torch.dtype:
    return next(bert.parameters()).dtype
