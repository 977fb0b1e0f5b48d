"""What a parameter group's update is made of: switches that combine freely, and presets of them with their source."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

VARIANTS = ("lamb", "nlamb", "nnlamb", "lans")
BIAS_CORRECTIONS = ("none", "moments", "learning_rate")
NORMS = (1, 2, float("inf"))


@dataclass(frozen=True)
class Rule:
    """The switches of one parameter group. The defaults are Algorithm 2 of arXiv 1904.00962v5.

    betas: decay of the first and second moment, per step.
    eps: added to the root of the second moment.
    weight_decay: times the weights, added to the update before the trust ratio.
    bias_correction: "moments": m / (1 - beta1^t) and v / (1 - beta2^t); "learning_rate": the moments stay as they are
        and the learning rate is multiplied by sqrt(1 - beta2^t) / (1 - beta1^t); "none".
    grad_averaging: m takes (1 - beta1) g; off: g.
    adapt: multiply the update by the trust ratio: True, False, or "decayed": where weight_decay is not 0 (apex).
    norm: 1, 2 or inf; of weights and update in the trust ratio.
    phi_bounds: phi(z) = min(max(z, lower), upper) of the weights' norm; None: phi(z) = z.
    ratio_bounds: the trust ratio is kept in [lower, upper]; None: as it is.
    variant: "lamb"; "nlamb" and "nnlamb" (Nesterov's look-ahead in m, and in m and v); "lans" (arXiv 2006.13484).
    maximize: ascend.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01
    bias_correction: str = "moments"
    grad_averaging: bool = True
    adapt: bool | str = True
    norm: float = 2
    phi_bounds: tuple[float, float] | None = None
    ratio_bounds: tuple[float, float] | None = None
    variant: str = "lamb"
    maximize: bool = False

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> "Rule":
        """The rule of an optimizer's parameter group. Raises ValueError for a value that makes no sense."""
        values = {name: group[name] for name in SWITCHES if name in group}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if isinstance(values.get("bias_correction"), bool):  # as other libraries write it
            values["bias_correction"] = "moments" if values["bias_correction"] else "none"
        return cls(**values)

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas) or len(self.betas) != 2:  # NaN included
            raise ValueError(f"betas={self.betas}: two values from 0 to below 1 are expected")
        for name in ("eps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        for name, allowed in (
            ("bias_correction", BIAS_CORRECTIONS), ("variant", VARIANTS), ("norm", NORMS),
            ("adapt", (True, False, "decayed")),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(map(str, allowed))}")
        for name in ("phi_bounds", "ratio_bounds"):
            bounds = getattr(self, name)
            if bounds is not None and not (len(bounds) == 2 and 0 <= bounds[0] <= bounds[1] and bounds[1] > 0):
                raise ValueError(f"{name}={bounds}: (lower, upper) with 0 <= lower <= upper is expected, or None")
        if self.bias_correction == "learning_rate" and self.variant != "lamb":
            raise ValueError(
                f"bias_correction='learning_rate' with variant={self.variant!r}: its two parts are corrected "
                "differently, so no one factor does; choose 'moments' or 'none'"
            )

    @property
    def adapts(self) -> bool:
        """Whether the update is multiplied by the trust ratio."""
        return bool(self.weight_decay != 0 if self.adapt == "decayed" else self.adapt)


SWITCHES = tuple(f.name for f in fields(Rule))


@dataclass(frozen=True)
class Preset:
    """A rule, the clip of the global gradient norm that goes with it, and where both come from."""

    rule: Rule
    max_grad_norm: float | None
    source: str


PRESETS = {
    "paper": Preset(Rule(), None, "Algorithm 2 of arXiv 1904.00962v5; eps and weight decay of the authors' code"),
    "google": Preset(Rule(bias_correction="none"), 1.0, "google-research/albert, lamb_optimizer.py"),
    "apex": Preset(Rule(adapt="decayed"), 1.0, "NVIDIA/apex, FusedLAMB"),
    "nvlamb": Preset(Rule(), 1.0, "NVIDIA/apex, FusedLAMB with use_nvlamb"),
    "nlamb": Preset(Rule(variant="nlamb"), None, "N-LAMB, appendix of arXiv 1904.00962; no known implementation"),
    "nnlamb": Preset(Rule(variant="nnlamb"), None, "NN-LAMB, appendix of arXiv 1904.00962; no known implementation"),
    "lans": Preset(Rule(variant="lans"), None, "arXiv 2006.13484"),
    "adamw": Preset(
        Rule(bias_correction="none", adapt=False), 1.0, "google-research/bert, optimization.py: the paper's baseline"
    ),
}
