"""What must hold of the optimizer's settings."""

from collections.abc import Iterator

from bert_lamb.settings.schema import OptimizerSettings


def optimizer_problems(o: OptimizerSettings) -> Iterator[str]:
    """Values that no optimizer takes, and those that this preset has no place for."""
    for name, value in (("beta1", o.beta1), ("beta2", o.beta2)):
        if value is not None and not 0 <= value < 1:
            yield f"optimizer.{name}={value}: must be from 0 to below 1, or null for the preset's own"
    for name, value in (("eps", o.eps), ("weight_decay", o.weight_decay)):
        if value is not None and not value >= 0:
            yield f"optimizer.{name}={value}: must not be negative; set null for the preset's own"
    if o.max_grad_norm is not None and not o.max_grad_norm > 0:
        yield f"optimizer.max_grad_norm={o.max_grad_norm}: must be above 0; set null for the preset's own, inf for none"
    for name, bounds in (("phi_bounds", o.phi_bounds), ("ratio_bounds", o.ratio_bounds)):
        if bounds is not None and not (len(bounds) == 2 and 0 <= bounds[0] <= bounds[1] and bounds[1] > 0):
            yield f"optimizer.{name}={bounds}: must be [lower, upper] with 0 <= lower <= upper, or null for none"
    if o.bias_correction == "learning_rate" and o.preset in ("nlamb", "nnlamb", "lans"):
        yield (
            f"optimizer.bias_correction=learning_rate does not work with optimizer.preset={o.preset}: choose moments "
            "or none"
        )
    for name in without_effect(o.preset):
        if getattr(o, name) is not None:
            yield f"optimizer.{name}={getattr(o, name)} has no effect with optimizer.preset={o.preset}: set it to null"


def without_effect(preset: str) -> tuple[str, ...]:
    """Settings of the optimizer that this preset's formula does not hold."""
    if preset == "lars":
        return ("beta2", "eps", "bias_correction", "grad_averaging")
    return ("norm", "phi_bounds", "ratio_bounds") if preset in ("adamw", "muon") else ()
