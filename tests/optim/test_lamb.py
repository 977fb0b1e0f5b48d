"""What Lamb does around its formulas: AdamW without the ratio, clip, what is not finite, types, state, refusals."""

import copy
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from importlib import metadata, resources
from typing import Any

import pytest
import torch
from oracles.optim_reference import awkward, gradient
from tools import ROOT, environment

from bert_lamb.optim import Lamb, Rule, update


def parameters(names: Iterable[str] | None = None, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    weights = awkward(wide=dtype == torch.float64)
    return {n: torch.nn.Parameter(torch.tensor(weights[n], dtype=dtype)) for n in names or weights}


def fill(ps: dict[str, Any], step: int) -> None:
    """Gradients of step 1, 2, ..."""
    for n, p in ps.items():
        made = gradient(n, p.shape, step, p.dtype == torch.float64)
        p.grad = torch.zeros_like(p) if made is None else torch.tensor(made, dtype=p.dtype)


def test_the_cases_are_as_awkward_as_named() -> None:
    """A zero tensor moves under its own update, an untouched row moves by decay alone, nothing at all stays put."""
    ps = parameters()
    optimizer = Lamb(list(ps.values()), lr=0.1, weight_decay=0.01)
    fill(ps, 1)
    still = ps["zero gradient"].detach().clone()
    optimizer.step()
    assert ps["zero norm"].abs().min() > 0
    assert not ps["all zero"].any()
    assert ps["zero gradient"].ne(still).all()
    assert all(torch.isfinite(p).all() for p in ps.values())
    assert optimizer.trust_ratios[ps["zero norm"]] == 1
    assert optimizer.trust_ratios[ps["minute"]] < 1e-90
    assert optimizer.trust_ratios[ps["huge"]] == pytest.approx(1 / 0.01), "the decay is all of its update"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_adaptation_it_is_adamw(dtype: torch.dtype) -> None:
    names = set(awkward(wide=False))
    ours, theirs = parameters(names, dtype), parameters(names, dtype)
    a = Lamb(list(ours.values()), lr=3e-3, weight_decay=0.1, adapt=False)
    b = torch.optim.AdamW(list(theirs.values()), lr=3e-3, eps=1e-6, weight_decay=0.1)
    for step in range(1, 21):
        fill(ours, step)
        fill(theirs, step)
        a.step()
        b.step()
    for n in names:
        tolerance = 1e-12 if dtype == torch.float64 else 2e-6
        torch.testing.assert_close(ours[n], theirs[n], rtol=tolerance, atol=tolerance * 1e-2)
        keys = b.state[theirs[n]].keys()
        assert a.state[ours[n]].keys() == keys == {"step", "exp_avg", "exp_avg_sq"}


def test_google_clips_the_global_norm() -> None:
    """Gradients of norm 50 over all groups move like the same gradients over 50; small ones are left alone."""

    def moved(scale: float, max_grad_norm: float | None) -> torch.Tensor:
        ps = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
        optimizer = Lamb([{"params": [p]} for p in ps], bias_correction="none", max_grad_norm=max_grad_norm, eps=1.0)
        for p, g in zip(ps, ([3.0, 0.0, 0.0], [0.0, 4.0, 0.0]), strict=True):
            p.grad = torch.tensor(g, dtype=torch.float64) * scale
        optimizer.step()
        assert optimizer.grad_norm is not None
        assert optimizer.grad_norm.item() == pytest.approx(5 * scale), "before clipping"
        return torch.cat([p.detach() for p in ps])

    torch.testing.assert_close(moved(10, 1.0), moved(0.2, None), rtol=1e-12, atol=0)
    torch.testing.assert_close(moved(0.1, 1.0), moved(0.1, None), rtol=0, atol=0)
    assert not torch.equal(moved(10, 1.0), moved(10, None))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("foreach", [True, False])
def test_a_gradient_that_is_not_finite_changes_nothing(
    bad: float, clip: float | None, first: bool, known: bool, foreach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the host knows the verdict, which on a GPU it does not."""
    if not known:
        monkeypatch.setattr(update, "known", lambda finite: False)
    ps = parameters(["matrix", "scalar", "rows never touched"], torch.float32)
    optimizer = Lamb(list(ps.values()), max_grad_norm=clip, foreach=foreach)
    if not first:
        fill(ps, 1)
        optimizer.step()
        assert optimizer.step_was_finite
    before = copy.deepcopy([(p.detach(), dict(optimizer.state[p])) for p in ps.values()])
    fill(ps, 2)
    ps["matrix"].grad[1, 2] = bad  # type: ignore[index]
    optimizer.step()
    assert not optimizer.step_was_finite
    assert not torch.isfinite(optimizer.grad_norm)  # type: ignore[arg-type]
    for p, (old, state) in zip(ps.values(), before, strict=True):
        assert torch.equal(p, old)
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, state.get(key, torch.zeros_like(value))), key
    fill(ps, 3)
    optimizer.step()
    assert optimizer.step_was_finite
    assert int(optimizer.steps_not_finite) == 1
    assert all(optimizer.state[p]["step"] == (1 if first else 2) for p in ps.values())


def test_types_of_state() -> None:
    """Moments in fp32 for narrower parameters, in the parameter's own type where wider; parameters keep theirs."""
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        p = torch.nn.Parameter(torch.ones(4, dtype=dtype))
        optimizer = Lamb([p])
        p.grad = torch.full_like(p, 0.5)
        optimizer.step()
        assert p.dtype == dtype
        assert {optimizer.state[p][k].dtype for k in ("exp_avg", "exp_avg_sq")} == {wide}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_state_dict_goes_round(dtype: torch.dtype) -> None:
    """A loaded optimizer goes on to the bit, moments of narrow parameters included; so does a copied one."""

    def made() -> tuple[torch.nn.Parameter, Lamb]:
        p = torch.nn.Parameter(torch.linspace(1, 2, 7).to(dtype))
        return p, Lamb([p], lr=0.1, max_grad_norm=0.5)

    def go(p: torch.nn.Parameter, optimizer: Lamb, steps: range) -> None:
        for i in steps:
            p.grad = torch.sin(torch.arange(7) * 1.3 + i).to(dtype)
            optimizer.step()

    p, optimizer = made()
    go(p, optimizer, range(3))
    q, loaded = made()
    q.data.copy_(p.data)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for key, value in optimizer.state[p].items():
        assert loaded.state[q][key].dtype == value.dtype
        assert torch.equal(loaded.state[q][key], value)
    r, copied = copy.deepcopy((p, optimizer))
    for parameter, o in ((p, optimizer), (q, loaded), (r, copied)):
        go(parameter, o, range(3, 6))
    assert torch.equal(p, q)
    assert torch.equal(p, r)


def test_parameters_without_gradient_stay() -> None:
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Lamb([a, b])
    optimizer.step()
    a.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(b, torch.ones(2))
    assert b not in optimizer.state or not optimizer.state[b]
    assert not torch.equal(a, torch.ones(2))


def test_closure_and_maximize() -> None:
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = Lamb([p], lr=0.1, weight_decay=0.0, maximize=True)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert p.item() > 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"max_grad_norm": 0.0}, "max_grad_norm"), ({"max_grad_norm": -1.0}, "max_grad_norm"), ({"lr": -1.0}, "lr"),
        ({"betas": (1.0, 0.999)}, "betas"), ({"betas": (0.9, -0.1)}, "betas"), ({"eps": -1e-9}, "eps"),
        ({"weight_decay": -0.1}, "weight_decay"), ({"max_grad_norm": float("nan")}, "max_grad_norm"),
        ({"lr": float("nan")}, "lr"), ({"betas": (float("nan"), 0.9)}, "betas"), ({"betas": (0.9,)}, "betas"),
        ({"preset": "papier"}, "paper, google"), ({"norm": 3}, "norm=3"), ({"variant": "lamp"}, "variant='lamp'"),
        ({"bias_correction": "some"}, "bias_correction='some'.*moments"), ({"adapt": "all"}, "adapt='all'"),
        ({"phi_bounds": (2.0, 1.0)}, "phi_bounds"), ({"ratio_bounds": (-1.0, 1.0)}, "ratio_bounds"),
        ({"phi_bounds": (0.0, 0.0)}, "phi_bounds"), ({"foreach": True, "fused": True}, "foreach=True.*fused=True"),
        ({"preset": "lans", "bias_correction": "learning_rate"}, "learning_rate.*lans"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Lamb([torch.nn.Parameter(torch.ones(2))], **arguments)


def test_sparse_and_complex_are_refused() -> None:
    sparse = torch.nn.Parameter(torch.ones(3, 2))
    sparse.grad = torch.eye(3)[:, :2].to_sparse()
    fine = torch.nn.Parameter(torch.ones(2))
    fine.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"head\.weight has a sparse gradient.*dense"):
        Lamb([("body.weight", fine), ("head.weight", sparse)]).step()
    assert torch.equal(fine, torch.ones(2)), "refused before anything is written"
    odd = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    odd.grad = torch.ones_like(odd)
    with pytest.raises(ValueError, match=r"of shape \(2,\) has a complex gradient"):
        Lamb([odd]).step()


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(TypeError, match="no setting 'weight_decai'"):
        Lamb([torch.nn.Parameter(torch.ones(2))], weight_decai=0.1)  # type: ignore[call-arg]


def test_groups_are_checked_too() -> None:
    optimizer = Lamb([torch.nn.Parameter(torch.ones(2))])
    for wrong, named in (
        ({"lr": -1.0}, "lr"),
        ({"eps": -1.0}, "eps"),
        ({"norm": 7}, "norm"),
        ({"foreach": True, "fused": True}, "foreach"),
    ):
        with pytest.raises(ValueError, match=named):
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], **wrong})
    assert len(optimizer.param_groups) == 1, "a group that was refused is not there"


def test_bias_correction_is_read_as_other_libraries_write_it() -> None:
    for theirs, ours in ((True, "moments"), (False, "none")):
        optimizer = Lamb([torch.nn.Parameter(torch.ones(2))], bias_correction=theirs)  # type: ignore[arg-type]
        assert Rule.of(optimizer.param_groups[0]).bias_correction == ours


def of_torch() -> set[str]:
    """torch and what it requires, as names of distributions."""
    found, waiting = set(), ["torch"]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another platform
        waiting += [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    return found


def test_types_are_there_for_others() -> None:
    assert resources.files("bert_lamb").joinpath("py.typed").is_file()


def test_optim_needs_torch_only() -> None:
    """The README's five lines train a model where nothing can be imported that torch does not bring."""
    readme = (ROOT / "README.md").read_text()
    (lines,) = re.findall(r"^    import torch; from bert_lamb\.optim.*\n(?:    .*\n)+", readme, re.MULTILINE)
    assert len(lines.splitlines()) == 5
    allowed = of_torch()
    owners_of = metadata.packages_distributions().items()
    named = {module: {owner.lower().replace("_", "-") for owner in owners} for module, owners in owners_of}
    blocked = {module for module, owners in named.items() if not allowed & owners and "bert-lamb" not in owners}
    assert {"numpy", "transformers", "hydra"} <= blocked
    program = f"""
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
class Finder:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked} else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Finder()]
{textwrap.dedent(lines)}
assert loss < 0.05, loss  # of a mean square of 4
print(*(m for m in sys.modules if m.startswith("bert_lamb.")))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(name.startswith("bert_lamb.optim") for name in done.stdout.split()), done.stdout
