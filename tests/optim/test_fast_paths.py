"""The paths of foreach calls and compiled passes, where tensors are large: against the definition, and to the bit."""

import copy
import weakref
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from test_optim_conformance import close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bert_lamb.optim import Lamb, Lars, Rule, foreach, rows, update
from bert_lamb.optim.lamb import COMPILED, FOREACH, PLAIN, choose_path
from bert_lamb.optim.tensors import TensorGroup

SHAPES = [(300, 257), (70_001,), (80_000,), (2, 40_000), (5, 7), (35,), (35,), (), (3, 1)]  # the second is a prime
SHAPES += [(257, 300)] * 2 * (rows.TOGETHER + 1)  # of each group some go together, one alone
needs_compiler = pytest.mark.skipif(not rows.has_compiler(), reason="no C++ compiler")
PATHS: dict[str, dict[str, Any]] = {
    "plain": {"fused": False, "foreach": False}, "foreach": {"foreach": True}, "rows": {"fused": True},
}  # fmt: skip
EACH_PATH = ["plain", "foreach", pytest.param("rows", marks=needs_compiler)]
FASTER = EACH_PATH[1:]


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
@pytest.mark.parametrize("path", FASTER)
def test_large_tensors_move_as_the_definition_says(path: str, dtype: torch.dtype, settings: dict) -> None:
    ps, ours = made(dtype, **settings, **PATHS[path])
    qs, theirs = made(dtype, **settings, **PATHS["plain"])
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
                sums = name == "exp_avg"  # of numbers of either sign, near 0.01: rounding is of these
                torch.testing.assert_close(ours.state[p][name], value, rtol=1e-6, atol=1e-9 if sums else 1e-12)
    for p, q in zip(ps, qs, strict=True):
        for mine, other in zip(ours.readings[p], theirs.readings[q], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("path", EACH_PATH)
@pytest.mark.parametrize("norm", [1, 2])
def test_a_step_repeats_to_the_bit(norm: float, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of threads, and in blocks of any size: a row is the work of one."""
    found = []
    threads = torch.get_num_threads()
    try:
        for count, block in ((1, foreach.BLOCK), (1, foreach.BLOCK), (2, foreach.BLOCK), (1, 1 << 14)):
            torch.set_num_threads(count)
            monkeypatch.setattr(foreach, "BLOCK", block)
            ps, optimizer = made(torch.float32, **PATHS[path], norm=norm, max_grad_norm=0.1)
            go(ps, optimizer, range(3))
            found.append(ps)
    finally:
        torch.set_num_threads(threads)
    for ps in found[1:]:
        assert all(torch.equal(p, first) for p, first in zip(ps, found[0], strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("path", EACH_PATH)
@pytest.mark.parametrize("known", [True, False])
def test_a_gradient_that_is_not_finite_changes_nothing(
    bad: float, path: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the host knows that it is not, as on a GPU; also where eps is 0 and a gradient never was else."""
    if not known:
        monkeypatch.setattr(update, "known", lambda finite: False)
    ps, optimizer = made(torch.float32, max_grad_norm=1.0, eps=0.0 if path == "foreach" else 1e-6, **PATHS[path])
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


@pytest.mark.parametrize("path", EACH_PATH)
@pytest.mark.parametrize("norm", [1, 2, float("inf")])
@pytest.mark.parametrize("layout", ["matrix", "transposed", "prime"])
def test_norms_of_millions_keep_their_digits(layout: str, norm: float, path: str) -> None:
    """Against float64; torch's own are off by 1e-4 and more."""
    draw = torch.Generator().manual_seed(5)
    x, g = (torch.randn(4_000_037 if layout == "prime" else (4000, 1000), generator=draw) for _ in range(2))
    u = g.double() / (g.double().abs() + 1e-6)
    sizes = [torch.linalg.vector_norm(t.double().flatten(), norm).item() for t in (x, u)]
    p = torch.nn.Parameter(x.T if layout == "transposed" else x)
    p.grad = g.T if layout == "transposed" else g
    optimizer = Lamb([p], 0.01, norm=norm, weight_decay=0.0, **PATHS[path])
    optimizer.step()
    reading = optimizer.readings[p]
    for found, size in zip((reading.weight_norms, reading.update_norms), sizes, strict=True):
        assert found.item() == pytest.approx(size, rel=2e-5)
    assert optimizer.grad_norm.item() == pytest.approx(torch.linalg.vector_norm(g.double()).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "compiler", "expected"),
    [
        ({}, True, COMPILED), ({}, False, FOREACH), ({"fused": True}, True, COMPILED),
        ({"foreach": False, "fused": True}, True, COMPILED), ({"foreach": False}, True, PLAIN),
        ({"fused": False}, True, FOREACH), ({"foreach": True}, True, FOREACH),
        ({"fused": False, "foreach": False}, True, PLAIN),
    ],
)  # fmt: skip
def test_which_path_is_taken(
    settings: dict, compiler: bool, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(rows, "has_compiler", lambda: compiler)
    large, small = (torch.nn.Parameter(torch.empty(n)) for n in (rows.WORTH_COMPILING, 10))

    def path(*ps: torch.nn.Parameter) -> Any:
        (group,) = Lamb(ps, **settings).param_groups
        return choose_path(TensorGroup(group, Rule(), None, list(ps), list(ps)))

    assert path(large) is expected
    assert path(small) is (expected if settings else FOREACH), "a small group is not worth compiling"


def test_fused_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "has_compiler", lambda: False)
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"fused=True on cpu.*compiler"):
        Lamb([p], fused=True).step()


def test_calls_do_not_grow_with_the_tensors() -> None:
    """One call goes over a list; only norms and what is by tensor on a CPU are taken one by one."""

    def calls(count: int) -> Counter[str]:
        ps = [torch.nn.Parameter(torch.ones(3, 5)) for _ in range(count)]
        optimizer = Lamb(ps, foreach=True, max_grad_norm=1.0)
        for p in ps:
            p.grad = torch.ones_like(p)
        optimizer.step()
        with Counted() as counted:
            optimizer.step()
        return counted.calls

    few, many = calls(5), calls(50)
    arithmetic = {name for name in many if "foreach" in name}
    assert len(arithmetic) >= 6
    assert all(few[name] == many[name] for name in arithmetic)
    by_tensor = {name: (many[name] - few[name]) / 45 for name in many if many[name] != few[name]}
    assert by_tensor.pop("aten.linalg_vector_norm.default") == 3, "gradient, weights, update"
    assert sum(by_tensor.values()) < 45, f"views and stacks of scalars: {by_tensor}"


class Counted(TorchDispatchMode):
    """Counts calls, and the most bytes of tensors made under it that are alive at once; refuses float64 if told to."""

    def __init__(self, float64: bool = True) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.float64, self.alive, self.most = float64, 0, 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func)] += 1
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for t in tree_leaves(made):
            if isinstance(t, torch.Tensor):
                if not self.float64 and t.dtype == torch.float64:
                    raise TypeError(f"{func}: this device has no float64")
                if t.untyped_storage()._cdata not in given | self._storages:
                    self._count(t.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        self._storages.add(key)
        self.alive += storage.nbytes()
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.alive -= size


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{}, {"bias_correction": "learning_rate"}, {"preset": "nnlamb"}, {"preset": "lans"}, {"max_grad_norm": 1.0}],
    ids=str,
)
@pytest.mark.parametrize("path", ["plain", "foreach", "lars"])
def test_nothing_is_made_in_float64(path: str, settings: dict, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has none."""
    if path == "lars" and set(settings) - {"max_grad_norm"}:
        pytest.skip("no switch of Lars")
    if not known:
        monkeypatch.setattr(update, "known", lambda finite: False)
    ps = [torch.nn.Parameter(torch.ones(3, 5)), torch.nn.Parameter(torch.ones(4))]
    optimizer = Lars(ps, **settings) if path == "lars" else Lamb(ps, **settings, **PATHS[path])
    for p in ps:
        p.grad = torch.full_like(p, 0.3)
    with Counted(float64=False):
        optimizer.step()
        optimizer.step()
    assert optimizer.state[ps[0]]["step"] == 2


@pytest.mark.parametrize("path", ["plain", "foreach", "lars"])
def test_scratch_does_not_grow_with_the_model(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates wait for their norms a round at a time; what a path needs beside is of a few tensors."""
    monkeypatch.setitem(update.KEPT, "cpu", 1 << 14)

    def most(tensors: int) -> int:
        ps = [torch.nn.Parameter(torch.ones(64, 64)) for _ in range(tensors)]
        optimizer = Lars(ps) if path == "lars" else Lamb(ps, **PATHS[path])
        for p in ps:
            p.grad = torch.ones_like(p)
        optimizer.step()
        with Counted() as counted:
            optimizer.step()
        return counted.most

    few, many = most(8), most(64)
    assert few > 4 * (1 << 14), "a round's updates are counted"
    assert many < few + 64 * 400, "scalars of each tensor, and nothing of its size"


def test_a_loaded_state_does_not_choose_the_path() -> None:
    """Saved where there was a compiler, loaded where there is none."""
    p = torch.nn.Parameter(torch.ones(2))
    saved = Lamb([p], lr=0.5, fused=True).state_dict()
    optimizer = Lamb([p], fused=False)
    optimizer.load_state_dict(saved)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["foreach"], group["fused"]) == (0.5, None, False)
