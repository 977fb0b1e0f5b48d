"""Each file of conf/optimizer makes the optimizer that it names; settings override its preset, or are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tools import composed

from bert_lamb.optim import OFFERED, Lamb, Lars, MuonAdamW, Rule, preset_values
from bert_lamb.settings import SettingsError, as_dict, conf_dir, recipe_rows, without_effect
from bert_lamb.training.assembly import make_optimizer

FILES = {path.stem for path in (Path(conf_dir()) / "optimizer").glob("[!_]*.yaml")}
PRESET_OF = {
    "lamb": "paper", "lamb_google": "google", "lamb_apex": "apex", "lamb_nvlamb": "nvlamb", "nlamb": "nlamb",
    "nnlamb": "nnlamb", "lans": "lans", "adamw": "adamw", "lars": "lars", "muon": "muon",
}  # fmt: skip


class Body(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(2, 3)
        self.LayerNorm = torch.nn.LayerNorm(3)
        self.encoder = torch.nn.ModuleDict({"layer": torch.nn.ModuleDict({"0": torch.nn.Linear(3, 3)})})


def made(*overrides: str) -> tuple[Body, Any]:
    body = Body()
    return body, make_optimizer(body, composed(*overrides).optimizer, compiled=False)


def test_every_preset_has_its_file() -> None:
    assert PRESET_OF.keys() == FILES
    assert set(PRESET_OF.values()) == {*OFFERED}


@pytest.mark.parametrize("file", sorted(PRESET_OF))
def test_a_file_makes_what_it_names(file: str) -> None:
    body, optimizer = made(f"optimizer={file}")
    preset = OFFERED[PRESET_OF[file]]
    assert isinstance(optimizer, {"lars": Lars, "muon": MuonAdamW}.get(file, Lamb))
    assert optimizer.max_grad_norm == preset.max_grad_norm
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    kernel, bias, norm = (of[id(p)] for p in (body.dense.weight, body.dense.bias, body.LayerNorm.weight))
    assert (kernel["weight_decay"], bias["weight_decay"], norm["weight_decay"]) == (preset.rule.weight_decay, 0, 0)
    if file == "muon":
        matrix = of[id(body.encoder["layer"]["0"].weight)]
        assert (matrix["momentum"], matrix["weight_decay"]) == (preset.rule.betas[0], preset.rule.weight_decay)
        assert Rule.of(kernel).betas == (0.9, preset.rule.betas[1])
        return
    assert Rule.of(kernel).adapts == (file != "adamw")
    assert Rule.of(norm).adapts == (file == "lamb_nvlamb")
    if file == "lars":
        assert kernel["momentum"] == preset.rule.betas[0]
        return
    for switch in ("betas", "eps", "bias_correction", "grad_averaging", "norm", "phi_bounds", "variant"):
        assert kernel[switch] == getattr(preset.rule, switch)


def test_settings_override_the_preset() -> None:
    _, optimizer = made(
        "optimizer=lamb_google", "optimizer.beta2=0.99", "optimizer.eps=1e-3", "optimizer.bias_correction=moments",
        "optimizer.max_grad_norm=inf", "optimizer.norm=inf", "optimizer.phi_bounds=[0,10]",
        "optimizer.weight_decay=0.1", "optimizer.ratio_bounds=[0.01,10]", "optimizer.grad_averaging=false",
    )  # fmt: skip
    assert Rule.of(optimizer.param_groups[0]) == Rule(
        betas=(0.9, 0.99), eps=1e-3, weight_decay=0.1, bias_correction="moments", grad_averaging=False,
        norm=float("inf"), phi_bounds=(0, 10), ratio_bounds=(0.01, 10),
    )  # fmt: skip
    p = optimizer.param_groups[0]["params"][0]
    p.grad = torch.full_like(p, 7.0)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], p.grad, msg="inf is no clip; without averaging m is g")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["optimizer.preset=lamp"], "optimizer.preset=lamp: choose one of paper, google"),
        (["optimizer.bias_correction=some"], "optimizer.bias_correction=some: choose one of null, none, moments"),
        (["optimizer.norm=3"], "optimizer.norm=3.0: choose one of null, 1, 2, inf"),
        (["optimizer.phi_bounds=[2,1]"], r"optimizer.phi_bounds=\[2.0, 1.0\]: must be \[lower, upper\]"),
        (["optimizer.ratio_bounds=[1]"], r"optimizer.ratio_bounds=\[1.0\]: must be \[lower, upper\]"),
        (
            ["optimizer=lans", "optimizer.bias_correction=learning_rate"],
            "learning_rate does not work with optimizer.preset=lans",
        ),
        (["optimizer=lars", "optimizer.eps=1e-6"], "optimizer.eps=1e-06 has no effect with optimizer.preset=lars"),
        (["optimizer=muon", "optimizer.norm=1"], "optimizer.norm=1.0 has no effect with optimizer.preset=muon"),
        (["optimizer=adamw", "optimizer.norm=1"], "optimizer.norm=1.0 has no effect with optimizer.preset=adamw"),
        (["optimizer.max_grad_norm=0"], "optimizer.max_grad_norm=0.0: must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: list[str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        composed(*overrides)


def table(*overrides: str) -> dict[str, tuple[str, str]]:
    s = composed(*overrides)
    rows = recipe_rows(as_dict(s), preset_values(s.optimizer.preset), without_effect(s.optimizer.preset))
    return {key: (value, source) for key, value, source in rows}


def test_the_table_shows_the_presets_values_and_their_source() -> None:
    google, lars = table("optimizer=lamb_google"), table("optimizer=lars", "optimizer.beta1=0.8")
    shown = {name: google[f"optimizer.{name}"][0] for name in ("beta2", "bias_correction", "max_grad_norm")}
    assert shown == {"beta2": "0.999", "bias_correction": "none", "max_grad_norm": "1.0"}
    assert google["optimizer.phi_bounds"] == ("none", OFFERED["google"].source)
    assert (lars["optimizer.beta1"][0], lars["optimizer.eps"][0]) == ("0.8", "not used")


def test_the_table_has_a_value_for_every_preset() -> None:
    for file in FILES:
        assert not [key for key, (value, _) in table(f"optimizer={file}").items() if value in ("None", "the preset's")]


def test_what_a_recipe_leaves_out_is_credited_to_nobody() -> None:
    rows = table("experiment=bert_large_table1", "phase1.global_batch=512")
    assert rows["model.init_from"] == ("none", "-")
    assert rows["phase2.peak_lr"][0] == "phase 1's schedule continues"
    assert rows["phase1.peak_lr"][0] == "0.005 at a batch of 32768", "the rule gives another one for this batch"
    assert table()["phase1.peak_lr"][0] == "0.01"
