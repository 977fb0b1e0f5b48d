"""Lamb where torch's own tools expect an optimizer of torch: schedulers, hooks, checkpoints; AdamW is the measure."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim import lr_scheduler as schedulers

from bert_lamb.optim import Lamb, Lars, decay_groups

SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=9),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=True),
    "cosine": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "in a row": lambda o: schedulers.SequentialLR(o, [schedulers.LinearLR(o), schedulers.CosineAnnealingLR(o, 3)], [2]),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
}


def step(p: Parameter, optimizer: Optimizer, number: int) -> None:
    p.grad = torch.sin(torch.arange(p.numel()) * 1.3 + number).reshape(p.shape)
    optimizer.step()


def follow(optimizer: Optimizer, name: str, p: Parameter, resume: bool) -> list[tuple[float, float]]:
    """Learning rate and momentum before each of eight steps."""
    schedule, seen = SCHEDULES[name](optimizer), []
    for number in range(8):
        if resume and number == 4:
            states = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
            optimizer = type(optimizer)([p], lr=0.01)
            schedule = SCHEDULES[name](optimizer)
            optimizer.load_state_dict(states[0])
            schedule.load_state_dict(states[1])
        (group,) = optimizer.param_groups
        seen.append((float(group["lr"]), group["betas"][0] if "betas" in group else group["momentum"]))
        step(p, optimizer, number)
        schedule.step(*([1.0] if name == "plateau" else []))
    return seen


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", [Lamb, Lars])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedulers_of_torch(name: str, kind: type[Optimizer], resume: bool) -> None:
    """They set the rates, and the momentums of those that cycle them, that AdamW would get."""
    p, q = (Parameter(torch.linspace(1, 2, 7)) for _ in range(2))
    ours = follow(kind([p], lr=0.01), name, p, resume)  # type: ignore[call-arg]
    assert ours == follow(AdamW([q], lr=0.01), name, q, resume=False)
    assert len(set(ours)) > 1


def test_a_cycled_momentum_counts() -> None:
    p = Parameter(torch.ones(3))
    optimizer = Lamb([p], lr=0.01)
    schedule = schedulers.OneCycleLR(optimizer, 0.1, total_steps=4)
    p.grad = torch.ones(3)
    optimizer.step()
    schedule.step()
    beta1 = optimizer.param_groups[0]["betas"][0]
    before = optimizer.state[p]["exp_avg"].clone()
    optimizer.step()
    assert beta1 != 0.9
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], beta1 * before + (1 - beta1))


@pytest.mark.parametrize("kind", [Lamb, Lars])
@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_learning_rate_may_be_a_tensor_of_one(kind: type[Optimizer], shape: tuple[int, ...]) -> None:
    p, q = (Parameter(torch.full(shape, 2.0)) for _ in range(2))
    step(p, kind([p], lr=torch.tensor([0.5])), 1)  # type: ignore[call-arg]
    step(q, kind([q], lr=0.5), 1)  # type: ignore[call-arg]
    assert torch.equal(p, q)
    with pytest.raises(ValueError, match=r"lr of shape \(2,\)"):
        kind([p], lr=torch.ones(2))  # type: ignore[call-arg]


def test_hooks_run() -> None:
    p = Parameter(torch.ones(2))
    optimizer, seen = Lamb([p]), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_state_dict_post_hook(lambda o, state: state | {"more": 1})
    step(p, optimizer, 0)
    assert seen == ["before", "after"]
    assert optimizer.state_dict()["more"] == 1


def test_more_moments_than_ours_are_left() -> None:
    """AMSGrad keeps a third; the two that we have load."""
    p, q = (Parameter(torch.ones(3)) for _ in range(2))
    theirs, ours = AdamW([p], amsgrad=True), Lamb([q])
    step(p, theirs, 0)
    ours.load_state_dict(theirs.state_dict())
    assert ours.state[q].keys() == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("flat", [False, True])
def test_checkpoints_of_torch(flat: bool, tmp_path: Path) -> None:
    """By names of parameters, through files, into a fresh model: it goes on to the bit."""

    def made() -> tuple[torch.nn.Module, Lamb]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))
        return model, Lamb(decay_groups(model, 0.01), lr=0.1, preset="apex", phi_bounds=(0.0, 10.0))

    def train(model: torch.nn.Module, optimizer: Lamb, steps: range) -> None:
        for number in steps:
            optimizer.zero_grad()
            (model(torch.sin(torch.arange(6.0).reshape(2, 3) + number)) ** 2).sum().backward()
            optimizer.step()

    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = made()
    train(model, optimizer, range(3))
    optimizer.param_groups[0]["lr"] = 0.05
    state = get_optimizer_state_dict(model, optimizer, options=options)
    dcp.save({"model": model.state_dict(), "optimizer": state}, checkpoint_id=tmp_path)

    other, fresh = made()
    state = get_optimizer_state_dict(other, fresh, options=options)
    read = {"model": other.state_dict(), "optimizer": state}
    dcp.load(read, checkpoint_id=tmp_path)
    other.load_state_dict(read["model"])
    set_optimizer_state_dict(other, fresh, read["optimizer"], options=options)
    assert fresh.param_groups[0]["lr"] == 0.05
    for m, o in ((model, optimizer), (other, fresh)):
        train(m, o, range(3, 5))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert fresh.state[q]["step"] == 5
