"""Muon beside AdamW: each tensor moves as the optimizer that it belongs to moves it alone."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

from bert_lamb.optim import Lamb, MuonAdamW, Schedule, decay_groups, hidden_matrices, set_lr


def small_bert() -> BertForPreTraining:
    torch.manual_seed(0)
    return BertForPreTraining(
        BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                   max_position_embeddings=16)
    )  # fmt: skip


def made(bert: BertForPreTraining, **settings: Any) -> MuonAdamW:
    return MuonAdamW(decay_groups(bert, 0.1, adapt=False), hidden_matrices(bert), lr=0.01, **settings)


def fill(bert: BertForPreTraining, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in bert.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def weights(bert: BertForPreTraining) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in bert.named_parameters()}


def test_the_matrices_of_the_encoder_and_nothing_else() -> None:
    bert = small_bert()
    of = {id(p): name for name, p in bert.named_parameters()}
    names = sorted(of[id(p)] for p in hidden_matrices(bert))
    assert len(names) == 2 * 6
    assert all(name.startswith("bert.encoder.layer.") and name.endswith("weight") for name in names)


def test_each_part_moves_as_alone() -> None:
    ours, theirs = small_bert(), small_bert()
    optimizer = made(ours, betas=(0.8, 0.99))
    matrices = [p for p in theirs.parameters() if p in hidden_matrices(theirs)]
    others = [group | {"params": [p for p in group["params"] if p not in hidden_matrices(theirs)]}
              for group in decay_groups(theirs, 0.1, adapt=False)]  # fmt: skip
    others = [{key: value for key, value in group.items() if key != "param_names"} for group in others]
    muon = torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = Lamb(others, preset="adamw", betas=(0.8, 0.99), max_grad_norm=None)
    schedule = Schedule(0.02, 2, 6)
    for step in range(5):
        fill(ours, step)
        fill(theirs, step)
        for each in (optimizer, muon, adamw):
            set_lr(each, schedule(step))
            each.step()
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in ours.parameters()]))
        torch.testing.assert_close(optimizer.grad_norm, norm)
    for name, p in weights(ours).items():
        assert torch.equal(p, weights(theirs)[name]), name
    assert not torch.equal(weights(ours)["cls.predictions.bias"], weights(small_bert())["cls.predictions.bias"])


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    bert = small_bert()
    optimizer = made(bert)
    fill(bert, 0)
    optimizer.step()
    before, state = weights(bert), copy.deepcopy(optimizer.state_dict())
    fill(bert, 1)
    bert.bert.pooler.dense.bias.grad[0] = torch.inf  # of AdamW's part: Muon's must stay too
    optimizer.step()
    assert not optimizer.step_was_finite
    torch.testing.assert_close(weights(bert), before, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict()["state"], state["state"], rtol=0, atol=0)


def test_the_clip_is_of_all_gradients_together() -> None:
    clipped, scaled = small_bert(), small_bert()
    fill(clipped, 0)
    fill(scaled, 0)
    norm = torch.nn.utils.get_total_norm([p.grad for p in scaled.parameters()])
    for p in scaled.parameters():
        p.grad *= 0.5 / norm
    made(clipped, max_grad_norm=0.5).step()
    made(scaled).step()
    torch.testing.assert_close(weights(clipped), weights(scaled))


def test_a_state_that_was_saved_goes_on_to_the_same_bits() -> None:
    straight, stopped = small_bert(), small_bert()
    optimizer, before = made(straight), made(stopped)
    for step in range(4):
        fill(straight, step)
        optimizer.step()
    for step in range(2):
        fill(stopped, step)
        before.step()
    after = made(stopped)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for step in range(2, 4):
        fill(stopped, step)
        after.step()
    assert all(torch.equal(p, weights(stopped)[name]) for name, p in weights(straight).items())


def test_what_it_refuses() -> None:
    bert = small_bert()
    with pytest.raises(ValueError, match="one of both is missing"):
        MuonAdamW(decay_groups(bert, 0.1), set())
    with pytest.raises(ValueError, match="2D"):
        MuonAdamW(decay_groups(bert, 0.1), [bert.cls.predictions.bias])
    with pytest.raises(ValueError, match="momentum=1"):
        made(bert, momentum=1.0)
    with pytest.raises(ValueError, match="max_grad_norm=0"):
        made(bert, max_grad_norm=0)
    with pytest.raises(ValueError, match="when it is made"):
        made(bert).add_param_group({"params": [torch.nn.Parameter(torch.zeros(2, 2))]})


def test_a_copy_is_an_optimizer_of_its_own() -> None:
    bert = small_bert()
    optimizer = made(bert)
    fill(bert, 0)
    optimizer.step()
    both = copy.deepcopy({"bert": bert, "optimizer": optimizer})
    before = weights(bert)
    fill(both["bert"], 1)
    both["optimizer"].step()
    assert all(torch.equal(p, before[name]) for name, p in weights(bert).items())
    assert not torch.equal(weights(both["bert"])["cls.predictions.bias"], before["cls.predictions.bias"])
