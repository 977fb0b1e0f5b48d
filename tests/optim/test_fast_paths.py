"""The compiled passes over rows, where tensors are large: against the definition, and to the bit."""

import copy
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from test_optim_conformance import close

from bert_lamb.optim import Lamb, plain, rows
from bert_lamb.optim.lamb import choose_path
from bert_lamb.optim.layerwise import Batch

SHAPES = [(300, 257), (70_001,), (80_000,), (2, 40_000), (5, 7), (35,), (35,), (), (3, 1)]  # the second is a prime
SHAPES += [(257, 300)] * 2 * (rows.TOGETHER + 1)  # of each group some go together, one alone
needs_compiler = pytest.mark.skipif(not rows.has_compiler(), reason="no C++ compiler")


def made(dtype: torch.dtype, **settings: Any) -> tuple[list[torch.nn.Parameter], Lamb]:
    draw = torch.Generator().manual_seed(3)
    ps = [torch.nn.Parameter(torch.randn(shape, generator=draw, dtype=dtype) * 0.1) for shape in SHAPES]
    ps.append(torch.nn.Parameter(torch.randn(300, 250, generator=draw, dtype=dtype).T))  # not contiguous
    return ps, Lamb([{"params": ps[::2]}, {"params": ps[1::2], "weight_decay": 0.0}], lr=0.01, **settings)


def go(ps: list[torch.nn.Parameter], optimizer: Lamb, steps: range, bad: float | None = None) -> None:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for p in ps:
            p.grad = torch.randn(p.shape, generator=draw, dtype=p.dtype) * 0.01
            if bad is not None and p.shape == SHAPES[3]:
                p.grad[1, 39_999] = bad
        optimizer.step()


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.float32, {"preset": "paper", "max_grad_norm": 1.0}),
        (torch.float64, {"preset": "lans", "norm": 1, "maximize": True}),
    ],
    ids=str,
)
@needs_compiler
def test_large_tensors_move_as_the_definition_says(dtype: torch.dtype, settings: dict) -> None:
    ps, ours = made(dtype, **settings, fused=True)
    qs, theirs = made(dtype, **settings, fused=False)
    ways = [0.0 for _ in qs]  # that each number went, there and back: what rounding is measured by
    for step in range(4):
        before = [q.detach().double().numpy().copy() for q in qs]
        go(ps, ours, range(step, step + 1))
        go(qs, theirs, range(step, step + 1))
        for i, (p, q) in enumerate(zip(ps, qs, strict=True)):
            mine, theirs_now = (t.detach().double().numpy() for t in (p, q))
            ways[i] += np.abs(theirs_now - before[i])
            close(mine, theirs_now, theirs_now - ways[i], dtype == torch.float64, str(p.shape))
            for name, value in theirs.state[q].items():
                torch.testing.assert_close(ours.state[p][name], value, rtol=1e-6, atol=1e-12)
    for p, q in zip(ps, qs, strict=True):
        for mine, other in zip(ours.readings[p], theirs.readings[q], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.parametrize("norm", [1, 2])
def test_a_step_repeats_to_the_bit(norm: float, fused: bool) -> None:
    """For any number of threads: a row is the work of one."""
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 1, 2):
            torch.set_num_threads(count)
            ps, optimizer = made(torch.float32, fused=fused, norm=norm, max_grad_norm=0.1)
            go(ps, optimizer, range(3))
            found.append(ps)
    finally:
        torch.set_num_threads(threads)
    for ps in found[1:]:
        assert all(torch.equal(p, first) for p, first in zip(ps, found[0], strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@needs_compiler
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    ps, optimizer = made(torch.float32, max_grad_norm=1.0, fused=True)
    go(ps, optimizer, range(2))
    before = copy.deepcopy([(p.detach(), dict(optimizer.state[p])) for p in ps])
    go(ps, optimizer, range(2, 3), bad)
    assert not optimizer.step_was_finite
    for p, (old, state) in zip(ps, before, strict=True):
        assert torch.equal(p, old)
        assert all(torch.equal(value, state[name]) for name, value in optimizer.state[p].items())
    go(ps, optimizer, range(3, 4))
    assert not any(torch.equal(p, old) for p, (old, _) in zip(ps, before, strict=True))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """What torch.compile is given, from nothing compiled on."""
    found: list[torch.fx.GraphModule] = []

    def counted(graph: torch.fx.GraphModule, inputs: list) -> Any:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted))
    rows.through_compiler.cache_clear()
    yield found
    rows.through_compiler.cache_clear()


def step(shape: tuple[int, ...], count: int = 1, **settings: Any) -> None:
    ps = [torch.nn.Parameter(torch.ones(shape)) for _ in range(count)]
    for p in ps:
        p.grad = torch.ones(shape)
    Lamb(ps, fused=True, **settings).step()


@needs_compiler
def test_one_compilation_serves_every_size(graphs: list) -> None:
    for decay in (0.01, 0.02):
        for shape in ((300, 257), (512, 768), (2, 40_000), (100_000,), (17, 4096)):
            step(shape, weight_decay=decay)
    assert len(graphs) == 2, "one of each pass"
    for shape in ((300, 257), (512, 768), (17, 4096)):
        step(shape, 2 * rows.TOGETHER + 1)
    assert len(graphs) == 4, "one more of each, for tensors of one size together"


@needs_compiler
def test_every_kind_is_compiled(graphs: list) -> None:
    """More kinds than torch compiles of one piece of code."""
    kinds = list(product(("paper", "nlamb", "nnlamb", "lans"), (1, 2, float("inf"))))
    for preset, norm in kinds:
        step((300, 257), preset=preset, norm=norm)
    assert len(kinds) > torch._dynamo.config.recompile_limit
    assert len(graphs) == 2 * len(kinds)


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.parametrize("norm", [1, 2, float("inf")])
@pytest.mark.parametrize("layout", ["matrix", "transposed", "prime"])
def test_norms_of_millions_keep_their_digits(layout: str, norm: float, fused: bool) -> None:
    """Against float64; torch's own are off by 1e-4 and more."""
    draw = torch.Generator().manual_seed(5)
    x, g = (torch.randn(4_000_037 if layout == "prime" else (4000, 1000), generator=draw) for _ in range(2))
    u = g.double() / (g.double().abs() + 1e-6)
    sizes = [torch.linalg.vector_norm(t.double().flatten(), norm).item() for t in (x, u)]
    p = torch.nn.Parameter(x.T if layout == "transposed" else x)
    p.grad = g.T if layout == "transposed" else g
    optimizer = Lamb([p], 0.01, norm=norm, weight_decay=0.0, fused=fused)
    optimizer.step()
    reading = optimizer.readings[p]
    for found, size in zip((reading.weight_norms, reading.update_norms), sizes, strict=True):
        assert found.item() == pytest.approx(size, rel=2e-5)
    assert optimizer.grad_norm.item() == pytest.approx(torch.linalg.vector_norm(g.double()).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "compiler", "expected"),
    [
        ({}, True, rows.update), ({}, False, plain.update), ({"fused": True}, True, rows.update),
        ({"foreach": False, "fused": True}, True, rows.update), ({"foreach": False}, True, plain.update),
        ({"fused": False}, True, plain.update),
    ],
)  # fmt: skip
def test_which_path_is_taken(
    settings: dict, compiler: bool, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(rows, "has_compiler", lambda: compiler)
    large, small = (torch.nn.Parameter(torch.empty(n)) for n in (rows.WORTH_COMPILING, 10))

    def path(*ps: torch.nn.Parameter) -> Any:
        return choose_path(Batch(Lamb(ps, **settings).param_groups[0], list(ps), [], [], []))

    assert path(large) is expected
    assert path(small) is (expected if settings else plain.update), "a small group is not worth compiling"
    many = [torch.nn.Parameter(torch.empty(n)) for n in (10, 20, 10, 3, 10, 20, 10, rows.SMALL - 1)]
    assert path(*many) is (expected if settings else rows.update), "stacks of small tensors need no compiler"
    assert path(*many[1:]) is (expected if settings else plain.update)


def test_fused_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "has_compiler", lambda: False)
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"fused=True on cpu.*compiler"):
        Lamb([p], fused=True).step()


def test_a_loaded_state_does_not_choose_the_path() -> None:
    """Saved where there was a compiler, loaded where there is none."""
    p = torch.nn.Parameter(torch.ones(2))
    saved = Lamb([p], lr=0.5, fused=True).state_dict()
    optimizer = Lamb([p], fused=False)
    optimizer.load_state_dict(saved)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["foreach"], group["fused"]) == (0.5, None, False)
