"""States into an optimizer: its own, and what other optimizers with the same moments saved."""

from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor

from bert_lamb.optim import refusals

SPEED = ("foreach", "fused", "capturable")  # settings of the machine at hand, not of what was saved


class LoadsStates(torch.optim.Optimizer):
    """An optimizer whose moments stay fp32 or wider when they are loaded; torch's own method narrows them."""

    MOMENTS: ClassVar[tuple[str, ...]]

    def check(self, group: dict[str, Any]) -> None:
        """Raises ValueError where a group's settings make no sense."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what this class or another optimizer with these state keys (torch's AdamW) saved.

        Settings are restored only from this class's own states; those that are missing there, and those of SPEED, keep
        the values that they have here. From another optimizer's state only moments and steps are taken. Hooks run as
        torch runs them: pre-hooks may hand over another state, post-hooks see the loaded one.

        ValueError: the state is not of these tensors; then nothing is loaded.
        """
        state_dict = state_dict.copy()
        before, after = self._optimizer_load_state_dict_pre_hooks, self._optimizer_load_state_dict_post_hooks
        for pre_hook in before.values():
            replaced = pre_hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        saved_groups = groups = state_dict["param_groups"]
        loaded: dict[Tensor, dict[str, Tensor]] = {}
        rest = dict(state_dict["state"])
        if [len(group["params"]) for group in groups] == [len(group["params"]) for group in self.param_groups]:
            groups = [self._settings(mine, saved) for mine, saved in zip(self.param_groups, saved_groups, strict=True)]
            for mine, saved in zip(self.param_groups, saved_groups, strict=True):
                for place, (p, i) in enumerate(zip(mine["params"], saved["params"], strict=True)):
                    if i in rest:
                        name = refusals.parameter_name(mine, place)
                        loaded[p] = self._loaded(p, name, {"step": saved.get("step"), **rest.pop(i)})
        try:  # torch's method without the hooks, which have run or are to see the moments as they stay
            self._optimizer_load_state_dict_pre_hooks = OrderedDict()
            self._optimizer_load_state_dict_post_hooks = OrderedDict()
            super().load_state_dict({**state_dict, "param_groups": groups, "state": rest})
        finally:
            self._optimizer_load_state_dict_pre_hooks = before
            self._optimizer_load_state_dict_post_hooks = after
        self.state.update(loaded)
        for post_hook in after.values():
            post_hook(self)

    def _settings(self, mine: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
        """A group as it will be, checked."""
        own = {key: value for key, value in mine.items() if key != "params"}
        speed = {key: own[key] for key in SPEED if key in own}
        taken = own | (saved if "adapt" in saved else {}) | speed | {"params": saved["params"]}
        self.check(taken)
        return taken

    def _loaded(self, p: Tensor, name: str, saved: dict[str, Any]) -> dict[str, Tensor]:
        """A tensor's state. apex and timm keep the step in the group."""
        missing = [key for key in ("step", *self.MOMENTS) if saved.get(key) is None]
        if missing:
            raise ValueError(
                f"the state to be loaded has no {', '.join(missing)} for parameter {name}: its optimizer keeps other "
                "moments"
            )
        state = {"step": torch.as_tensor(saved["step"], dtype=torch.float32).to(p.device, copy=True)}
        for key in self.MOMENTS:
            refusals.refuse_moment(name, key, saved[key], p)
            state[key] = saved[key].detach().to(p.device, self._wide(p), copy=True)
        return state

    @staticmethod
    def _wide(p: Tensor) -> torch.dtype:
        """Of a parameter's moments: fp32, or its own type where that is wider."""
        return torch.promote_types(p.dtype, torch.float32)
