"""Every preset and switch, on every path, against the formulas in numpy (optim_reference.py)."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from oracles.optim_reference import ALGORITHMS, awkward, clip_scale, gradient, switches, switches_of

from bert_lamb.optim import PRESETS, Lamb, Lars, has_compiler

STEPS = 24
PATHS: dict[str, dict[str, Any]] = {
    "plain": {"fused": False, "foreach": False}, "foreach": {"foreach": True}, "rows": {"fused": True},
}  # fmt: skip
EACH_PATH = [
    pytest.param(name, marks=pytest.mark.skipif(name == "rows" and not has_compiler(), reason="no C++ compiler"))
    for name in PATHS
]
NEITHER = {"zero gradient", "scalar", "minute"}  # not decayed, not adapted
DECAYED_ONLY = {"one element", "tiny gradient"}
ADAPTED_ONLY = {"cube"}
CASES: dict[str, dict[str, Any]] = {  # name: preset and what differs from it
    **{preset: {"preset": preset} for preset in PRESETS},
    "clip that rarely binds": {"preset": "paper", "max_grad_norm": 8.0},
    "correction in the learning rate": {"preset": "paper", "bias_correction": "learning_rate"},
    "no averaging": {"preset": "apex", "grad_averaging": False, "eps": 1e-3},
    "L1": {"preset": "paper", "norm": 1},
    "Linf": {"preset": "google", "norm": float("inf")},
    "clipped phi": {"preset": "paper", "phi_bounds": (0.5, 2.0)},
    "clipped ratio": {"preset": "paper", "ratio_bounds": (0.01, 0.3), "betas": (0.8, 0.9), "weight_decay": 0.3},
    "maximize": {"preset": "paper", "maximize": True},
    "lans, L1, no correction, ascending": {
        "preset": "lans", "norm": 1, "bias_correction": "none", "maximize": True, "phi_bounds": (0.0, 10.0),
    },
    "nnlamb, no correction, clipped": {
        "preset": "nnlamb", "bias_correction": "none", "max_grad_norm": 0.5, "ratio_bounds": (0.1, 1.0),
        "grad_averaging": False,
    },
}  # fmt: skip


def groups(ps: dict[str, torch.nn.Parameter]) -> list[dict[str, Any]]:
    """Decay and adaptation in all four combinations; an empty group."""
    kinds = [
        {"params": [p for n, p in ps.items() if n not in NEITHER | DECAYED_ONLY | ADAPTED_ONLY]},
        {"params": [p for n, p in ps.items() if n in NEITHER], "weight_decay": 0.0, "adapt": False},
        {"params": [p for n, p in ps.items() if n in DECAYED_ONLY], "adapt": False},
        {"params": [p for n, p in ps.items() if n in ADAPTED_ONLY], "weight_decay": 0.0},
        {"params": []},
    ]
    return kinds


def conforms(
    optimizer: Any, ps: dict[str, torch.nn.Parameter], algorithm: str, clip: float | None, about: dict
) -> None:
    """Runs the optimizer beside the reference; `about`: the reference's switches. Raises where they part."""
    wide = next(iter(ps.values())).dtype == torch.float64
    start = {n: p.detach().double().numpy().copy() for n, p in ps.items()}
    x = {n: a.copy() for n, a in start.items()}
    m, v = ({n: np.zeros_like(a) for n, a in start.items()} for _ in range(2))
    ways = {n: np.zeros_like(a) for n, a in start.items()}
    done = dict.fromkeys(ps, 0)
    for step in range(1, STEPS + 1):
        lr = 0.004 * step
        for group in optimizer.param_groups:
            group["lr"] = lr
        g = {}
        for n, p in ps.items():
            made = gradient(n, p.shape, step, wide)
            p.grad = None if made is None else torch.tensor(made, dtype=p.dtype)
            if p.grad is not None:
                g[n] = p.grad.double().numpy().copy()
        optimizer.step()
        scale = clip_scale(list(g.values()), clip)
        for n, own in g.items():
            done[n] += 1
            o = switches(**about)
            if n in NEITHER | ADAPTED_ONLY:
                o.decay = 0.0
            o.adapt = o.adapt and n not in NEITHER | DECAYED_ONLY and (o.adapt != "decayed" or o.decay != 0)
            before = x[n]
            x[n], m[n], v[n] = ALGORITHMS[algorithm](x[n], own * scale, m[n], v[n], done[n], lr, o)
            ways[n] = ways[n] + np.abs(x[n] - before)
            grad = ps[n].grad
            assert grad is not None
            np.testing.assert_array_equal(grad.double().numpy(), own, f"{n}: p.grad is not ours to change")
            assert optimizer.state[ps[n]]["step"] == done[n]
        for n, p in ps.items():
            since = x[n] - ways[n] if wide else start[n]  # rounding is of the whole way, there and back
            close(p.detach().double().numpy(), x[n], since, wide, f"{n} after step {step}")


def close(
    ours: np.ndarray, theirs: np.ndarray, start: np.ndarray, wide: bool, where: str, ulps: int = 1
) -> None:  # fmt: skip
    """float64: within 1e-12 of the larger of weight and movement, element by element. float32: within 1e-5, and the
    difference's norm within 1e-3 of the movement's, or every element within some ulps of its weight."""
    assert np.isfinite(ours).all(), where
    difference = np.abs(ours - theirs)
    movement = np.abs(theirs - start)
    if wide:
        assert (difference <= 1e-12 * np.maximum(np.abs(theirs), movement)).all(), f"{where}: {difference.max()}"
        return
    assert (difference <= 1e-5).all(), f"{where}: {difference.max()}"
    ulp = np.spacing(np.abs(theirs).astype(np.float32))
    near = np.linalg.norm(difference) <= 1e-3 * np.linalg.norm(movement)
    assert near or (difference <= ulps * ulp).all(), f"{where}: {np.linalg.norm(difference) / np.linalg.norm(movement)}"


def parameters(dtype: torch.dtype) -> dict[str, torch.nn.Parameter]:
    weights = awkward(dtype == torch.float64)
    return {n: torch.nn.Parameter(torch.tensor(a, dtype=dtype)) for n, a in weights.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", EACH_PATH)
def test_lamb(path: str, case: str, dtype: torch.dtype) -> None:
    ps = parameters(dtype)
    changes = dict(CASES[case])
    preset = EXPECTED[changes.pop("preset")]
    about = preset["about"] | switches_of(changes)
    optimizer = Lamb(groups(ps), **CASES[case], **PATHS[path])
    conforms(optimizer, ps, preset["algorithm"], changes.get("max_grad_norm", preset["clip"]), about)


EXPECTED: dict[str, dict[str, Any]] = {  # preset: the algorithm, clip and switches that its source has
    "paper": {"algorithm": "lamb", "clip": None, "about": {}},
    "google": {"algorithm": "lamb", "clip": 1.0, "about": {"correction": "none"}},
    "apex": {"algorithm": "lamb", "clip": 1.0, "about": {"adapt": "decayed"}},
    "nvlamb": {"algorithm": "lamb", "clip": 1.0, "about": {}},
    "nlamb": {"algorithm": "nlamb", "clip": None, "about": {}},
    "nnlamb": {"algorithm": "nnlamb", "clip": None, "about": {}},
    "lans": {"algorithm": "lans", "clip": None, "about": {}},
    "adamw": {"algorithm": "lamb", "clip": 1.0, "about": {"correction": "none", "adapt": False}},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("settings", "about", "clip"),
    [
        ({}, {}, None),
        (
            {"momentum": 0.8, "weight_decay": 0.2, "norm": 1, "max_grad_norm": 1.0, "maximize": True},
            {"b1": 0.8, "decay": 0.2, "norm": 1, "maximize": True}, 1.0,
        ),
        ({"phi_bounds": (0.1, 1.0), "ratio_bounds": (0.0, 5.0)}, {"phi": (0.1, 1.0), "bounds": (0.0, 5.0)}, None),
    ],
)  # fmt: skip
def test_lars(settings: dict[str, Any], about: dict[str, Any], clip: float | None, dtype: torch.dtype) -> None:
    ps = parameters(dtype)
    conforms(Lars(groups(ps), **settings), ps, "lars", clip, about)


DRAWN = list(itertools.product(
    ("lamb", "nlamb", "nnlamb", "lans"), ("none", "moments"), (True, False), (True, False, "decayed"),
    (1, 2, float("inf")), (None, (0.1, 3.0)), (None, (0.05, 2.0)), (None, 0.7), (True, False),
))  # fmt: skip


@pytest.mark.parametrize("path", EACH_PATH)
def test_switches_combine_freely(path: str) -> None:
    """A dozen of the combinations, drawn."""
    for index in np.random.default_rng(11).choice(len(DRAWN), 12, replace=False):
        variant, correction, averaging, adapt, norm, phi, bounds, clip, maximize = DRAWN[index]
        ps = parameters(torch.float64)
        optimizer = Lamb(
            groups(ps), variant=variant, bias_correction=correction, grad_averaging=averaging, adapt=adapt, norm=norm,
            phi_bounds=phi, ratio_bounds=bounds, max_grad_norm=clip, maximize=maximize, **PATHS[path],
        )  # fmt: skip
        about = dict(correction=correction, averaging=averaging, adapt=adapt, norm=norm, phi=phi, bounds=bounds,
                     maximize=maximize)  # fmt: skip
        conforms(optimizer, ps, variant, clip, about)


@pytest.mark.parametrize("path", EACH_PATH)
def test_readings(path: str) -> None:
    """Trust ratio, weight norm and update norm of the last step, by parameter in their order."""
    ps = parameters(torch.float64)
    optimizer = Lamb(groups(ps), lr=0.01, **PATHS[path])
    for n, p in ps.items():
        p.grad = torch.full_like(p, 0.1) if n != "every other step" else None
    before = {n: p.detach().clone() for n, p in ps.items()}
    optimizer.step()
    order = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    assert list(optimizer.readings) == order == list(optimizer.trust_ratios)
    x = before["matrix"]
    u = 0.1 / (0.1 + 1e-6) + 0.01 * x  # at step 1 the corrected moments are g and g^2
    reading = optimizer.readings[ps["matrix"]]
    assert reading.weight_norms.item() == pytest.approx(x.norm().item(), rel=1e-12)
    assert reading.update_norms.item() == pytest.approx(u.norm().item(), rel=1e-9)
    assert reading.trust_ratios.item() == pytest.approx((x.norm() / u.norm()).item(), rel=1e-9)
    assert optimizer.trust_ratios[ps["scalar"]] == 1
    assert optimizer.readings[ps["scalar"]].weight_norms.item() == pytest.approx(1.7), "also where not adapted"
