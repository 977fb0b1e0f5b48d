"""The plan's memory, against what autograd keeps."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from test_model import settings
from tools import BF16, tiny

from bert_lamb.bench.random_batches import SHARE, VOCABULARY
from bert_lamb.data.random_batch import random_batch
from bert_lamb.model import activation_bytes, build_bert, pretraining_losses
from bert_lamb.planning.cost import budget, budget_text
from bert_lamb.planning.preflight import memory_warnings

SMALL: dict[str, Any] = {"hidden": 128, "heads": 2, "intermediate": 512, "max_positions": 512}
SHAPES = {
    "tiny": SMALL,
    "wide": SMALL | {"hidden": 256, "heads": 4, "intermediate": 1024},
    "narrow middle": SMALL | {"intermediate": 128},
    "no dropout": SMALL | {"dropout": 0.0, "attention_dropout": 0.0},
}


def saved_bytes(m: Any, seq_len: int, precision: str, recompute: bool) -> int:
    """What autograd keeps of a forward pass over 8 sequences, each storage once, weights and their casts left out."""
    bert = build_bert(m, VOCABULARY, 0, 0).train()
    bert.to(torch.float64 if precision == "fp64" else torch.float32)
    own = {p.untyped_storage().data_ptr() for p in bert.parameters()}
    casts = {p.numel() for p in bert.parameters() if p.ndim == 2} if precision == "bf16" else set()
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own and tensor.numel() not in casts:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = random_batch(np.random.default_rng(0), np.full(8, seq_len), seq_len, VOCABULARY, SHARE)
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), cast:
        pretraining_losses(bert, batch, recompute)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["bf16", "fp32", "fp64"])
@pytest.mark.parametrize("seq_len", [72, 200])  # 8 of these are the size of no weight
def test_layers_keep_what_the_count_says(shape: str, precision: str, seq_len: int) -> None:
    """The difference of three layers and one: within a tenth."""
    m = [settings(layers=layers, **{"dropout": 0.1, "attention_dropout": 0.1} | SHAPES[shape]) for layers in (1, 3)]
    one, three = (saved_bytes(s, seq_len, precision, False) for s in m)
    told = [activation_bytes(s, VOCABULARY, 8 * seq_len, seq_len, 0, precision, False, written_out=True) for s in m]
    assert told[1] - told[0] == pytest.approx(three - one, rel=0.1)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_whole_step(precision: str) -> None:
    """More than what is kept, since the loss needs more while it is made; most of it is not the loss alone."""
    m = settings(layers=4, **SMALL, dropout=0.1, attention_dropout=0.1)
    kept = saved_bytes(m, 136, precision, False)
    told = [activation_bytes(m, VOCABULARY, 1088, 136, n, precision, False, written_out=True) for n in (0, 160)]
    assert told[0] < kept < told[1]


def test_recomputed_layers_keep_their_input_only() -> None:
    four, eight = (settings(layers=n, **SMALL, dropout=0.1, attention_dropout=0.1) for n in (4, 8))
    kept = saved_bytes(eight, 136, "fp32", True) - saved_bytes(four, 136, "fp32", True)
    told = [activation_bytes(m, VOCABULARY, 1088, 136, 0, "fp32", True, written_out=True) for m in (four, eight)]
    assert told[1] - told[0] == pytest.approx(kept, rel=0.1)


def test_the_plan_counts_a_device(tmp_path: Path) -> None:
    """No more sequences than a device ever gets, less where layers are recomputed, a warning where it is too much."""
    few = tiny(tmp_path, "phase1.global_batch=8", "hardware.micro_batch_tokens=100000")
    many = tiny(tmp_path, "phase1.global_batch=4096", "hardware.micro_batch_tokens=100000")
    again = tiny(tmp_path, "phase1.global_batch=4096", "hardware.micro_batch_tokens=100000", "hardware.recompute=true")
    gib = [budget(s, 1, BF16).phases[0].memory_gib for s in (few, again, many)]
    assert gib[0] < gib[1] < gib[2]
    assert budget(few, 8, BF16).phases[0].memory_gib < gib[0]
    text = budget_text(many, budget(many, 1, BF16))
    assert f"memory: about {1024 * max(p.memory_gib for p in budget(many, 1, BF16).phases):.0f} MiB per device" in text
    assert not memory_warnings(many, budget(many, 1, BF16))
    with mock.patch("psutil.virtual_memory", return_value=mock.Mock(total=2**20)):
        (told,) = memory_warnings(many, budget(many, 1, BF16))[:1]
    assert "phase 1 may need about" in told
    assert "hardware.micro_batch_tokens" in told
