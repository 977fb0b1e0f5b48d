"""Parameter groups: what is left out by module type, by kind and by name."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForPreTraining, BertForQuestionAnswering

from bert_lamb.optim import decay_groups
from bert_lamb.settings import OptimizerSettings
from bert_lamb.training.assembly import make_optimizer

CONFIG = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)


class LlamaRMSNorm(nn.Module):
    """A norm that derives from nothing of torch's, as transformers has them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


class Odd(nn.Module):
    """Names that mislead: a norm called `scale`, a linear layer called `LayerNorm_proj`, and a bias in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.scale = nn.LayerNorm(2)
        self.LayerNorm_proj = nn.Linear(2, 2, bias=False)
        self.rms = LlamaRMSNorm()
        self.attention = nn.MultiheadAttention(2, 1)
        self.images = nn.ModuleList([nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.RMSNorm(2)])


def grouped(model: nn.Module, **changes: Any) -> dict[str, tuple[float, bool]]:
    """Name -> (decay, adapts)."""
    groups = decay_groups(model, 0.01, **changes)
    found = {p: (g["weight_decay"], g["adapt"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(found), "each parameter in one group"
    return {n: found[p] for n, p in model.named_parameters() if p in found}


@pytest.mark.parametrize("kind", [BertForPreTraining, BertForQuestionAnswering])
def test_types_choose_what_the_names_of_bert_choose(kind: type[nn.Module]) -> None:
    """The exclusions of google-research/bert's optimizer: names with `bias` or `LayerNorm`; the order stays."""
    bert = kind(CONFIG)
    by_name = {n: not any(part in n for part in ("bias", "LayerNorm")) for n, _ in bert.named_parameters()}
    assert grouped(bert) == {n: (0.01, True) if other else (0.0, False) for n, other in by_name.items()}
    assert grouped(bert, no_decay=["bias", "LayerNorm"], no_adapt=["bias", "LayerNorm"]) == grouped(bert)
    names = {p: n for n, p in bert.named_parameters()}
    decayed, plain = decay_groups(bert, 0.01)
    assert [names[p] for p in decayed["params"]] == [n for n, other in by_name.items() if other]
    assert [names[p] for p in plain["params"]] == [n for n, other in by_name.items() if not other]


def test_norm_and_bias_are_kinds_and_not_names() -> None:
    odd = grouped(Odd())
    left_out = {n for n, group in odd.items() if group == (0.0, False)}
    assert left_out == {
        "body.bias", "scale.weight", "scale.bias", "rms.weight", "attention.in_proj_bias", "attention.out_proj.bias",
        "images.0.weight", "images.0.bias", "images.1.weight", "images.1.bias", "images.2.weight",
    }  # fmt: skip
    assert all(odd[n] == (0.01, True) for n in odd.keys() - left_out)
    assert odd["LayerNorm_proj.weight"] == (0.01, True)


def test_decay_and_adaptation_are_independent() -> None:
    apart = grouped(Odd(), no_decay=["bias"], no_adapt=["norm", "proj"])
    assert apart["body.bias"] == (0.0, True)
    assert apart["scale.weight"] == (0.01, False)
    assert apart["scale.bias"] == (0.0, False)
    assert apart["LayerNorm_proj.weight"] == (0.01, False)
    assert apart["body.weight"] == (0.01, True)
    assert {a for _, a in grouped(Odd(), adapt=False, no_adapt=[]).values()} == {False}
    assert set(grouped(Odd(), no_decay=[], no_adapt=[]).values()) == {(0.01, True)}


@pytest.mark.parametrize("setting", ["no_decay", "no_adapt"])
@pytest.mark.parametrize("entry", ["LayerNrom", ""])
def test_a_part_that_matches_nothing_is_refused(setting: str, entry: str) -> None:
    with pytest.raises(ValueError, match=f"{setting}.*'{entry}'.*'body.weight'"):
        grouped(Odd(), **{setting: ["bias", entry]})


def test_kinds_may_be_absent() -> None:
    """`norm` cannot be a slip of the pen, and most small models have none."""
    assert set(grouped(nn.Linear(2, 2, bias=False)).values()) == {(0.01, True)}


def test_frozen_parameters_are_left_out() -> None:
    model = Odd()
    model.body.weight.requires_grad_(False)
    assert "body.weight" not in grouped(model)
    with pytest.raises(ValueError, match="matches no parameter"):
        decay_groups(model, 0.01, no_decay=["body.weight"])
    with pytest.raises(ValueError, match="no trainable parameter"):
        decay_groups(model.requires_grad_(False), 0.01)


def test_a_tied_parameter_stands_once_and_goes_by_all_its_names() -> None:
    bert = BertForPreTraining(CONFIG)
    word = bert.bert.embeddings.word_embeddings.weight
    assert bert.cls.predictions.decoder.weight is word
    for name in ("word_embeddings", "predictions.decoder.weight"):
        groups = decay_groups(bert, 0.01, no_decay=[name], no_adapt=[])
        assert [len(g["params"]) for g in groups if not g["weight_decay"]] == [1]
        assert next(p for g in groups if not g["weight_decay"] for p in g["params"]) is word


def test_the_run_uses_them() -> None:
    def shares(no_decay: Iterable[str]) -> list[int]:
        settings = OptimizerSettings(preset="paper", no_decay=list(no_decay), no_adapt=["bias", "norm"])
        return [
            len(g["params"]) for g in make_optimizer(BertForPreTraining(CONFIG), settings, compiled=False).param_groups
        ]

    assert len(shares(["bias", "norm"])) == 2
    assert len(shares(["bias"])) == 3
