"""Trajectories drawn at random, against the formulas in numpy (optim_reference.py), on every path of a CPU.

Drawn are the switches, groups, shapes, types and layouts of tensors, their gradients, and what a user does in between:
a state saved and loaded, a copy, a late group, a gradient that is missing or not finite.
"""

import copy
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from oracles.optim_reference import ALGORITHMS, clip_scale, switches, switches_of
from test_optim_conformance import EXPECTED, close
from torch.nn import Parameter

from bert_lamb.optim import Lamb, foreach, has_compiler, plain, rows, update

STEPS = 9
SEEDS = range(32)  # each preset in each type
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"fused": False, "foreach": False}, "foreach": {"foreach": True}, "masked": {"foreach": True},
    "small rounds": {"foreach": True}, "rows": {"fused": True}, "masked rows": {"fused": True},
}  # fmt: skip


@pytest.fixture(params=SETTINGS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """masked: the host does not know whether the step is finite, as on a GPU.

    small rounds: of 64 numbers, in blocks of 16 and rows of 8, so that most tensors are cut.

    rows: tensors of 32 numbers count as large, and nothing is compiled, since each trajectory has other formulas.
    """
    if "masked" in request.param:
        monkeypatch.setattr(update, "known", lambda finite: False)
    if "rows" in request.param:
        if not has_compiler():
            pytest.skip("no C++ compiler")
        monkeypatch.setattr(rows, "SMALL", 32)
        monkeypatch.setattr(rows, "through_compiler", lambda function, *kind: function)
    if request.param == "small rounds":
        monkeypatch.setitem(update.KEPT, "cpu", 64)
        monkeypatch.setattr(foreach, "BLOCK", 16)
        monkeypatch.setattr(foreach, "ROW", 8)
        monkeypatch.setattr(plain, "ROW", 8)
    return SETTINGS[request.param]


class Trajectory:
    """An optimizer, its parameters by name, and where the formulas say that they are."""

    def __init__(self, seed: int, settings: dict[str, Any]) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype, self.path = TYPES[seed % len(TYPES)], settings
        self.preset = sorted(EXPECTED)[seed // len(TYPES) % len(EXPECTED)]
        self.optimizer_wide = self.switches() | settings
        self.named = self.chance(0.5)
        self.lr_is_tensor = self.chance(0.3)
        self.ps: dict[str, Parameter] = {}
        self.own: dict[str, dict[str, Any]] = {}  # by name: what its group sets
        self.x: dict[str, np.ndarray] = {}
        self.ways: dict[str, np.ndarray] = {}  # how far each number has gone, there and back
        self.moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.steps: dict[str, int] = {}
        self.skipped = 0
        given = [self.group() for _ in range(self.rng.integers(1, 4))]
        self.optimizer = Lamb(given, lr=self.lr(0), preset=self.preset, **self.optimizer_wide)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def switches(self) -> dict[str, Any]:
        """Some of the settings, the rest as the preset has them."""
        lamb = EXPECTED[self.preset]["algorithm"] == "lamb"
        drawn = {
            "betas": (self.pick(0.0, 0.5, 0.9), self.pick(0.9, 0.999)),
            "eps": self.pick(1e-8, 1e-6, 1e-3),
            "weight_decay": self.pick(0.0, 0.01, 0.3),
            "bias_correction": self.pick("none", "moments", *(["learning_rate"] if lamb else [])),
            "grad_averaging": self.pick(True, False),
            "adapt": self.pick(True, False, "decayed"),
            "norm": self.pick(1, 2, float("inf")),
            "phi_bounds": self.pick(None, (0.1, 2.0), (0.0, 10.0)),
            "ratio_bounds": self.pick(None, (0.01, 10.0), (0.0, 1.0)),
            "maximize": self.pick(True, False),
            "max_grad_norm": self.pick(None, 0.3, 1.0, 1e9),
        }
        return {name: value for name, value in drawn.items() if self.chance(0.4)}

    def lr(self, step: int) -> float | torch.Tensor:
        value = 0.003 * (step % 4)
        return torch.tensor(value, dtype=torch.float64) if self.lr_is_tensor else value

    def group(self) -> dict[str, Any]:
        own = {k: v for k, v in self.switches().items() if k != "max_grad_norm" and self.chance(0.5)}
        names = [f"p{len(self.ps) + i}" for i in range(self.rng.integers(1 if self.named else 0, 4))]
        for name in names:
            self.ps[name] = p = self.parameter()
            self.own[name] = own
            self.x[name] = p.detach().double().numpy().copy()
            self.ways[name] = np.zeros_like(self.x[name])
            self.moments[name] = (np.zeros_like(self.x[name]),) * 2
            self.steps[name] = 0
        params = [(name, self.ps[name]) if self.named else self.ps[name] for name in names]
        return {"params": params, **own} | ({"lr": self.lr(0)} if self.lr_is_tensor else {})

    def parameter(self) -> Parameter:
        """Of 0 to 4 dimensions of 0 to 9, now and then larger; contiguous, or a view that is not."""
        shape = tuple(self.rng.choice([0, 1, 2, 3, 5, 8, 9], self.rng.integers(5), p=[0.04] + [0.16] * 6))
        if self.chance(0.2):
            shape = self.pick((64, 33), (1031,), (128, 2))
        t = torch.from_numpy(np.asarray(self.rng.normal(size=shape) * self.pick(0.0, 0.02, 1.0, 3.0))).to(self.dtype)
        layout = self.pick("contiguous", "transposed", "channels last", "every second", "columns")
        if layout == "transposed" and t.ndim > 1:
            t = t.transpose(0, -1)
        elif layout == "channels last" and t.ndim == 4:
            t = t.contiguous(memory_format=torch.channels_last)
        elif layout == "columns" and t.ndim > 1:  # of a wider matrix: no vector shares their memory
            t = torch.cat([t, t], dim=-1)[..., : t.shape[-1]]
        elif layout == "every second" and t.ndim:
            t = torch.stack([t, t], dim=-1)[..., 0]
        return Parameter(t)

    def gradients(self, bad: bool) -> dict[str, np.ndarray]:
        """Sets p.grad, of some only; returns the values as the optimizer sees them."""
        seen = {}
        for name, p in self.ps.items():
            p.grad = None
            if self.chance(0.15):
                continue
            g = np.asarray(self.rng.normal(size=tuple(p.shape)) * self.pick(0.0, 0.01, 0.3, 2.0))
            if bad and g.size:
                g[(-1,) * g.ndim] = self.pick(np.nan, np.inf)
            p.grad_dtype = torch.bfloat16 if self.dtype == torch.float32 and self.chance(0.2) else self.dtype
            grad = torch.from_numpy(g).to(p.grad_dtype)
            p.grad = grad if self.chance(0.5) else torch.empty_like(p, dtype=p.grad_dtype).copy_(grad)
            seen[name] = p.grad.double().numpy().copy()
        return seen

    def step(self, number: int, bad: bool) -> None:
        seen = self.gradients(bad)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(number)
        self.optimizer.step()
        for name, g in seen.items():
            grad = self.ps[name].grad
            assert grad is not None
            np.testing.assert_array_equal(grad.double().numpy(), g, "p.grad is not ours to change")
        if not all(np.isfinite(g).all() for g in seen.values()):
            self.skipped += 1
            return
        expected = EXPECTED[self.preset]
        scale = clip_scale(list(seen.values()), self.optimizer_wide.get("max_grad_norm", expected["clip"]))
        for name, g in seen.items():
            o = switches(**expected["about"] | switches_of(self.optimizer_wide) | switches_of(self.own[name]))
            o.adapt = o.adapt and (o.adapt != "decayed" or o.decay != 0)
            self.steps[name] += 1
            algorithm = ALGORITHMS[expected["algorithm"]]
            if not g.size:
                continue
            x, *moved = algorithm(
                self.x[name], g * scale, *self.moments[name], self.steps[name], float(self.lr(number)), o
            )
            self.ways[name] += np.abs(x - self.x[name])
            self.x[name], self.moments[name] = x, (moved[0], moved[1])

    def check(self, where: str) -> None:
        wide = self.dtype == torch.float64
        assert int(self.optimizer.steps_not_finite) == self.skipped, where
        for name, p in self.ps.items():
            state = self.optimizer.state.get(p, {})
            assert state.get("step", 0) == self.steps[name], f"{where}: {name}"
            assert state.keys() == ({"step", "exp_avg", "exp_avg_sq"} if state else set())
            ours = p.detach().double().numpy()
            if not ours.size:
                continue
            if self.dtype in (torch.float64, torch.float32):
                start, roundings = self.x[name] - self.ways[name], self.steps[name]
                close(ours, self.x[name], start, wide, f"{where}: {name}", max(1, roundings))
                continue
            # one step of a narrow type from the very weights: within one unit of its last place
            unit = torch.finfo(self.dtype).eps * np.maximum(np.abs(self.x[name]), torch.finfo(self.dtype).tiny)
            assert (np.abs(ours - self.x[name]) <= unit).all(), f"{where}: {name}"
            self.x[name] = ours.copy()

    def interrupt(self, what: str) -> None:
        """Goes on with another optimizer that should not differ."""
        if what == "copy":
            self.ps, self.optimizer = copy.deepcopy((self.ps, self.optimizer))
        elif what == "late group":
            self.optimizer.add_param_group(self.group())
        elif what == "state":
            file = io.BytesIO()
            torch.save(self.optimizer.state_dict(), file)
            file.seek(0)
            fresh = {name: Parameter(p.detach().clone()) for name, p in self.ps.items()}
            names = {id(p): name for name, p in self.ps.items()}
            groups: list[dict[str, Any]] = []
            for group in self.optimizer.param_groups:
                own = [names[id(p)] for p in group["params"]]
                params = [(name, fresh[name]) if self.named else fresh[name] for name in own]
                groups.append({"params": params} | self.path)
            self.ps, self.optimizer = fresh, Lamb(groups, lr=7.0, preset=self.preset, **self.optimizer_wide)
            saved = torch.load(file, weights_only=True)
            for state in saved["state"].values():  # as a file of another format would hold them, whatever the weights
                state.update({key: value.contiguous() for key, value in state.items()})
            self.optimizer.load_state_dict(saved)
            self.skipped = 0  # counted by the object


def interruptions(rng: np.random.Generator) -> Iterator[str]:
    while True:
        yield str(rng.choice(["", "copy", "late group", "state"]))


@pytest.mark.parametrize("norm", [1, 2, float("inf")])
def test_an_empty_tensor_disturbs_nothing(norm: float, path: dict[str, Any]) -> None:
    """As in AdamW it has a state, and the others move as they would without it."""
    alone, beside, empty = (Parameter(torch.ones(n)) for n in (5, 5, 0))
    for params in ([alone], [beside, empty]):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer = Lamb(params, lr=0.1, norm=norm, **path)
        optimizer.step()
    assert torch.equal(alone, beside)
    assert optimizer.state[empty]["step"] == 1
    assert optimizer.trust_ratios[empty] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_trajectory(seed: int, path: dict[str, Any]) -> None:
    run = Trajectory(seed, path)
    for number, between in zip(range(1, STEPS + 1), interruptions(run.rng), strict=False):
        run.step(number, bad=run.chance(0.15))
        run.check(f"step {number} of {run.preset}, {run.dtype}")
        run.interrupt(between)
