"""Which parameters decay and which adapt: two independent choices by name."""

from collections.abc import Iterable
from typing import Any

from torch.nn import Parameter


def decay_groups(
    named_parameters: Iterable[tuple[str, Parameter]], weight_decay: float, adapt: bool = True,
    no_decay: Iterable[str] = ("bias", "LayerNorm"), no_adapt: Iterable[str] = ("bias", "LayerNorm"),
) -> list[dict[str, Any]]:  # fmt: skip
    """Parameter groups for Lamb, in the order of the parameters.

    no_decay, no_adapt: parts of names; a tensor whose name holds one is left out of decay, or of the trust ratio. A
    part that matches no parameter is an error: it would silently do nothing. The defaults are the authors' code's.
    """
    named = [(name, p) for name, p in named_parameters if p.requires_grad]
    for setting, parts in (("no_decay", no_decay), ("no_adapt", no_adapt)):
        for part in parts:
            if not any(part in name for name, _ in named):
                raise ValueError(f"{setting} part {part!r} matches no parameter; names look like {named[0][0]!r}")
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, p in named:
        decays = not any(part in name for part in no_decay)
        adapts = adapt and not any(part in name for part in no_adapt)
        group = groups.setdefault(
            (decays, adapts), {"params": [], "weight_decay": weight_decay if decays else 0.0, "adapt": adapts}
        )
        group["params"].append(p)
    return list(groups.values())
