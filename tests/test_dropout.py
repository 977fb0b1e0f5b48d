"""Dropout as a function of a place: its statistics, its independence of packing, and that it is the same compiled."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_model import SHAPE, settings
from test_order import phase_data
from tools import make_store

from bert_lamb.batch import PackedBatch
from bert_lamb.data.packing import round_up
from bert_lamb.model import build_bert, encode, pretraining_losses
from bert_lamb.model.dropout import at_site, dropped, mixed, token_keys
from bert_lamb.optim import has_compiler

KEYS = mixed(torch.arange(2000, dtype=torch.int32))


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[PackedBatch]:
    folder = tmp_path_factory.mktemp("store") / "made"
    make_store(folder)
    return [b for step in phase_data(folder, 0, 1, 30).steps(0, 2) for b in step.batches]


def with_dropout(p: float = 0.1, attention: float = 0.2) -> Any:
    bert: Any = build_bert(settings(dropout=p, attention_dropout=attention), 120, 0, seed=1)
    return bert.double().train()


def alone(batch: PackedBatch, m: int) -> PackedBatch:
    """Sequence m of a batch as a batch of its own."""
    a, b = batch.cu_seqlens[m : m + 2].tolist()
    keep = (batch.masked_positions >= a) & (batch.masked_positions < b)
    return PackedBatch(
        batch.input_ids[a:b], batch.token_type_ids[a:b], batch.position_ids[a:b], batch.cu_seqlens[m : m + 2] - a,
        b - a, batch.masked_positions[keep] - a, batch.masked_labels[keep], batch.next_labels[m : m + 1],
        batch.dropout_keys[m : m + 1],
    )  # fmt: skip


def test_the_mixer_is_murmur3s() -> None:
    """Values of MurmurHash3's fmix32, worked out in Python's own integers."""

    def fmix32(h: int) -> int:
        h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
        h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
        return h ^ h >> 16

    values = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 123456789, 0xDEADBEEF]
    given = torch.tensor([v - 2**32 if v >= 2**31 else v for v in values], dtype=torch.int32)
    assert [v & 0xFFFFFFFF for v in mixed(given).tolist()] == [fmix32(v) for v in values]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.01])
def test_the_share_dropped_and_the_scale(p: float) -> None:
    x = torch.ones(2000, 500, dtype=torch.float64)
    out = dropped(x, KEYS, p)
    gone = out == 0
    n = x.numel()
    assert abs(gone.double().mean().item() - p) < 5 * (p * (1 - p) / n) ** 0.5
    assert torch.allclose(out[~gone], torch.tensor(1 / (1 - p), dtype=torch.float64), rtol=1e-15)
    for dim in (0, 1):  # each column and each row: as often as chance says
        counts = gone.sum(dim).double()
        expected = p * x.shape[dim]
        chi2 = ((counts - expected) ** 2 / (expected * (1 - p))).sum().item()
        freedom = len(counts)
        assert abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5


def test_draws_of_neighbours_do_not_know_each_other() -> None:
    """Rows, columns, sites, and sequences whose keys are one bit apart: correlations within chance."""
    x = torch.ones(2000, 500)

    def gone(keys: torch.Tensor) -> torch.Tensor:
        return (dropped(x, keys, 0.3) == 0).double() - 0.3

    base = gone(at_site(KEYS, 4))
    others = {
        "next site": gone(at_site(KEYS, 5)), "site of the next layer": gone(at_site(KEYS, 7)),
        "one bit of the key": gone(at_site(KEYS ^ 1, 4)), "highest bit": gone(at_site(KEYS ^ -(2**31), 4)),
        "next row": base.roll(1, 0), "next column": base.roll(1, 1), "both": base.roll((1, 1), (0, 1)),
    }  # fmt: skip
    for name, other in others.items():
        correlation = (base * other).mean().item() / (0.3 * 0.7)
        assert abs(correlation) < 5 / x.numel() ** 0.5, name


def test_the_gradient_goes_where_the_value_went() -> None:
    x = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    out = dropped(x, KEYS[:50], 0.4)
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    assert torch.equal(x.grad, (out != 0) * torch.tensor(1 / (1 - 0.4), dtype=torch.float64))
    assert dropped(x, KEYS[:50], 0.0) is x


def test_a_token_keeps_its_key_wherever_it_stands() -> None:
    sequences = torch.tensor([7, -9], dtype=torch.int32)
    row, position = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 1])
    keys = token_keys(sequences, row, position)
    assert torch.equal(keys[3:], token_keys(sequences[1:], row[:2], position[:2]))
    assert len(set(keys.tolist())) == 5


@pytest.mark.parametrize(("hidden", "attention"), [(0.1, 0.0), (0.0, 0.2), (0.1, 0.2)])
def test_a_sequence_is_dropped_alike_alone_and_in_company(
    batches: list[PackedBatch], hidden: float, attention: float
) -> None:
    batch = batches[0]
    bert = with_dropout(hidden, attention)
    together, rounded = encode(bert, batch), encode(bert, round_up(batch, SHAPE))
    torch.testing.assert_close(rounded[: len(together)], together, rtol=1e-12, atol=1e-12)
    for m in range(0, len(batch.next_labels), 5):
        a, b = batch.cu_seqlens[m : m + 2].tolist()
        torch.testing.assert_close(encode(bert, alone(batch, m)), together[a:b], rtol=1e-12, atol=1e-12)
    bert.eval()
    assert not torch.allclose(encode(bert, batch), together), "dropout was on"
    other = replace(batch, dropout_keys=batch.dropout_keys + 1)
    assert torch.equal(encode(bert, other), encode(bert, batch)), "in eval mode nothing is dropped"


def test_every_dropout_of_bert_is_there(batches: list[PackedBatch]) -> None:
    """In the mean over many draws the hidden states spread as those of transformers' own dropout do."""
    batch = alone(batches[0], 0)
    bert = with_dropout(0.1, 0.2)
    bert.config._attn_implementation = "eager"
    torch.manual_seed(0)
    n = 600
    with torch.no_grad():
        ours = torch.stack([encode(bert, replace(batch, dropout_keys=batch.dropout_keys + i)) for i in range(n)])
        ids, types = batch.input_ids[None].repeat(n, 1), batch.token_type_ids[None].repeat(n, 1)
        theirs = bert.bert(input_ids=ids, token_type_ids=types).last_hidden_state
    for moment in (torch.mean, torch.std):
        a, b = moment(ours, 0), moment(theirs, 0)
        noise = ours.std(0) / n**0.5 * 2**0.5
        assert ((a - b).abs() / noise).mean() < 1.2, f"{moment.__name__}: within what {n} draws tell"


def test_recomputing_layers_changes_no_bit(batches: list[PackedBatch]) -> None:
    results = []
    for recompute in (False, True):
        bert = with_dropout()
        losses = pretraining_losses(bert, batches[0], recompute)
        (losses.mlm + losses.nsp).backward()
        results.append([losses.mlm, *(p.grad for p in bert.parameters())])
    for kept, again in zip(*results, strict=True):
        assert torch.equal(kept, again)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler here")
def test_compiled_it_drops_the_same() -> None:
    x = torch.randn(64, 48)
    compiled = torch.compile(lambda x, keys: dropped(x * 1.0, at_site(keys, 3), 0.1), dynamic=False)
    for keys in (KEYS[:64], KEYS[64:128]):
        assert torch.equal(compiled(x, keys), dropped(x, at_site(keys, 3), 0.1))
