"""Law 5: the packed path equals transformers' BertForPreTraining, and weights go in and out of it unchanged."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.padded import CONFIG, gradients, padded_losses, plain_bert
from tools import make_store, phase_data
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForPreTraining, BertModel

from bert_lamb.batch import IGNORED, PackedBatch
from bert_lamb.bench.peers.loops import padded
from bert_lamb.data.packing import round_up
from bert_lamb.data.planner import Shape
from bert_lamb.errors import UserError
from bert_lamb.model import (
    WeightsError,
    attention,
    build_bert,
    encode,
    parameter_count,
    pretraining_losses,
    save_weights,
    training_flops,
)
from bert_lamb.settings import ModelSettings

SHAPE = Shape(tokens=1024, sequences=32, masked=160, longest=32)


def settings(**changes: object) -> ModelSettings:
    """The shape of `padded.CONFIG`."""
    shape = dict(name="t", layers=2, hidden=32, heads=2, intermediate=64, max_positions=64, dropout=0.0,
                 attention_dropout=0.0, initializer_range=0.2)  # fmt: skip
    return ModelSettings(**(shape | changes))  # type: ignore[arg-type]


def ours_like(theirs: Any) -> Any:
    ours: Any = build_bert(settings(), theirs.config.vocab_size, 0, seed=1)
    ours.to(next(theirs.parameters()).dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[PackedBatch]:
    folder = tmp_path_factory.mktemp("store") / "made"
    make_store(folder)
    return [b for step in phase_data(folder, 0, 1, 30).steps(0, 1) for b in step.batches]


def alone(batch: PackedBatch, m: int) -> PackedBatch:
    """Sequence m of a batch as a batch of its own."""
    a, b = batch.cu_seqlens[m : m + 2].tolist()
    keep = (batch.masked_positions >= a) & (batch.masked_positions < b)
    return PackedBatch(
        batch.input_ids[a:b], batch.token_type_ids[a:b], batch.position_ids[a:b], batch.cu_seqlens[m : m + 2] - a,
        b - a, batch.masked_positions[keep] - a, batch.masked_labels[keep], batch.next_labels[m : m + 1],
        batch.dropout_keys[a:b],
    )  # fmt: skip


@pytest.mark.parametrize("shape", ["as it is", "rounded up", "one sequence"])
def test_losses_and_every_gradient_equal_transformers(batches: list[PackedBatch], shape: str) -> None:
    batch = batches[0]
    if shape == "one sequence":
        batch = alone(batch, 0)
    theirs = plain_bert()
    ours = ours_like(theirs)
    mlm, nsp = padded_losses(theirs, padded(batch))
    (mlm / 37 + nsp / 11).backward()
    given = round_up(batch, SHAPE) if shape == "rounded up" else batch
    losses = pretraining_losses(ours, given)
    (losses.mlm / 37 + losses.nsp / 11).backward()
    torch.testing.assert_close(losses.mlm, mlm, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(losses.nsp, nsp, rtol=1e-10, atol=1e-10)
    expected, got = gradients(theirs), gradients(ours)
    assert got.keys() == expected.keys() == dict(ours.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-10, atol=1e-10, msg=name)
        assert gradient.abs().max() > 1e-6 or "key.bias" in name, f"{name}: its gradient says nothing"


def test_the_mean_losses_of_transformers_are_ours_over_the_counts(batches: list[PackedBatch]) -> None:
    """The loss that BertForPreTraining computes itself from labels: a mean over masked tokens plus one over pairs."""
    theirs = plain_bert()
    arrays = padded(batches[0])
    losses = pretraining_losses(ours_like(theirs), batches[0])
    mean = losses.mlm / len(batches[0].masked_labels) + losses.nsp / len(batches[0].next_labels)
    torch.testing.assert_close(mean, theirs(**arrays).loss, rtol=1e-12, atol=0)


def test_counts_of_right_predictions(batches: list[PackedBatch]) -> None:
    theirs = plain_bert()
    for batch in (batches[0], round_up(batches[0], SHAPE)):
        losses = pretraining_losses(ours_like(theirs), batch)
        arrays = padded(batches[0])
        out = theirs(**{k: arrays[k] for k in ("input_ids", "token_type_ids", "attention_mask")})
        right = (out.prediction_logits.argmax(-1) == arrays["labels"]).sum()
        assert losses.mlm_correct == right
        assert losses.nsp_correct == (out.seq_relationship_logits.argmax(-1) == arrays["next_sentence_label"]).sum()


@pytest.mark.parametrize("rounded", [False, True])
def test_no_sequence_sees_another(batches: list[PackedBatch], rounded: bool) -> None:
    """Other ids in one sequence move the outputs of no other sequence by a bit."""
    batch = round_up(batches[0], SHAPE) if rounded else batches[0]
    bert = build_bert(settings(), 120, 0, seed=1)
    before = encode(bert, batch)
    end_of_all = int(batch.cu_seqlens[-1])
    for m in (0, 3, len(batches[0].next_labels) - 1):
        a, b = batch.cu_seqlens[m : m + 2].tolist()
        ids = batch.input_ids.clone()
        ids[a:b] = (ids[a:b] + 7) % 115 + 5
        after = encode(bert, replace(batch, input_ids=ids))
        moved = (before != after).any(-1)[:end_of_all]
        assert moved[a:b].all()
        assert not moved[:a].any()
        assert not moved[b:].any()


@pytest.mark.parametrize("rounded", [False, True])
def test_the_path_of_the_flash_kernel(
    batches: list[PackedBatch], rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in that does what the kernel does: attends between borders and writes nothing anywhere else."""
    batch = round_up(batches[0], SHAPE) if rounded else batches[0]
    seen = []

    def kernel(query, key, value, borders, _, longest, __, dropout, *___):  # type: ignore[no-untyped-def]
        out = torch.full_like(query, torch.nan)
        seen.append((borders, longest, dropout))
        for a, b in pairwise(borders.tolist()):
            if a < b:
                parts = (x[a:b].transpose(0, 1) for x in (query, key, value))
                out = torch.cat([out[:a], F.scaled_dot_product_attention(*parts).transpose(0, 1), out[b:]])
        return (out,)

    bert = ours_like(plain_bert())
    results = []
    for varlen in (False, True):
        monkeypatch.setattr(attention, "takes_varlen", lambda *_, varlen=varlen: varlen)
        monkeypatch.setattr(attention, "flash_attention", kernel)
        losses = pretraining_losses(bert, batch)
        results.append(torch.autograd.grad(losses.mlm + losses.nsp, list(bert.parameters())))
    for padded_gradient, gradient in zip(*results, strict=True):
        torch.testing.assert_close(gradient, padded_gradient, rtol=1e-10, atol=1e-10)
    borders, longest, dropout = seen[0]
    assert borders.dtype == torch.int32
    assert int(borders[-1]) == len(batch.input_ids), "every token is covered"
    assert 0 <= int(borders.diff().min()) <= int(borders.diff().max()) <= longest
    assert dropout == 0


def test_the_flash_kernel_takes_what_it_is_given() -> None:
    """Its own checks of shapes and its gradient's formula, on tensors without values."""
    with torch.device("meta"):
        query = torch.empty(640, 4, 64, dtype=torch.bfloat16, requires_grad=True)
        where = attention.layout(torch.empty(9, dtype=torch.int32), 640, 128)
        out = attention._varlen(query, query, query, where, 0.1)
        assert out.shape == query.shape
        out.sum().backward()
    assert query.grad is not None
    assert query.grad.shape == query.shape


def test_recomputing_layers_changes_no_bit(batches: list[PackedBatch]) -> None:
    """Dropout is on: what is run again drops what it dropped."""
    results = []
    for recompute in (False, True):
        bert = build_bert(settings(dropout=0.1, attention_dropout=0.1), 120, 0, seed=1).train()
        torch.manual_seed(3)
        losses = pretraining_losses(bert, batches[0], recompute)
        (losses.mlm + losses.nsp).backward()
        results.append([losses.mlm, *(p.grad for p in bert.parameters())])
    for kept, again in zip(*results, strict=True):
        assert torch.equal(kept, again)


def test_gradients_do_not_leak_either(batches: list[PackedBatch]) -> None:
    """The loss of one sequence has no gradient in another's tokens."""
    batch = batches[0]
    bert = build_bert(settings(), 120, 0, seed=1)
    ids = batch.input_ids.clone()
    a, b = batch.cu_seqlens[3:5].tolist()
    ids[ids == 119] = 118
    ids[a + 1] = 119  # an id that stands in this sequence alone
    labels = torch.where((batch.masked_positions >= a) & (batch.masked_positions < b), IGNORED, batch.masked_labels)
    labels[labels == 119] = 118
    keep = torch.where(torch.arange(len(batch.next_labels)) == 3, IGNORED, batch.next_labels)
    losses = pretraining_losses(bert, replace(batch, input_ids=ids, masked_labels=labels, next_labels=keep))
    embedding = bert.bert.embeddings.word_embeddings.weight
    decoder_free = torch.autograd.grad(losses.nsp, embedding, allow_unused=True)[0]
    assert not decoder_free[119].any()
    assert decoder_free[118].any()


def test_weights_open_in_transformers(batches: list[PackedBatch], tmp_path: Path) -> None:
    theirs = plain_bert()
    ours = ours_like(theirs)
    save_weights(ours, tmp_path)
    arrays = {k: v for k, v in padded(batches[0]).items() if k in ("input_ids", "token_type_ids", "attention_mask")}
    loaded: Any = BertForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    opened, report = loaded
    assert not any(report.values()), report
    assert opened.dtype == torch.float64
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForPreTraining"]
    with torch.no_grad():
        expected, got = theirs.eval()(**arrays), opened.eval()(**arrays)
    real = arrays["attention_mask"].bool()
    torch.testing.assert_close(got.prediction_logits[real], expected.prediction_logits[real], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.seq_relationship_logits, expected.seq_relationship_logits, rtol=1e-12, atol=1e-12)
    body = BertModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        hidden = body(**arrays).last_hidden_state
        same = theirs.bert(**arrays).last_hidden_state
    torch.testing.assert_close(hidden[real], same[real], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_init_from_a_folder_of_transformers(batches: list[PackedBatch], tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = plain_bert(dtype=dtype)
    theirs.save_pretrained(tmp_path)
    ours: Any = build_bert(settings(init_from=str(tmp_path)), 120, 0, seed=5)
    ours.to(dtype)
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), p, rtol=1e-6 if dtype == torch.float64 else 0, atol=1e-7)
    mlm, _ = padded_losses(theirs.eval(), padded(batches[0]))
    torch.testing.assert_close(pretraining_losses(ours.eval(), batches[0]).mlm, mlm, rtol=1e-4, atol=1e-3)


def test_a_body_without_heads_gets_heads_from_the_seed(tmp_path: Path) -> None:
    """BertModel holds no pretraining heads: those that are missing come from the seed, alike in every process."""
    plain_bert(dtype=torch.float32).bert.save_pretrained(tmp_path)

    def heads(seed: int) -> torch.Tensor:
        torch.manual_seed(int(torch.randint(1000, (1,))))  # whatever the process did before
        ours = build_bert(settings(init_from=str(tmp_path)), 120, 0, seed)
        return ours.cls.seq_relationship.weight.detach().clone()

    assert torch.equal(heads(3), heads(3))
    assert not torch.equal(heads(3), heads(4))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_size": 48}, "bert.embeddings.word_embeddings.weight"),
        ({"vocab_size": 100}, "bert.embeddings.word_embeddings.weight: shape (100, 32), the settings give (120, 32)"),
        ({"num_hidden_layers": 1}, "bert.encoder.layer.1.attention.output.LayerNorm.bias: missing"),
        ({"num_hidden_layers": 3}, "bert.encoder.layer.2.attention.output.LayerNorm.bias: unknown to this model"),
        ({"max_position_embeddings": 32}, "position_embeddings"),
    ],
    ids=str,
)
def test_a_foreign_shape_is_refused_by_name(tmp_path: Path, change: dict[str, int], named: str) -> None:
    plain_bert(dtype=torch.float32, **change).save_pretrained(tmp_path)
    with pytest.raises(WeightsError) as refused:
        build_bert(settings(init_from=str(tmp_path)), 120, 0, seed=0)
    assert named in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert isinstance(refused.value, UserError)


@pytest.mark.parametrize("damage", ["empty folder", "no weights", "broken weights"])
def test_a_folder_that_is_no_bert_is_refused_in_words(tmp_path: Path, damage: str) -> None:
    if damage != "empty folder":
        plain_bert(dtype=torch.float32).save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
    if damage == "broken weights":
        (tmp_path / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(WeightsError, match=str(tmp_path)):
        build_bert(settings(init_from=str(tmp_path)), 120, 0, seed=0)


def test_weights_are_drawn_from_the_seed_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(int(torch.randint(1, 9, (1,))))
        return torch.cat([p.detach().flatten() for p in build_bert(settings(), 120, 0, seed).parameters()])

    before = torch.get_rng_state()
    build_bert(settings(), 120, 0, 1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_initial_weights_follow_their_law() -> None:
    """Matrices normal with the settings' deviation, biases 0, LayerNorm 1, the padding's embedding 0 or normal."""
    bert = build_bert(settings(hidden=128, intermediate=512, initializer_range=0.05), 2000, 0, seed=0)
    for name, p in bert.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "LayerNorm" in name:
            assert (p == 1).all(), name
        elif p.numel() > 5000:
            assert p.std().item() == pytest.approx(0.05, rel=0.05), name
            assert abs(p.mean().item()) < 0.002, name


@pytest.mark.parametrize("vocab_size", [100, 120, 30_522])
@pytest.mark.parametrize("changes", [{}, {"layers": 5, "hidden": 24, "heads": 3, "max_positions": 17}], ids=str)
def test_parameter_count(vocab_size: int, changes: dict[str, int]) -> None:
    m = settings(**changes)
    with torch.device("meta"):
        bert = build_bert(m, vocab_size, 0, seed=0)
    assert parameter_count(m, vocab_size) == sum(p.numel() for p in bert.parameters())


def test_training_flops_equal_the_counted_ones() -> None:
    """Against torch's own counter over a padded forward and backward whose head sees the masked positions only.

    Equal exactly: backward is twice the forward for every product, since each one's input depends on a parameter;
    the counter too leaves out all but products.
    """
    model, batch, length, masked = settings(), 3, 40, 6
    bert: Any = plain_bert()
    ids = torch.randint(5, 120, (batch, length))
    with FlopCounterMode(display=False) as counter:
        hidden = bert.bert.encoder(bert.bert.embeddings(ids), attention_mask=None).last_hidden_state
        logits = bert.cls.predictions(hidden[:, 1 : 1 + masked])
        next_logits = bert.cls.seq_relationship(bert.bert.pooler(hidden))
        (logits.square().sum() + next_logits.square().sum()).backward()
    assert counter.get_total_flops() == batch * training_flops(model, 120, length, masked)


def test_flops_of_bert_large_are_the_papers() -> None:
    """About 1.63e20 for the 85.2 G padded tokens of a row of Table 1 (461.2 M and 51.2 M sequences)."""
    large = settings(layers=24, hidden=1024, heads=16, intermediate=4096, max_positions=512)
    total = 461.2e6 * training_flops(large, 30522, 128, 19) + 51.2e6 * training_flops(large, 30522, 512, 77)
    assert total == pytest.approx(1.63e20, rel=0.02)


def test_config_of_the_padded_reference_is_ours() -> None:
    ours = build_bert(settings(), 120, 0, seed=0).config
    assert {k: getattr(ours, k) for k in CONFIG} == CONFIG
