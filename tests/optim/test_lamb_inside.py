"""Lamb inside what others wrote: training loops, loss scaling, compilation, and state from and to other optimizers."""

import copy
import importlib
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from bert_lamb.optim import Lamb, Lars, Readings, has_compiler, set_lr

LENGTH = 7


def made(**switches: Any) -> tuple[Parameter, Lamb]:
    p = Parameter(torch.linspace(1, 2, LENGTH))
    return p, Lamb([p], lr=0.1, **switches)


def fill(p: Parameter, step: int) -> None:
    p.grad = torch.sin(torch.arange(p.numel()) * 1.3 + step).reshape(p.shape).to(p.dtype)


def go(p: Parameter, optimizer: torch.optim.Optimizer, steps: range) -> Tensor:
    for step in steps:
        fill(p, step)
        optimizer.step()
    return p.detach().clone()


class Line(torch.nn.Module):
    """y = w x + b with its loss, as Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = torch.nn.Linear(3, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": ((self.line(x)[:, 0] - labels) ** 2).mean()}


def test_trainer_of_transformers_trains_and_resumes(tmp_path: Path) -> None:
    """Six steps at once, and three, a checkpoint and three more: the same weights; the loss falls."""
    pytest.importorskip("accelerate", reason="`make install` brings it")
    transformers = importlib.import_module("transformers")
    x = torch.sin(torch.arange(48.0)).reshape(16, 3)
    rows = [{"x": a, "labels": a.sum()} for a in x]

    def trainer(name: str, steps: int) -> Any:
        model = Line()
        optimizer = Lamb([{"params": [model.line.weight]}, {"params": [model.line.bias], "adapt": False}], lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 4))
        arguments = transformers.TrainingArguments(
            str(tmp_path / name), max_steps=steps, per_device_train_batch_size=4, save_steps=3, use_cpu=True,
            report_to=[], disable_tqdm=True, dataloader_pin_memory=False, logging_steps=1,
        )  # fmt: skip
        return transformers.Trainer(
            model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, schedule)
        )  # fmt: skip

    whole = trainer("whole", 6)
    whole.train()
    losses = [line["loss"] for line in whole.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    trainer("cut", 3).train()
    resumed = trainer("cut", 6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, dict(Line().named_parameters())["line.weight" if p.ndim == 2 else "line.bias"])


def test_closure_that_does_everything() -> None:
    """As Lightning calls it: the closure zeroes, runs forward and backward, and returns a loss that has a graph."""
    p, optimizer = made()
    calls = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        calls.append(torch.is_grad_enabled())
        return loss

    before = (p.detach() ** 2).sum()
    loss = optimizer.step(closure=closure)  # type: ignore[arg-type]
    assert calls == [True]
    assert torch.equal(torch.as_tensor(loss).detach(), before)
    assert (p**2).sum() < before


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("asked", ["capturable", "fused", "nothing"])
def test_grad_scaler(clip: float | None, asked: str) -> None:
    """Scaled gradients move as plain ones do; an overflow is skipped.

    Where fused or capturable was asked for, as in torch's optimizers, the step takes the scale and the verdict itself:
    gradients stay scaled, the overflow is counted, and no value goes to the host.
    """
    if asked == "fused" and not has_compiler():
        pytest.skip("no C++ compiler")
    unscales = asked != "nothing"
    p, plain = made(max_grad_norm=clip)
    q, scaled = made(max_grad_norm=clip, **({asked: True} if unscales else {}))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    scaler.scale(torch.ones(()))  # its scale is made at first use
    for step in range(5):
        fill(p, step)
        fill(q, step)
        assert q.grad is not None
        q.grad *= scaler.get_scale()
        given = q.grad.clone()
        if step == 3:
            q.grad[0] = float("inf")
            old = q.detach().clone()
        if step == 4:  # the caller unscales by itself, to clip or to look
            scaler.unscale_(scaled)
        scaler.step(scaled)
        scaler.update()
        if step == 3:
            assert torch.equal(q, old)
            assert int(scaled.steps_not_finite) == (1 if unscales else 0)
            continue
        if step < 3:
            assert torch.equal(q.grad, given if unscales else given / 1024)
        plain.step()
        torch.testing.assert_close(scaled.grad_norm, plain.grad_norm, rtol=1e-6, atol=0)
        torch.testing.assert_close(q, p, rtol=1e-6, atol=0)
    assert scaler.get_scale() == 512


class MixedPrecision:
    """What Lightning's plugin of this name does around an optimizer's step, with the clip of its Trainer.

    With a scaler (16-mixed) it unscales, unless the optimizer says that its step does; then it clips, and refuses to
    where the step would unscale afterwards, in bf16-mixed too.
    """

    def __init__(self, scaler: torch.amp.GradScaler | None, clip: float) -> None:
        self.scaler, self.clip = scaler, clip

    def optimizer_step(self, optimizer: torch.optim.Optimizer, closure: Any) -> None:
        handles_unscaling = getattr(optimizer, "_step_supports_amp_scaling", False)
        if self.scaler is not None:
            closure()
            if not handles_unscaling:
                self.scaler.unscale_(optimizer)
        if self.clip > 0 and handles_unscaling:
            raise RuntimeError(f"{type(optimizer).__name__} does not allow for gradient clipping")

        def after_closure() -> Any:
            loss = closure() if self.scaler is None else None
            if self.clip > 0:
                params = [p for group in optimizer.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(params, self.clip)
            return loss

        if self.scaler is None:
            optimizer.step(closure=after_closure)
            return
        after_closure()
        self.scaler.step(optimizer)
        self.scaler.update()


@pytest.mark.parametrize("kind", [Lamb, Lars])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_lightning_clips_in_mixed_precision(precision: str, kind: Any) -> None:
    """As a loop that clips plain gradients by hand."""
    p, q = (Parameter(torch.linspace(1, 2, LENGTH)) for _ in range(2))
    ours, theirs = kind([p], lr=0.1), kind([q], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0) if precision == "16-mixed" else None
    plugin = MixedPrecision(scaler, 0.5)
    for step in range(4):

        def closure() -> torch.Tensor:
            ours.zero_grad()
            loss = (p * torch.sin(torch.arange(LENGTH) * 1.3 + step)).sum()  # noqa: B023 - called at once
            (loss if scaler is None else scaler.scale(loss)).backward()
            return loss

        plugin.optimizer_step(ours, closure)
        fill(q, step)
        torch.nn.utils.clip_grad_norm_([q], 0.5)
        theirs.step()
        torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
    assert ours.grad_norm is not None
    assert ours.grad_norm <= 0.5001


def test_hooks_of_loading_run() -> None:
    """Pre-hooks may hand over another state, once; post-hooks see the moments as they stay."""
    p, saved = made(weight_decay=0.5)
    go(p, saved, range(2))
    q = Parameter(torch.ones(LENGTH, dtype=torch.bfloat16))
    loaded, seen = Lamb([q]), []

    def doubled(optimizer: Any, state: dict) -> dict:
        seen.append("before")
        moments = {i: {k: v * 2 for k, v in own.items()} for i, own in state["state"].items()}
        return state | {"state": moments}

    def look(optimizer: Any) -> None:
        seen.append(optimizer.state[q]["exp_avg"].dtype)
        seen.append(optimizer.param_groups[0]["weight_decay"])

    loaded.register_load_state_dict_pre_hook(doubled)
    loaded.register_load_state_dict_post_hook(look)
    loaded.load_state_dict(saved.state_dict())
    assert seen == ["before", torch.float32, 0.5]
    assert torch.equal(loaded.state[q]["exp_avg"], 2 * saved.state[p]["exp_avg"])
    assert loaded.state[q]["step"] == 4
    loaded.load_state_dict(saved.state_dict())
    assert seen.count("before") == 2, "the hooks are still there"


def test_a_tensor_rate_is_set_in_place() -> None:
    """A captured or compiled step reads the tensor that it was made with."""
    lr, p = torch.tensor(0.1), Parameter(torch.ones(2))
    optimizer = Lamb([{"params": [p], "lr": lr}, {"params": [Parameter(torch.ones(1))], "lr": 0.3}])
    set_lr(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is lr
    assert (lr.item(), optimizer.param_groups[1]["lr"]) == (0.25, 0.25)


@pytest.mark.parametrize("kind", [Lamb, Lars])
def test_the_first_step_that_is_not_finite_warns(kind: Any) -> None:
    """Once, with the parameters' names; a switch lets each of them raise, before anything is written."""
    for raises in (False, True):
        ps = [(f"layer{i}.weight", Parameter(torch.ones(3))) for i in range(5)]
        optimizer = kind(ps, error_if_nonfinite=raises)
        for repeat in range(3):
            for i, (_, p) in enumerate(ps):
                p.grad = torch.full((3,), float("nan") if i > 0 and repeat != 1 else 1.0)
            if repeat == 1:
                optimizer.step()
                before = [p.detach().clone() for _, p in ps]
                optimizer = copy.deepcopy(optimizer)
                ps = list(zip((n for n, _ in ps), optimizer.param_groups[0]["params"], strict=True))
                continue
            named = r"not finite \(parameter layer1\.weight, layer2\.weight, layer3\.weight and 1 more\)"
            if raises:
                with pytest.raises(RuntimeError, match=named + ".*Nothing was changed"):
                    optimizer.step()
            else:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    optimizer.step()
                assert [bool(re.search(named, str(w.message))) for w in told] == ([True] if repeat == 0 else [])
        assert all(torch.equal(p, old) for (_, p), old in zip(ps, before, strict=True))
        assert int(optimizer.steps_not_finite) == (0 if raises else 2)


def test_compiled_step_is_one_graph() -> None:
    """Nothing in a step breaks torch.compile's graph, the rate is read anew, and the result is the same."""

    def run(compiled: bool, **path: Any) -> Tensor:
        p, lr = Parameter(torch.linspace(1, 2, LENGTH)), torch.tensor(0.0)
        optimizer = Lamb([p], lr=lr, max_grad_norm=1.0, **path)
        step = torch.compile(optimizer.step, backend="eager", fullgraph=True) if compiled else optimizer.step
        for i in range(5):
            lr.fill_(0.01 * i)
            fill(p, i)
            if i == 3:
                p.grad[1] = float("nan")  # type: ignore[index]
            step()
        assert int(optimizer.steps_not_finite) == 1
        return p.detach().clone()

    assert torch.equal(run(True), run(False, foreach=False)), "the plain path is what gets compiled"
    torch.testing.assert_close(run(True), run(False), rtol=1e-6, atol=0)


@pytest.mark.parametrize("correction", ["moments", "learning_rate"])
def test_learning_rate_may_be_a_tensor(correction: str) -> None:
    """Read at every step, as a captured graph needs it; every state is a tensor on the parameter's device."""
    p, numbers = made(bias_correction=correction)
    q = Parameter(p.detach().clone())
    lr = torch.tensor(0.0)
    tensors = Lamb([q], lr=lr, bias_correction=correction, capturable=True)
    for step in range(4):
        numbers.param_groups[0]["lr"] = 0.05 * step
        lr.fill_(0.05 * step)
        go(p, numbers, range(step, step + 1))
        go(q, tensors, range(step, step + 1))
    torch.testing.assert_close(q, p, rtol=1e-6, atol=0)
    assert all(isinstance(value, Tensor) and value.device == q.device for value in tensors.state[q].values())


def test_state_of_adamw_loads_and_settings_stay() -> None:
    p = Parameter(torch.linspace(1, 2, LENGTH))
    theirs = torch.optim.AdamW([p], lr=0.5, eps=1e-3, weight_decay=0.3)
    go(p, theirs, range(3))
    q, ours = made(preset="google", weight_decay=0.02)
    settings = {k: v for k, v in ours.param_groups[0].items() if k != "params"}
    ours.load_state_dict(theirs.state_dict())
    assert {k: v for k, v in ours.param_groups[0].items() if k != "params"} == settings
    assert ours.state[q].keys() == {"step", "exp_avg", "exp_avg_sq"}
    for name, value in theirs.state[p].items():
        assert torch.equal(ours.state[q][name], value)
        assert ours.state[q][name] is not value
    go(q, ours, range(1))
    assert ours.state[q]["step"] == 4


def test_state_goes_to_adamw() -> None:
    p, ours = made()
    go(p, ours, range(3))
    q = Parameter(p.detach().clone())
    theirs = torch.optim.AdamW([q], lr=0.5)
    theirs.load_state_dict(ours.state_dict())
    r = Parameter(p.detach().clone())
    plain = torch.optim.AdamW([r], lr=0.1, eps=1e-6, weight_decay=0.01)  # as AdamW reads our groups
    plain.state[r] = {k: v.clone() for k, v in ours.state[p].items()}
    assert torch.equal(go(q, theirs, range(3, 5)), go(r, plain, range(3, 5)))


def test_own_settings_load_and_missing_ones_stay() -> None:
    """A resumed schedule finds its learning rate; a state written before a switch existed leaves it as it is here."""
    p, saved = made(weight_decay=0.5)
    go(p, saved, range(1))
    saved.param_groups[0]["lr"] = 0.7
    state = saved.state_dict()
    del state["param_groups"][0]["phi_bounds"]
    _, loaded = made(phi_bounds=(0.0, 3.0))
    loaded.load_state_dict(state)
    group = loaded.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["phi_bounds"]) == (0.7, 0.5, (0.0, 3.0))


@pytest.mark.parametrize("where", ["group", "state, a number"])
def test_steps_kept_elsewhere_load(where: str) -> None:
    """apex and timm keep the step in the group, DeepSpeed as a number in the state."""
    p, ours = made()
    moments = {"exp_avg": torch.full((LENGTH,), 0.1), "exp_avg_sq": torch.full((LENGTH,), 0.2)}
    in_group = where == "group"
    state = {
        "state": {0: moments if in_group else moments | {"step": 9}},
        "param_groups": [{"params": [0], "lr": 9.0} | ({"step": 9} if in_group else {})],
    }
    ours.load_state_dict(state)
    assert ours.state[p]["step"] == 9
    assert ours.state[p]["step"].dtype == torch.float32
    assert torch.equal(ours.state[p]["exp_avg"], moments["exp_avg"])
    assert ours.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(("own", "saved"), [(torch.float64, torch.float32), (torch.bfloat16, torch.float64)], ids=str)
def test_loaded_moments_take_the_type_that_they_have_here(own: torch.dtype, saved: torch.dtype) -> None:
    p, q = Parameter(torch.ones(LENGTH, dtype=saved)), Parameter(torch.ones(LENGTH, dtype=own))
    theirs, ours = torch.optim.AdamW([p]), Lamb([q])
    go(p, theirs, range(2))
    ours.load_state_dict(theirs.state_dict())
    assert ours.state[q]["exp_avg"].dtype == torch.promote_types(own, torch.float32)
    go(q, ours, range(1))
    assert ours.state[q]["step"] == 3


def test_foreign_moments_are_refused() -> None:
    _, ours = made()
    with pytest.raises(ValueError, match="no step, exp_avg, exp_avg_sq"):
        ours.load_state_dict(
            {"state": {0: {"momentum_buffer": torch.zeros(LENGTH)}}, "param_groups": [{"params": [0]}]}
        )
    with pytest.raises(ValueError, match="doesn't match the size"):
        ours.load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]})


def test_a_group_added_later_counts_its_own_steps() -> None:
    p, optimizer = made()
    go(p, optimizer, range(2))
    q = Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [q], "lr": 0.01, "adapt": False})
    fill(p, 2)
    fill(q, 2)
    optimizer.step()
    assert (optimizer.state[p]["step"], optimizer.state[q]["step"]) == (3, 1)
    assert optimizer.trust_ratios[q] == 1


@pytest.mark.parametrize("kind", [Lamb, Lars])
def test_copies_go_on_by_themselves(kind: type) -> None:
    p = Parameter(torch.linspace(1, 2, LENGTH))
    optimizer = kind([p], lr=0.1, max_grad_norm=0.5)
    go(p, optimizer, range(2))
    fill(p, 0)
    p.grad[0] = float("nan")  # type: ignore[index]
    optimizer.step()
    q, copied = copy.deepcopy((p, optimizer))
    assert copied.max_grad_norm == 0.5
    assert torch.equal(go(q, copied, range(2, 4)), go(p, optimizer, range(2, 4)))
    q.grad[0] = float("nan")
    copied.step()
    assert (int(copied.steps_not_finite), int(optimizer.steps_not_finite)) == (2, 1)


def test_nothing_to_do_is_no_error() -> None:
    p, optimizer = made()
    optimizer.add_param_group({"params": []})
    assert optimizer.readings == {}
    optimizer.step()
    assert optimizer.grad_norm == 0
    assert optimizer.step_was_finite
    assert optimizer.readings == {}
    fill(p, 0)
    optimizer.step()
    assert isinstance(optimizer.readings[p], Readings)


def test_bf16_parameters_take_fp32_steps() -> None:
    """Small steps that bf16 moments would lose are kept in fp32 moments; the weights are rounded once a step."""
    p = Parameter(torch.linspace(1, 2, LENGTH).bfloat16())
    q = Parameter(p.detach().float())
    narrow, wide = Lamb([p], lr=1e-2), Lamb([q], lr=1e-2)
    for step in range(3):
        fill(p, step)
        q.grad = p.grad.float()  # type: ignore[union-attr]
        with torch.no_grad():
            q.copy_(p.float())
        narrow.step()
        wide.step()
        assert torch.equal(p, q.detach().bfloat16())
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(narrow.state[p][name], wide.state[q][name])


def test_bf16_gradients_of_fp32_weights() -> None:
    """Their values count, not their type: state, norms and weights are fp32."""
    p, q = (Parameter(torch.linspace(1, 2, LENGTH)) for _ in range(2))
    p.grad_dtype = torch.bfloat16
    narrow, wide = (Lamb([parameter], lr=0.1, max_grad_norm=0.5) for parameter in (p, q))
    for step in range(3):
        fill(q, step)
        p.grad = q.grad.bfloat16()  # type: ignore[union-attr]
        q.grad = p.grad.float()
        narrow.step()
        wide.step()
    assert torch.equal(p, q)
    assert narrow.grad_norm is not None
    assert narrow.grad_norm.dtype == narrow.state[p]["exp_avg"].dtype == torch.float32
