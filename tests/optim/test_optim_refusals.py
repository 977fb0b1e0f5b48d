"""What Lamb and Lars refuse by name: parts of tensors, unknown settings, other tensors' states, two clips."""

import copy
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from bert_lamb.optim import Lamb, Lars, Schedule, decay_groups

KINDS = pytest.mark.parametrize("kind", [Lamb, Lars])


def with_grad(*shape: int) -> Parameter:
    p = Parameter(torch.ones(shape))
    p.grad = torch.ones(shape)
    return p


@KINDS
@pytest.mark.parametrize(
    ("mark", "owner"),
    [("_is_flat_param", "FSDP1"), ("_fsdp_flattened", "FSDP1.*use_orig_params"), ("ds_id", "DeepSpeed.*ZeRO stage 3")],
)
@pytest.mark.parametrize("when", ["made", "added", "marked later"])
def test_flattened_parameters_are_refused(kind: Any, mark: str, owner: str, when: str) -> None:
    """Whether they are flattened when the optimizer gets them, or are afterwards (FSDP1 keeps the parameter object)."""
    fine, flat = with_grad(2, 3), with_grad(6)
    if when == "made":
        setattr(flat, mark, 0 if mark == "ds_id" else True)
        with pytest.raises(ValueError, match=rf"head\.weight is flattened by {owner}.*fully_shard"):
            kind([("body.weight", fine), ("head.weight", flat)])
        return
    optimizer = kind([("body.weight", fine)])
    if when == "added":
        setattr(flat, mark, 0 if mark == "ds_id" else True)
        with pytest.raises(ValueError, match=rf"head\.weight is flattened by {owner}"):
            optimizer.add_param_group({"params": [("head.weight", flat)]})
        assert len(optimizer.param_groups) == 1
        return
    optimizer.add_param_group({"params": [("head.weight", flat)]})
    setattr(flat, mark, 0 if mark == "ds_id" else True)
    with pytest.raises(ValueError, match=rf"head\.weight is flattened by {owner}"):
        optimizer.step()
    assert torch.equal(fine, torch.ones(2, 3)), "before anything is written"


@KINDS
@pytest.mark.parametrize("sizes", [(9,), (5,), (4, 5)], ids=str)
@pytest.mark.parametrize("copied", [False, True])
def test_vectors_in_the_place_of_tensors_are_refused(kind: Any, sizes: tuple[int, ...], copied: bool) -> None:
    """As DeepSpeed's stages 1 and 2 do it, and others' distributed optimizers: a group's list is replaced, unmarked."""
    optimizer = kind([with_grad(2, 3), with_grad(3)])
    if copied:
        optimizer = copy.deepcopy(optimizer)
    optimizer.param_groups[0]["params"] = [with_grad(size) for size in sizes]
    with pytest.raises(ValueError, match=r"vector of \d numbers.*DeepSpeed.*stage 0"):
        optimizer.step()


def test_masters_of_the_same_shapes_are_taken() -> None:
    """DeepSpeed's stage 0 in bf16 puts fp32 copies in the place of the parameters; a biases' group shrinks."""
    optimizer = Lamb([with_grad(2, 3), with_grad(3)])
    masters = [with_grad(2, 3), with_grad(3)]
    optimizer.param_groups[0]["params"] = masters
    optimizer.step()
    assert not torch.equal(masters[0], torch.ones(2, 3))
    optimizer.param_groups[0]["params"] = masters[1:]
    optimizer.step()


@KINDS
def test_unknown_keys_of_a_group_are_refused(kind: Any) -> None:
    p, q = with_grad(2), with_grad(2)
    for key, told in (
        ("weight_decai", "weight_decai.*weight_decay"),
        ("trust_clip", "trust_clip"),
        ("dampening", "damp"),
    ):
        with pytest.raises(ValueError, match=f"no setting '{told}"):
            kind([{"params": [p], key: 0.1}])
        optimizer = kind([p])
        with pytest.raises(ValueError, match=f"no setting '{told}"):
            optimizer.add_param_group({"params": [q], key: 0.1})
    with pytest.raises(ValueError, match=r"preset='lans' in a parameter group.*whole optimizer"):
        kind([{"params": [p], "preset": "lans"}])


def test_keys_of_schedulers_and_labels_are_none_of_ours() -> None:
    """torch's schedulers want `initial_lr` in the groups of a resumed run; monitors read `name`."""
    p = with_grad(2)
    optimizer = Lamb([{"params": [p], "initial_lr": 0.5, "lr": 0.1, "name": "all"}])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, last_epoch=3)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["name"] == "all"


@KINDS
def test_one_clip_for_all_groups(kind: Any) -> None:
    """It stands in the groups: checked across them, shown, saved and loaded."""
    p, q, r = with_grad(2), with_grad(2), with_grad(2)
    with pytest.raises(ValueError, match=r"max_grad_norm=2\.0.*1\.0 in those before it"):
        kind([{"params": [p], "max_grad_norm": 1.0}, {"params": [q], "max_grad_norm": 2.0}])
    optimizer = kind([{"params": [p]}, {"params": [q]}], max_grad_norm=0.5)
    assert [group["max_grad_norm"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert "max_grad_norm: 0.5" in repr(optimizer)
    loaded = kind([{"params": [r]}, {"params": [with_grad(2)]}], max_grad_norm=None)
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.max_grad_norm == 0.5
    old = optimizer.state_dict()
    for group in old["param_groups"]:
        del group["max_grad_norm"]  # saved before it stood there
    kept = kind([{"params": [r]}, {"params": [with_grad(2)]}], max_grad_norm=3.0)
    kept.load_state_dict(old)
    assert kept.max_grad_norm == 3.0
    optimizer.param_groups[1]["max_grad_norm"] = 0.7
    with pytest.raises(ValueError, match=r"differs between parameter groups: 0\.5, 0\.7"):
        optimizer.step()
    optimizer.max_grad_norm = 0.7
    optimizer.step()
    optimizer.add_param_group({"params": [with_grad(3)]})
    assert optimizer.param_groups[2]["max_grad_norm"] == 0.7
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_grad_norm"):
            kind([{"params": [with_grad(2)], "max_grad_norm": wrong}])


def test_a_clip_of_a_group_clips() -> None:
    p, q = (Parameter(torch.ones(2)) for _ in range(2))
    one, two = Lamb([{"params": [p], "max_grad_norm": 0.5}], eps=1.0), Lamb([q], eps=1.0, max_grad_norm=0.5)
    for optimizer, parameter in ((one, p), (two, q)):
        parameter.grad = torch.full((2,), 7.0)
        optimizer.step()
    assert torch.equal(p, q)


def test_moments_of_another_shape_are_refused() -> None:
    """By the parameter's name, and nothing is loaded: a model whose layers stand in another order has as many."""
    model, other = (torch.nn.Sequential(*layers) for layers in (
        (torch.nn.Linear(2, 3), torch.nn.Linear(3, 4)), (torch.nn.Linear(3, 4), torch.nn.Linear(2, 3)),
    ))  # fmt: skip
    saved, optimizer = (Lamb(decay_groups(m, 0.01), lr=lr) for m, lr in ((other, 0.5), (model, 0.1)))
    for p in other.parameters():
        p.grad = torch.ones_like(p)
    saved.step()
    with pytest.raises(ValueError, match=r"exp_avg of shape \(4, 3\) for parameter 0\.weight, whose shape is \(3, 2\)"):
        optimizer.load_state_dict(saved.state_dict())
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_groups_keep_names() -> None:
    """Errors then name the parameter; a late group of unnamed ones is still taken."""
    model = torch.nn.Sequential(torch.nn.Embedding(5, 2, sparse=True), torch.nn.LayerNorm(2))
    groups = decay_groups(model, 0.01)
    assert [group["param_names"] for group in groups] == [["0.weight"], ["1.weight", "1.bias"]]
    optimizer = Lamb(groups)
    model(torch.tensor([[1, 2]])).sum().backward()
    with pytest.raises(ValueError, match=r"parameter 0\.weight has a sparse gradient"):
        optimizer.step()
    model[0].weight.grad = None
    late = with_grad(3)
    optimizer.add_param_group({"params": late})
    optimizer.step()
    assert optimizer.state[late]["step"] == 1
    torch.optim.AdamW(decay_groups(torch.nn.Linear(2, 2), 0.01) and [
        {k: v for k, v in group.items() if k != "adapt"} for group in decay_groups(torch.nn.Linear(2, 2), 0.01)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peak_lr": -1.0}, "peak_lr=-1.0"), ({"peak_lr": float("nan")}, "peak_lr=nan"),
        ({"peak_lr": float("inf")}, "peak_lr=inf"), ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"warmup_steps": 0.1}, "warmup_steps=0.1.*whole number"), ({"total_steps": 0}, "total_steps=0"),
        ({"total_steps": 9}, r"warmup_steps=10.*total_steps=9"), ({"hold_steps": -2}, "hold_steps=-2"),
        ({"hold_steps": 95}, r"hold_steps=95.*total_steps=100"), ({"first_step": -1}, "first_step=-1"),
        ({"decay_power": -1.0}, "decay_power=-1.0"),
        ({"decay_origin": "peak"}, "decay_origin='peak'.*start, warmup_end"),
        ({"decay_power": float("nan")}, "decay_power=nan"), ({"warmup_steps": True}, "warmup_steps=True"),
    ],
)  # fmt: skip
def test_a_schedule_checks_what_it_is_given(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Schedule(**({"peak_lr": 1.0, "warmup_steps": 10, "total_steps": 100} | settings))


def test_a_schedule_has_no_step_before_the_first() -> None:
    plan = Schedule(1.0, 10, 100)
    with pytest.raises(ValueError, match="step=-1"):
        plan(-1)
    all_warmup = Schedule(1.0, 10, 10, decay_origin="warmup_end")
    assert [all_warmup(t) for t in (5, 9, 10, 11)] == [0.5, 0.9, 0.0, 0.0]
