"""Dropout as a function of a place: its statistics, its independence of packing, and that it is the same compiled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_model import SHAPE, alone, settings
from tools import make_store, phase_data

from bert_lamb.batch import PackedBatch
from bert_lamb.data.packing import round_up
from bert_lamb.hashing import GOLDEN, mix
from bert_lamb.model import build_bert, encode, pretraining_losses
from bert_lamb.model.dropout import dropped, kept, threshold
from bert_lamb.optim import has_compiler

KEYS = torch.from_numpy(mix(np.arange(2000, dtype=np.uint64)).view(np.int64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "made"
    make_store(folder)
    return folder


@pytest.fixture(scope="module")
def batches(folder: Path) -> list[PackedBatch]:
    return [b for step in phase_data(folder, 0, 1, 30).steps(0, 2) for b in step.batches]


def with_dropout(p: float = 0.1, attention: float = 0.2) -> Any:
    bert: Any = build_bert(settings(dropout=p, attention_dropout=attention), 120, 0, seed=1)
    return bert.double().train()


def other_draws(batch: PackedBatch, i: int) -> PackedBatch:
    return replace(batch, dropout_keys=batch.dropout_keys ^ (i * 0x1234567))


def test_draws_are_splitmix64_of_the_key_and_the_site() -> None:
    """Worked out in Python's own integers, four draws of 16 bits to a word."""

    def finalised(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    golden, site, columns, least = int(GOLDEN), 5, 7, 30_000
    rows = [3, 2**63 + 11]
    expected = []
    for key in rows:
        start = finalised(finalised((key * golden + site) % 2**64) ^ site)
        for group in range(2):
            words = [finalised((start + (group * 2**32 + w) * golden) % 2**64) for w in range(2)]
            draws = [word >> 16 * i & 0xFFFF for word in words for i in range(4)]
            expected.append([draw >= least for draw in draws[:columns]])
    keys = torch.from_numpy(np.array(rows, np.uint64).view(np.int64))
    assert kept(keys, site, 2, columns, least).view(4, columns).tolist() == expected


@pytest.mark.parametrize("p", [0.1, 0.5, 0.01])
def test_the_share_dropped_and_the_scale(p: float) -> None:
    x = torch.ones(2000, 500, dtype=torch.float64)
    out = dropped(x, KEYS, 0, p)
    gone = out == 0
    n, exact = x.numel(), threshold(p) / 2**16
    assert abs(exact - p) < 2**-16
    assert abs(gone.double().mean().item() - exact) < 5 * (p * (1 - p) / n) ** 0.5
    assert torch.allclose(out[~gone], torch.tensor(1 / (1 - exact), dtype=torch.float64), rtol=1e-15)
    for dim in (0, 1):  # each column and each row: as often as chance says
        counts = gone.sum(dim).double()
        expected = p * x.shape[dim]
        chi2 = ((counts - expected) ** 2 / (expected * (1 - p))).sum().item()
        freedom = len(counts)
        assert abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5


def test_draws_of_neighbours_do_not_know_each_other() -> None:
    """Rows, columns, sites, groups, and keys that are one bit apart: correlations within chance."""
    x = torch.ones(2000, 500)

    def gone(keys: torch.Tensor, site: int) -> torch.Tensor:
        return (dropped(x, keys, site, 0.3) == 0).double() - 0.3

    base = gone(KEYS, 4)
    grouped = (dropped(x.view(2000, 2, 250), KEYS, 4, 0.3) == 0).double() - 0.3
    others = {
        "next site": gone(KEYS, 5), "site of the next layer": gone(KEYS, 7),
        "one bit of the key": gone(KEYS ^ 1, 4), "highest bit": gone(KEYS ^ -(2**63), 4),
        "next row": base.roll(1, 0), "next column": base.roll(1, 1), "both": base.roll((1, 1), (0, 1)),
        "next word": base.roll(4, 1), "next group": grouped.flip(1).flatten(1),
    }  # fmt: skip
    for name, other in others.items():
        against = grouped.flatten(1) if name == "next group" else base
        correlation = (against * other).mean().item() / (0.3 * 0.7)
        assert abs(correlation) < 5 / x.numel() ** 0.5, name


def test_the_gradient_goes_where_the_value_went() -> None:
    x = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    out = dropped(x, KEYS[:50], 2, 0.4)
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    assert torch.equal(x.grad, (out != 0) * torch.tensor(2**16 / (2**16 - threshold(0.4)), dtype=torch.float64))
    assert dropped(x, KEYS[:50], 2, 0.0) is x


def test_a_token_keeps_its_key_wherever_it_stands(folder: Path) -> None:
    """Through the loader: the same keys from one rank and from two, all of them different."""

    def keys(rank: int, ranks: int, micro_batch: int) -> dict[tuple[int, ...], list[int]]:
        found = {}
        for step in phase_data(folder, rank, ranks, micro_batch).steps(0, 2):
            for batch in step.batches:
                lengths = batch.cu_seqlens.diff().tolist()
                for ids, own in zip(batch.input_ids.split(lengths), batch.dropout_keys.split(lengths), strict=True):
                    found[tuple(ids.tolist())] = own.tolist()
        return found

    whole = keys(0, 1, 30)
    assert whole == keys(0, 2, 4) | keys(1, 2, 4)
    every = [key for row in whole.values() for key in row]
    assert len(set(every)) == len(every)


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
    assert not torch.allclose(encode(bert, other_draws(batch, 1)), together), "the keys decide"
    bert.eval()
    assert not torch.allclose(encode(bert, batch), together), "dropout was on"
    assert torch.equal(encode(bert, other_draws(batch, 1)), encode(bert, batch)), "in eval mode nothing is dropped"


def test_every_dropout_of_bert_is_there(batches: list[PackedBatch]) -> None:
    """In the mean over many draws the hidden states spread as those of transformers' own dropout do."""
    batch = alone(batches[0], 0)
    bert = with_dropout(0.1, 0.2)
    bert.config._attn_implementation = "eager"
    torch.manual_seed(0)
    n = 600
    with torch.no_grad():
        ours = torch.stack([encode(bert, other_draws(batch, i)) for i in range(n)])
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
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler here")
def test_compiled_it_drops_the_same() -> None:
    def function(x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return dropped(x * 1.0, keys, 3, 0.1)

    x = torch.randn(61, 45)
    compiled = torch.compile(function, dynamic=False)
    for keys in (KEYS[:61], KEYS[64:125]):
        assert torch.equal(compiled(x, keys), function(x, keys))
