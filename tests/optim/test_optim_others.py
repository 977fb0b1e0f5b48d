"""Presets beside implementations that others wrote, float64, tensors that hurt; and two steps worked by hand for the
algorithms that have none here. docs/optimizers.md tells where each of the others departs."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles.optim_reference import awkward, gradient

from bert_lamb.optim import Lamb, Lars

STEPS = 20
UNDECAYED = {"scalar", "cube"}  # a group without weight decay; timm and apex do not adapt it


def timm_lamb() -> Any:
    """timm's Lamb without the rest of timm, which wants torchvision."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("timm is not installed; `make install` does it")
    root = spec.submodule_search_locations[0]
    before = {name: sys.modules.get(name) for name in ("timm", "timm.optim")}
    for name in before:
        package = types.ModuleType(name)
        package.__path__ = [root + name.removeprefix("timm").replace(".", "/")]
        sys.modules[name] = package
    try:
        return importlib.import_module("timm.optim.lamb").Lamb
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def torch_optimizer_lamb() -> Any:
    return pytest.importorskip("torch_optimizer").Lamb


def close_after_steps(ours: Callable[[list], Any], theirs: Callable[[list], Any], names: set[str]) -> None:
    """Runs both from the same weights over the same gradients; every element within 1e-11 of its size or movement."""
    weights = {n: a for n, a in awkward(wide=False).items() if n in names}
    sets = []
    for make in (ours, theirs):
        ps = {n: torch.nn.Parameter(torch.tensor(a)) for n, a in weights.items()}
        split = ([p for n, p in ps.items() if n not in UNDECAYED], [p for n, p in ps.items() if n in UNDECAYED])
        sets.append((ps, make([{"params": split[0]}, {"params": split[1], "weight_decay": 0.0}])))
    for step in range(1, STEPS + 1):
        for ps, optimizer in sets:
            for group in optimizer.param_groups:
                group["lr"] = 0.004 * step
            for n, p in ps.items():
                p.grad = torch.tensor(gradient(n, p.shape, step, wide=False))
            optimizer.step()
        for n, a in weights.items():
            x, y = (ps[n].detach() for ps, _ in sets)
            size = torch.maximum(y.abs(), (y - torch.tensor(a)).abs())
            assert ((x - y).abs() <= 1e-11 * size).all(), f"{n} after step {step}"


ALL = set(awkward(wide=False)) - {"every other step"}  # timm counts steps by group


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"preset": "paper"}, {"max_grad_norm": None, "always_adapt": True}),
        ({"preset": "google"}, {"bias_correction": False, "always_adapt": True}),
        ({"preset": "apex"}, {}),
        ({"preset": "nvlamb"}, {"always_adapt": True}),
        ({"preset": "apex", "grad_averaging": False}, {"grad_averaging": False}),
        ({"preset": "apex", "ratio_bounds": (0.0, 1.0)}, {"trust_clip": True}),
    ],
    ids=str,
)
def test_timm(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    their_lamb = timm_lamb()
    close_after_steps(lambda ps: Lamb(ps, **ours), lambda ps: their_lamb(ps, foreach=False, **theirs), ALL)


def test_state_of_timm_loads() -> None:
    """Five steps there and five here are ten of ours; its step is kept in the group."""
    their_lamb = timm_lamb()
    p, q = (torch.nn.Parameter(torch.tensor(awkward(wide=False)["matrix"])) for _ in range(2))
    alone, before = Lamb([p], 0.01, "apex"), their_lamb([q], lr=0.01, foreach=False)
    after = Lamb([q], 0.01, "apex")
    for step in range(1, 11):
        if step == 6:
            after.load_state_dict(before.state_dict())
        for parameter, optimizer in ((p, alone), (q, before if step < 6 else after)):
            parameter.grad = torch.tensor(gradient("matrix", p.shape, step, wide=False))
            optimizer.step()
    torch.testing.assert_close(p, q, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"preset": "google"}, {"clamp_value": 1e30}),
        ({"preset": "paper", "bias_correction": "learning_rate"}, {"clamp_value": 1e30, "debias": True}),
        ({"preset": "google", "phi_bounds": (0.0, 10.0)}, {}),  # its default, cybertronai's choice of phi
        ({"preset": "adamw"}, {"adam": True}),
    ],
    ids=str,
)
def test_torch_optimizer(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """It has no clip, so ours is without."""
    their_lamb = torch_optimizer_lamb()
    given = {"weight_decay": 0.01} | theirs
    close_after_steps(lambda ps: Lamb(ps, **{**ours, "max_grad_norm": None}), lambda ps: their_lamb(ps, **given), ALL)


def one_step_each(optimizer: Any, p: torch.nn.Parameter, *gradients: list[float]) -> list[list[float]]:
    seen = []
    for g in gradients:
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        seen.append(p.detach().tolist())
    return seen


def weights(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


# By hand: eps 0, no decay, betas (1/2, 3/4), lr 1, and the ratio off where it would only hide the update.


def test_nlamb_by_hand() -> None:
    """Step 1, g = 2: m = 1, v = 1; m' = .5 * 1 / (1 - 1/4) + .5 * 2 / (1 - 1/2) = 2/3 + 2 = 8/3; v' = 1 / (1/4) = 4;
    r = 8/3 / 2 = 4/3. Step 2, g = 4: m = 2.5, v = .75 + 4 = 4.75; m' = 1.25 / (7/8) + 2 / (3/4) = 10/7 + 8/3 = 86/21;
    v' = 4.75 / (7/16) = 76/7; r = (86/21) / sqrt(76/7)."""
    p = weights(10.0)
    optimizer = Lamb([p], 1.0, "nlamb", betas=(0.5, 0.75), eps=0.0, weight_decay=0.0, adapt=False)
    first, second = one_step_each(optimizer, p, [2.0], [4.0])
    assert first == pytest.approx([10 - 4 / 3], rel=1e-14)
    assert second == pytest.approx([10 - 4 / 3 - 86 / 21 / (76 / 7) ** 0.5], rel=1e-14)


def test_nnlamb_by_hand() -> None:
    """As above, but step 1: v' = .75 * 1 / (1 - 9/16) + .25 * 4 / (1/4) = 12/7 + 4 = 40/7; step 2:
    v' = .75 * 4.75 / (1 - 27/64) + .25 * 16 / (7/16) = 228/37 + 64/7 = 3964/259."""
    p = weights(10.0)
    optimizer = Lamb([p], 1.0, "nnlamb", betas=(0.5, 0.75), eps=0.0, weight_decay=0.0, adapt=False)
    first, second = one_step_each(optimizer, p, [2.0], [4.0])
    assert first == pytest.approx([10 - 8 / 3 / (40 / 7) ** 0.5], rel=1e-14)
    assert second == pytest.approx([first[0] - 86 / 21 / (3964 / 259) ** 0.5], rel=1e-14)


def test_lans_by_hand() -> None:
    """x = (3, 4), g = (6, 8), so g~ = (.6, .8). Step 1: m' = g~, v' = g~^2: r = c = (1, 1), of norm sqrt 2; |x| = 5:
    both parts move by 5 / sqrt 2. Step 2, lr 0.1, g = (0, 7), g~ = (0, 1): m = (.15, .2 + .5) = (.15, .7), / (3/4) =
    (.2, 14/15); v = .75 (.09, .16) + .25 (0, 1) = (.0675, .37), / (7/16) = v'; r = m' / sqrt v', c = g~ / sqrt v'."""
    p = weights(3.0, 4.0)
    optimizer = Lamb([p], 0.1, "lans", betas=(0.5, 0.75), eps=0.0, weight_decay=0.0)
    first, second = one_step_each(optimizer, p, [6.0, 8.0], [0.0, 7.0])
    move = 0.1 * 5 / 2**0.5
    assert first == pytest.approx([3 - move, 4 - move], rel=1e-14)
    x = first
    roots = [(0.0675 * 16 / 7) ** 0.5, (0.37 * 16 / 7) ** 0.5]
    r = [0.2 / roots[0], 14 / 15 / roots[1]]
    length, r_length = (x[0] ** 2 + x[1] ** 2) ** 0.5, (r[0] ** 2 + r[1] ** 2) ** 0.5
    along_r = [0.1 * 0.5 * length * a / r_length for a in r]
    along_c = [0.0, 0.1 * 0.5 * length]  # c has one element that is not 0, so c / |c| = (0, 1)
    assert second == pytest.approx([x[i] - along_r[i] - along_c[i] for i in range(2)], rel=1e-13)


def test_lars_by_hand() -> None:
    """x = (3, 4), g = (1, 0), decay 1/2, momentum 1/2, lr 1/10. Step 1: m = (1 + 1.5, 2) / 2 = (1.25, 1), |m|^2 =
    2.5625; x - .1 * 5 / |m| m. Step 2, g = (0, 0): m = m / 2 + x / 4."""
    p = weights(3.0, 4.0)
    optimizer = Lars([p], 0.1, momentum=0.5, weight_decay=0.5)
    first, second = one_step_each(optimizer, p, [1.0, 0.0], [0.0, 0.0])
    length = 2.5625**0.5
    x = [3 - 0.5 * 1.25 / length, 4 - 0.5 / length]
    assert first == pytest.approx(x, rel=1e-14)
    m = [0.625 + x[0] / 4, 0.5 + x[1] / 4]
    step = 0.1 * (x[0] ** 2 + x[1] ** 2) ** 0.5 / (m[0] ** 2 + m[1] ** 2) ** 0.5
    assert second == pytest.approx([x[0] - step * m[0], x[1] - step * m[1]], rel=1e-14)
