"""Rank program of test_sharded_optim: the same steps on whole and on sharded parameters; asserts on every rank.

python -m torch.distributed.run --standalone --nproc-per-node=2 tests/ranks/optim.py
"""

import copy
import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from bert_lamb.optim import Lamb, Lars, update

STEPS = 6
OPTIMIZERS: dict[str, Any] = {
    **{preset: lambda ps, preset=preset: Lamb(ps, 0.02, preset) for preset in ("paper", "google", "lans", "nnlamb")},
    "L1, bounds": lambda ps: Lamb(ps, 0.02, norm=1, phi_bounds=(0.1, 2.0), ratio_bounds=(0.1, 3.0), max_grad_norm=0.1),
    "Linf": lambda ps: Lamb(ps, 0.02, norm=float("inf"), bias_correction="learning_rate"),
    "lars": lambda ps: Lars(ps, 0.02, max_grad_norm=0.5),
    "plain": lambda ps: Lamb(ps, 0.02, foreach=False),
    "foreach": lambda ps: Lamb(ps, 0.02, foreach=True),
}


def model() -> torch.nn.Module:
    """Odd sizes, so that parts differ; the last layer has one row, so that a rank holds nothing of it."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Tanh(), torch.nn.Linear(7, 1)
    ).double()


def groups(m: torch.nn.Module) -> list[dict[str, Any]]:
    wide = [p for n, p in m.named_parameters() if "weight" in n]
    return [{"params": wide}, {"params": [p for n, p in m.named_parameters() if "weight" not in n], "adapt": False}]


def backward(m: torch.nn.Module, step: int) -> None:
    x = torch.sin(torch.arange(20, dtype=torch.float64).reshape(4, 5) + step)
    m.zero_grad()
    (m(x) ** 2).sum().backward()


def whole(t: torch.Tensor) -> torch.Tensor:
    return t.full_tensor() if isinstance(t, DTensor) else t


def same(name: str, mesh: Any) -> None:
    one, many = model(), fully_shard(model(), mesh=mesh)
    a, b = OPTIMIZERS[name](groups(one)), OPTIMIZERS[name](groups(many))
    for step in range(STEPS):
        for m in (one, many):
            backward(m, step)
        a.step()
        with CommDebugMode() as seen:
            b.step()
        reductions = seen.get_total_counts()
        needed = 2 if mesh.size(mesh.ndim - 1) > 1 else 0  # gradients; weights and updates
        assert reductions == needed, f"{name}: {reductions} reductions"
        torch.testing.assert_close(b.grad_norm, a.grad_norm, rtol=1e-12, atol=0)
    for (n, p), q in zip(one.named_parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(whole(q), p.detach(), rtol=1e-11, atol=1e-13, msg=lambda m, n=n: f"{name} {n}: {m}")
        for key, value in a.state[p].items():
            torch.testing.assert_close(whole(b.state[q][key]), value, rtol=1e-11, atol=1e-15)
        for x, y in zip(a.readings[p], b.readings[q], strict=True):
            torch.testing.assert_close(y, x, rtol=1e-10, atol=0)


def state_goes_round() -> None:
    """Through torch.distributed.checkpoint's state dictionaries into a fresh model and optimizer: they go on alike."""
    a, b = fully_shard(model()), fully_shard(model())
    one, two = Lamb(groups(a), 0.02), Lamb(groups(b), 0.02)
    for step in range(2):
        backward(a, step)
        one.step()
    set_model_state_dict(b, get_model_state_dict(a))
    set_optimizer_state_dict(b, two, get_optimizer_state_dict(a, one))
    for m, optimizer in ((a, one), (b, two)):
        backward(m, 2)
        optimizer.step()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert two.state[q]["step"] == 3
        assert torch.equal(whole(p), whole(q))


def not_finite_on_one_rank() -> None:
    """A bad number in one rank's part stops the step on both."""
    m = fully_shard(model())
    optimizer = Lamb(groups(m), 0.02)
    backward(m, 0)
    optimizer.step()
    before = copy.deepcopy([whole(p).detach() for p in m.parameters()])
    backward(m, 1)
    if dist.get_rank() == 1:
        next(m.parameters()).grad.to_local()[0, 0] = float("nan")
    optimizer.step()
    assert int(optimizer.steps_not_finite) == 1
    for p, old in zip(m.parameters(), before, strict=True):
        assert torch.equal(whole(p).detach(), old)
        assert optimizer.state[p]["step"] == 1


def narrow_weights() -> None:
    """bf16 parts of tensors take the steps of the whole: gradients are widened before they are scaled."""
    one, many = model().bfloat16(), fully_shard(model().bfloat16())
    a, b = (Lamb(groups(m), 0.02, "google") for m in (one, many))
    for p, q in zip(one.parameters(), many.parameters(), strict=True):
        p.grad = torch.sin(torch.arange(p.numel()).reshape(p.shape) + 1.0).bfloat16()
        q.grad = distribute_tensor(p.grad, q.device_mesh, q.placements)
    a.step()
    b.step()
    for p, q in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(whole(b.state[q]["exp_avg"]), a.state[p]["exp_avg"], rtol=1e-6, atol=0)
        assert torch.equal(whole(q), p)


def in_rounds() -> None:
    """Parts are uneven, and rounds are the same on all ranks: each has a reduction."""
    kept = dict(update.KEPT)
    update.KEPT["cpu"] = 12  # numbers; the first layer's weight has 35, in parts of 20 and 15
    try:
        one, many = model(), fully_shard(model())
        a, b = Lamb(groups(one), 0.02), Lamb(groups(many), 0.02)
        for step in range(2):
            for m in (one, many):
                backward(m, step)
            a.step()
            with CommDebugMode() as seen:
                b.step()
        assert seen.get_total_counts() == 1 + 3, f"{seen.get_total_counts()} reductions: gradients, and three rounds"
    finally:
        update.KEPT.update(kept)
    for p, q in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(whole(q), p.detach(), rtol=1e-11, atol=1e-13)


def flat_parameters_are_refused() -> None:
    """FSDP1, with its flat parameter and with the original ones, which are parts then; before anything is written."""
    for original in (False, True):
        for early in (False, True) if original else (False,):
            plain_model = model()
            given = list(plain_model.parameters())
            optimizer = Lamb(given) if early else None  # use_orig_params lets the optimizer be made first
            sharded = FullyShardedDataParallel(plain_model, use_orig_params=original, device_id=torch.device("cpu"))
            before = [p.detach().clone() for p in sharded.parameters()]
            with pytest.raises(ValueError, match=r"FSDP1.*fully_shard"):  # noqa: PT012 - at either of two places
                optimizer = optimizer or Lamb(sharded.parameters())
                backward(sharded, 0)
                optimizer.step()
            assert all(torch.equal(p, old) for p, old in zip(sharded.parameters(), before, strict=True))


def whole_tensors_each_on_one_rank() -> None:
    """torch's ZeroRedundancyOptimizer keeps tensors whole; without a clip nothing needs the others' gradients."""
    one, many = model(), model()
    a = Lamb(one.parameters(), 0.02)
    b = ZeroRedundancyOptimizer(many.parameters(), optimizer_class=Lamb, lr=0.02)
    for step in range(3):
        for m, optimizer in ((one, a), (many, b)):
            backward(m, step)
            optimizer.step()
    for p, q in zip(one.parameters(), many.parameters(), strict=True):
        assert torch.equal(p, q)


def main() -> None:
    dist.init_process_group("gloo")
    for name in OPTIMIZERS:
        same(name, init_device_mesh("cpu", (2,)))
    same("paper", init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard")))
    same("paper", init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard")))
    state_goes_round()
    not_finite_on_one_rank()
    narrow_weights()
    in_rounds()
    flat_parameters_are_refused()
    whole_tensors_each_on_one_rank()
    print(f"rank {dist.get_rank()}: equal", flush=True)
    dist.destroy_process_group()
    # DTensor's caches keep the groups and with them gloo's threads: one that drops a tensor while the interpreter ends
    # would abort a process in which everything was found equal (pytorch#179291).
    os._exit(0)


if __name__ == "__main__":
    main()
