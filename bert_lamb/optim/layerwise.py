"""What every layer-wise optimizer does around its formula: norms of whole tensors, clip, finite check, state, readings.

"Layer" means parameter tensor. A subclass gives the formula.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bert_lamb.optim import refusals, sharded
from bert_lamb.optim.loading import LoadsStates
from bert_lamb.optim.rule import Rule
from bert_lamb.optim.tensors import TensorGroup, is_dtensor, local, spread_of
from bert_lamb.optim.update import Readings, UpdatePath, update
from bert_lamb.optim.verdict import Verdict


class Layerwise(LoadsStates):
    """Base of Lamb and Lars. See there."""

    MOMENTS: ClassVar[tuple[str, ...]]  # names of the state's tensors that are shaped like the parameter

    def __init__(self, params: Iterable, defaults: dict[str, Any], error_if_nonfinite: bool) -> None:
        self._shapes: list[list[torch.Size]] = []  # of the tensors that each group was made with
        self._seen: dict[str, Any] = {}  # what the properties below read; a dictionary, since torch.compile keeps those
        self._verdict = Verdict(error_if_nonfinite)
        super().__init__(params, defaults)

    @property
    def max_grad_norm(self) -> float | None:
        """What gradients are scaled to, in L2 over all groups: one value, which stands in every group."""
        values = [group["max_grad_norm"] for group in self.param_groups]
        if any(value != values[0] for value in values):
            raise ValueError(
                f"max_grad_norm differs between parameter groups: {', '.join(map(str, values))}. The norm is that of "
                "all gradients together: give every group the same value, or set optimizer.max_grad_norm"
            )
        return values[0]

    @max_grad_norm.setter
    def max_grad_norm(self, value: float | None) -> None:
        for group in self.param_groups:
            group["max_grad_norm"] = value

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler hands its scale to the step, which then unscales without a host sync.

        As in torch's optimizers where that was asked for; else GradScaler unscales `p.grad` itself, as a loop expects
        that clips gradients before the step (Lightning refuses to clip where this is true).
        """
        return all(group.get("fused") or group.get("capturable") for group in self.param_groups)

    @property
    def grad_norm(self) -> Tensor | None:
        """L2, of the last step's gradients over all groups, before clipping; 0-dim, on the device."""
        return self._seen.get("grad_norm")

    @property
    def step_was_finite(self) -> Tensor | None:
        """0-dim bool, on the device: False when the last step changed nothing."""
        return self._seen.get("finite")

    @property
    def steps_not_finite(self) -> Tensor:
        """0-dim int64, on the device: how many steps changed nothing so far."""
        return self._seen.get("not_finite", torch.zeros((), dtype=torch.int64))

    @property
    def readings(self) -> dict[Tensor, Readings]:
        """Trust ratio, weight norm and update norm (0-dim) of the last step, by parameter in their order."""
        seen = self._seen.get("readings", [])
        found = {p: Readings(*(column[i] for column in read)) for ps, read in seen for i, p in enumerate(ps)}
        return {p: found[p] for group in self.param_groups for p in group["params"] if p in found}

    @property
    def trust_ratios(self) -> dict[Tensor, Tensor]:
        """Of the last step, by parameter in their order; 1 where not adapted."""
        return {p: reading.trust_ratios for p, reading in self.readings.items()}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """torch's; settings that make no sense or are unknown raise ValueError. Values may still be changed later."""
        name, earlier = type(self).__name__, self.param_groups
        refusals.refuse_unknown_keys(param_group, self.defaults, name)
        self.check({**self.defaults, **param_group})
        if earlier:
            limit = self.max_grad_norm
            if param_group.setdefault("max_grad_norm", limit) != limit:
                raise ValueError(
                    f"max_grad_norm={param_group['max_grad_norm']} in a parameter group, {limit} in those before it: "
                    "the norm is that of all gradients together, so there is one value"
                )
        super().add_param_group(
            _named(param_group, len(earlier)) if earlier and "param_names" in earlier[0] else param_group
        )
        group = self.param_groups[-1]
        shapes = [p.shape for p in group["params"]]
        try:
            refusals.refuse_flat_partitions(group, shapes, name)
        except refusals.FlatPartitionError:
            self.param_groups.pop()
            raise
        self._shapes.append(shapes)

    def check(self, group: dict[str, Any]) -> None:
        """Raises ValueError where a group's settings make no sense."""
        lr, limit = group["lr"], group["max_grad_norm"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError(f"lr of shape {tuple(lr.shape)}: a number is expected, or a tensor of one")
        if not lr >= 0:  # NaN included
            raise ValueError(f"lr={lr}: must not be negative")
        refusals.refuse_clip(limit)
        self.rule(group)

    def rule(self, group: dict[str, Any]) -> Rule:
        """The switches of a group."""
        return Rule.of(group)

    def path(self, batch: TensorGroup) -> UpdatePath:
        """How a group's update is computed."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """For copies: torch's knows nothing of what this class added."""
        kept = {name: value for name, value in self._seen.items() if name == "not_finite"}
        return super().__getstate__() | {"_seen": kept, "_shapes": self._shapes, "_verdict": self._verdict}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update. Nothing is written, on any rank, where the norm of all gradients is not finite."""
        loss = loss_of(closure)
        batches = self._batches()
        for batch, norms in zip(batches, sharded.gradient_norms(batches), strict=True):
            batch.grad_norms = norms
        scale, norm, finite = self._scale_and_verdict(batches)
        self._verdict.look(self, batches, finite)
        self._seen["readings"] = update([(batch, self.path(batch)) for batch in batches], scale, finite)
        if "not_finite" not in self._seen:
            self._seen["not_finite"] = torch.zeros_like(finite, dtype=torch.int64)
        self._seen["not_finite"].add_(~finite)  # in place, so that a captured graph counts too
        self._seen["grad_norm"], self._seen["finite"] = norm, finite
        return loss

    def _scale_and_verdict(self, batches: list[TensorGroup]) -> tuple[Tensor | None, Tensor, Tensor]:
        """What gradients are multiplied by, their norm before clipping, and whether it is finite; 0-dim each."""
        limit = self.max_grad_norm if self.param_groups else None
        norms = [batch.grad_norms.to(batches[0].device) for batch in batches]
        norm = torch.linalg.vector_norm(torch.cat(norms) if norms else torch.zeros(0))
        scale, finite = None, torch.isfinite(norm)
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)  # of GradScaler
        if grad_scale is not None:
            scale = 1 / grad_scale.to(norm)
            norm = norm * scale
        if found_inf is not None:
            finite = finite & (found_inf.to(norm) == 0)
        if limit is not None:
            clip = (limit / norm).clamp(max=1.0)
            scale = clip if scale is None else scale * clip
        return scale, norm, finite

    def _batches(self) -> list[TensorGroup]:
        """Tensors with gradients, each list alike; all are checked before any state is made."""
        found: dict[tuple, TensorGroup] = {}
        for number, group in enumerate(self.param_groups):
            refusals.refuse_flat_partitions(group, self._shapes[number], type(self).__name__)
            rule = self.rule(group)
            for index, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                refusals.refuse_gradient(group, index, type(self).__name__)
                g, spread = p.grad, spread_of(p)
                if is_dtensor(p) and g.placements != p.placements:
                    g = g.redistribute(placements=p.placements)
                kind = number, p.device, p.dtype, g.dtype, spread
                batch = found.setdefault(kind, TensorGroup(group, rule, spread))
                batch.params.append(p)
                batch.weights.append(local(p))
                batch.grads.append(local(g))
        for batch in found.values():
            batch.states = [{name: local(value) for name, value in self._state(p).items()} for p in batch.params]
        return list(found.values())

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            for name in self.MOMENTS:
                state[name] = torch.zeros_like(p, dtype=self._wide(p))
        return state


def loss_of(closure: Callable[[], float] | None) -> float | None:
    """What the closure of a step returns, which runs forward and backward; None where there is none."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _named(group: dict[str, Any], number: int) -> dict[str, Any]:
    """A late group beside named ones: torch wants names in all groups or in none."""
    params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    if "param_names" in group or any(isinstance(p, tuple) for p in params):
        return group
    return group | {"params": params, "param_names": [f"{i} of group {number}" for i in range(len(params))]}
