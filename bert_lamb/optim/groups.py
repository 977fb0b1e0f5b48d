"""Which parameters decay and which adapt: two independent choices, by kind or by name."""

from collections.abc import Iterable
from typing import Any

from torch import nn

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
         nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)  # fmt: skip
KINDS = ("bias", "norm")


def decay_groups(
    model: nn.Module, weight_decay: float, adapt: bool = True,
    no_decay: Iterable[str] = KINDS, no_adapt: Iterable[str] = KINDS,
) -> list[dict[str, Any]]:  # fmt: skip
    """Parameter groups for Lamb, in the order of the model's parameters; frozen ones left out, tied ones once.

    Each group has `params` and, as torch's optimizers read it, `param_names`, so that errors name the parameter.

    no_decay, no_adapt: what is left out of weight decay, and of the trust ratio (the defaults are the authors' code's).
    Each entry is "norm" (every parameter of a normalisation module, by the module's type), "bias" (parameters called
    `bias` or `..._bias`, of any module), or else a part of a parameter's name. A tied parameter goes by all its names.
    ValueError: a part of a name that matches no trainable parameter, since it would silently do nothing.
    """
    kinds = _kinds(model)
    names: dict[nn.Parameter, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if p.requires_grad:
            names.setdefault(p, []).append(name)
    if not names:
        raise ValueError("the model has no trainable parameter")

    def left_out(setting: str, entries: Iterable[str]) -> set[nn.Parameter]:
        found: set[nn.Parameter] = set()
        for entry in entries:
            if entry in KINDS:
                found |= kinds[entry]
                continue
            matching = {p for p, own in names.items() if any(entry in name for name in own)}
            if not entry or not matching:
                example = next(iter(names.values()))[0]
                raise ValueError(f"{setting} part {entry!r} matches no parameter; names look like {example!r}")
            found |= matching
        return found

    plain, unadapted = left_out("no_decay", no_decay), left_out("no_adapt", no_adapt)
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for p in names:
        decays, adapts = p not in plain, adapt and p not in unadapted
        group = groups.setdefault(
            (decays, adapts),
            {"params": [], "param_names": [], "weight_decay": weight_decay if decays else 0.0, "adapt": adapts},
        )
        group["params"].append(p)
        group["param_names"].append(names[p][0])
    return list(groups.values())


def _kinds(model: nn.Module) -> dict[str, set[nn.Parameter]]:
    """The parameters of each of KINDS. Norms not derived from torch's (Llama's RMSNorm) go by their class's name."""
    kinds: dict[str, set[nn.Parameter]] = {kind: set() for kind in KINDS}
    for module in model.modules():
        own = list(module.named_parameters(recurse=False))
        kinds["bias"] |= {p for name, p in own if name == "bias" or name.endswith("_bias")}
        if isinstance(module, NORMS) or type(module).__name__.endswith("Norm"):
            kinds["norm"] |= {p for _, p in own}
    return kinds
