"""What a preset's name stands for, value by value: for the tables of a plan and of a report."""

from typing import Any

from bert_lamb.optim.lars import LARS
from bert_lamb.optim.rule import PRESETS


def preset_values(name: str) -> tuple[dict[str, Any], str]:
    """The values of a preset under the names of the settings that replace them, and the preset's source.

    None is no clip and no bounds. Empty where no preset has this name, as in a record of another version.
    """
    preset = LARS if name == "lars" else PRESETS.get(name)
    if preset is None:
        return {}, "the preset's"
    rule = preset.rule
    beta1, beta2 = rule.betas
    names = ("eps", "weight_decay", "bias_correction", "grad_averaging", "norm", "phi_bounds", "ratio_bounds")
    values = {"beta1": beta1, "beta2": beta2, **{name: getattr(rule, name) for name in names}}
    return values | {"max_grad_norm": preset.max_grad_norm}, preset.source
