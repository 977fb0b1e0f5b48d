"""What `optimizer.preset` may name in a run, and what each keeps of a tensor."""

from collections.abc import Sequence
from typing import Any

from bert_lamb.optim.lamb import Lamb
from bert_lamb.optim.lars import LARS, Lars
from bert_lamb.optim.layerwise import Layerwise
from bert_lamb.optim.muon import BUFFER, MUON, MuonAdamW, is_hidden_matrix
from bert_lamb.optim.rule import PRESETS

RunOptimizer = Layerwise | MuonAdamW
OFFERED = PRESETS | {"lars": LARS, "muon": MUON}


def kept_of(preset: str, name: str, shape: Sequence[int]) -> tuple[str, ...]:
    """Names of a parameter's state in a preset's optimizer: "step" is a number, others have its shape."""
    if preset == "muon" and is_hidden_matrix(name, shape):
        return (BUFFER,)
    return (*(Lars if preset == "lars" else Lamb).MOMENTS, "step")


def preset_values(name: str) -> tuple[dict[str, Any], str]:
    """The values of a preset under the names of the settings that replace them, and the preset's source.

    None is no clip and no bounds. Empty where no preset has this name, as in a record of another version.
    """
    preset = OFFERED.get(name)
    if preset is None:
        return {}, "the preset's"
    rule = preset.rule
    beta1, beta2 = rule.betas
    names = ("eps", "weight_decay", "bias_correction", "grad_averaging", "norm", "phi_bounds", "ratio_bounds")
    values = {"beta1": beta1, "beta2": beta2, **{name: getattr(rule, name) for name in names}}
    return values | {"max_grad_norm": preset.max_grad_norm}, preset.source
