"""The Triton kernels: by Triton's interpreter on a CPU (`make test-triton`), or on a GPU as they are."""

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import test_optim_conformance as kit
import torch
from tools import environment

from bert_lamb.optim import PRESETS, Lamb, update
from bert_lamb.optim.lamb import PLAIN
from bert_lamb.optim.tensors import TensorGroup
from bert_lamb.optim.update import UpdatePath

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if not importlib.util.find_spec("triton") or not (INTERPRETED or torch.cuda.is_available()):
    reason = "Triton comes with torch's CUDA builds; `make test-triton` runs its interpreter"
    pytest.skip(reason, allow_module_level=True)
SHAPES = [(33, 31), (5, 7), (), (1031,), (64, 16), (0,), (3, 1)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks to a tensor, several blocks to a chunk."""
    from bert_lamb.optim import fused

    monkeypatch.setattr(fused, "CHUNK", 256)
    monkeypatch.setattr(fused, "BLOCK", 128)


@pytest.mark.skipif(not INTERPRETED, reason="the kit's tensors are on the CPU")
@pytest.mark.parametrize("case", [*sorted(kit.CASES)])
def test_the_kit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, since the interpreter is slow; a zero gradient and one of every other step are among them."""
    monkeypatch.setitem(kit.PATHS, "triton", {"fused": True})
    monkeypatch.setattr(kit, "STEPS", 4)
    for dtype in (torch.float64, torch.float32):
        kit.test_lamb("triton", case, dtype)


def made(dtype: torch.dtype, **settings: Any) -> tuple[list[torch.nn.Parameter], Lamb]:
    draw = torch.Generator().manual_seed(3)
    ps = [torch.nn.Parameter((torch.randn(s, generator=draw) * 0.1).to(DEVICE, dtype)) for s in SHAPES]
    ps.append(torch.nn.Parameter(torch.randn(9, 8, generator=draw).to(DEVICE, dtype).T))  # not contiguous
    return ps, Lamb(ps, lr=0.01, **settings)


def go(ps: list[torch.nn.Parameter], optimizer: Lamb, steps: range, bad: float | None = None) -> None:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for p in ps:
            g = torch.randn(p.shape, generator=draw) * 0.01
            if bad is not None and p.shape == SHAPES[0]:
                g[32, 30] = bad
            p.grad = g.to(DEVICE, p.dtype)
        optimizer.step()


@pytest.mark.parametrize("preset", ["paper", "lans"])
def test_it_moves_as_the_definition_says(preset: str) -> None:
    ps, ours = made(torch.float32, preset=preset, max_grad_norm=1.0, fused=True)
    qs, theirs = made(torch.float32, preset=preset, max_grad_norm=1.0, foreach=False)
    start = [p.detach().cpu().double().numpy().copy() for p in ps]
    go(ps, ours, range(4))
    go(qs, theirs, range(4))
    for p, q, before in zip(ps, qs, start, strict=True):
        kit.close(p.detach().cpu().double().numpy(), q.detach().cpu().double().numpy(), before, False, str(p.shape))
        for mine, other in zip(ours.readings[p], theirs.readings[q], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("param", [torch.float32, torch.bfloat16], ids=str)
def test_bf16_gradients(param: torch.dtype) -> None:
    """For fp32 weights to their tolerance; bf16 weights to one step of bf16, since the interpreter cuts off."""
    from bert_lamb.optim import fused

    draw = torch.Generator().manual_seed(5)
    x, g = (torch.randn(700, generator=draw).to(DEVICE) for _ in range(2))
    found = []
    for path in (UpdatePath(fused.first_pass, fused.second_pass), PLAIN):
        p, m, v, t = x.to(param, copy=True), torch.zeros_like(x), torch.zeros_like(x), torch.zeros((), device=DEVICE)
        state = {"step": t, "exp_avg": m, "exp_avg_sq": v}
        batch = TensorGroup(
            {"lr": 0.01}, PRESETS["paper"].rule, None, [p], [p], [g.bfloat16()], [state], g.norm()[None]
        )
        update.update([(batch, path)], None, torch.ones((), device=DEVICE, dtype=torch.bool))
        found.append((p, m, v, t))
    (p, *state), (q, *others) = found
    torch.testing.assert_close(p, q, rtol=1e-6 if param == torch.float32 else 2**-7, atol=0)
    assert not torch.equal(p, x.to(param))
    for mine, other in zip(state, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)


def test_a_step_repeats_to_the_bit() -> None:
    found = []
    for _ in range(2):
        ps, optimizer = made(torch.float32, fused=True)
        go(ps, optimizer, range(3))
        found.append(ps)
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    ps, optimizer = made(torch.float32, fused=True, max_grad_norm=1.0)
    go(ps, optimizer, range(2))
    before = [(p.detach().clone(), {k: v.clone() for k, v in optimizer.state[p].items()}) for p in ps]
    go(ps, optimizer, range(2, 3), bad)
    assert not optimizer.step_was_finite
    for p, (old, state) in zip(ps, before, strict=True):
        assert torch.equal(p, old)
        assert all(torch.equal(value, state[name]) for name, value in optimizer.state[p].items())


@pytest.mark.skipif(INTERPRETED, reason="needs CUDA")
def test_a_captured_step_goes_on_as_an_uncaptured_one() -> None:
    """Steps outside the graph first; the learning rate is a tensor that changes between replays."""
    found = []
    for captured in (False, True):
        ps, optimizer = made(torch.float32, fused=True, max_grad_norm=1.0, capturable=True)
        lr = torch.tensor(0.01, device=DEVICE)
        for group in optimizer.param_groups:
            group["lr"] = lr
        go(ps, optimizer, range(2))
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                optimizer.step()
        for step in range(3):
            lr.fill_(0.01 * (step + 1))
            graph.replay() if captured else optimizer.step()
        found.append([p.detach().clone() for p in ps])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton.language as tl
from bert_lamb.optim import Rule, fused
pointers = dict(addresses="*i64", owners="*i64", starts="*i64", sizes="*i64", count="i32", numbers="*fp32",
                applied="*i32", partials="*fp32", moves="*fp32")
for rule in (Rule(), Rule(variant="lans", norm=1), Rule(variant="nnlamb", norm=float("inf"), maximize=True)):
    for kernel in (fused.first_kernel, fused.second_kernel):
        fixed = dict(PARAM=tl.float32, GRAD=tl.bfloat16, WIDE=tl.float32, CHUNK=fused.CHUNK, BLOCK=fused.BLOCK)
        fixed |= fused.constants(rule)
        names = kernel.arg_names
        made = ASTSource(kernel, {n: pointers.get(n, "constexpr") for n in names},
                         {(names.index(n),): value for n, value in fixed.items()})
        for capability in (80, 90):
            ptx = triton.compile(made, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
            assert "atom" not in ptx and "red.global" not in ptx, "sums in no fixed order"
print("compiled")
"""


def test_the_kernels_compile_for_gpus_without_atomics() -> None:
    """To machine code, which needs no GPU."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment() | {"TRITON_INTERPRET": "0"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "compiled", done.stderr
