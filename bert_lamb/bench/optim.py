"""Time of an optimizer's step beside others': `make bench-optim`. Writes docs/results/optim.md and optim.json.

Every round times one step of each, in turn, so that a noisy machine disturbs all alike; ratios are of one run.
"""

import argparse
import gc
import importlib
import importlib.util
import json
import shlex
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

from bert_lamb.bench.pages import quartiles
from bert_lamb.machine import machine_record
from bert_lamb.optim import Lamb, decay_groups
from bert_lamb.words import counted

FLOOR = 40  # bytes a parameter that LAMB must move in fp32: read x, g, m, v, write m, v; read x, m, v, write x
COPIED = 100_000_000  # bytes read, and as many written
LR, WEIGHT_DECAY = 1e-6, 0.01  # of no weight here: weights stay near where they start
MODELS = {  # layers, width, heads, inner width: arXiv 1810.04805, section 3
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}
Groups = list[dict[str, Any]]
Maker = Callable[[Groups], torch.optim.Optimizer]


def ours(**path: Any) -> Maker:
    return lambda groups: Lamb(groups, lr=LR, **path)


def adamw(groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(without_adapt(groups), lr=LR, fused=True)


def timm(**settings: Any) -> Maker:
    def make(groups: Groups) -> torch.optim.Optimizer:
        return timm_lamb()(without_adapt(groups), lr=LR, **settings)

    return make


def pytorch_optimizer(groups: Groups) -> torch.optim.Optimizer:
    return importlib.import_module("pytorch_optimizer").Lamb(without_adapt(groups), lr=LR)


MAKERS: dict[str, Maker] = {
    "Lamb": ours(),
    "Lamb, max_grad_norm=1": ours(max_grad_norm=1.0),
    "Lamb, foreach=True": ours(foreach=True),
    "Lamb, foreach=True, max_grad_norm=1": ours(foreach=True, max_grad_norm=1.0),
    "Lamb, foreach=False": ours(foreach=False),
    "timm Lamb, foreach=True": timm(foreach=True),
    "timm Lamb, foreach=True, no clip": timm(foreach=True, max_grad_norm=None),
    "timm Lamb, foreach=False": timm(foreach=False),
    "pytorch_optimizer Lamb": pytorch_optimizer,
    "torch AdamW, fused=True": adamw,
}
REFERENCE = "timm Lamb, foreach=True"


@cache
def timm_lamb() -> Any:
    """timm's Lamb without timm's __init__, which wants torchvision, which wants another torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")
    folder = Path(spec.submodule_search_locations[0])
    stand_ins = {"timm": types.ModuleType("timm"), "timm.optim": types.ModuleType("timm.optim")}
    for name, stand_in in stand_ins.items():
        stand_in.__path__ = [str(folder.parent.joinpath(*name.split(".")))]
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("timm.optim.lamb").Lamb
    finally:
        for name, old in before.items():
            del sys.modules[name]
            if old is not None:
                sys.modules[name] = old


def without_adapt(groups: Groups) -> Groups:
    return [{key: value for key, value in group.items() if key != "adapt"} for group in groups]


def with_gradients(model: str, device: torch.device) -> BertForPreTraining:
    """A BERT for pretraining whose parameters have gradients."""
    layers, width, heads, inner = MODELS[model]
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner
    )  # fmt: skip
    bert = BertForPreTraining(config).to(device)  # type: ignore[arg-type]
    for p in bert.parameters():
        p.grad = torch.empty_like(p).normal_(0, 1e-3)
    return bert


def seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def copier(device: torch.device) -> Callable[[], object]:
    """Copies COPIED bytes between buffers that no cache holds."""
    source, target = torch.ones(2, COPIED // 4, device=device)
    return lambda: target.copy_(source)


def share_moments(optimizer: torch.optim.Optimizer, moments: dict[tuple[Tensor, str], Tensor]) -> None:
    """Puts the first optimizer's moments in the place of the others': for BERT-Large each set takes 2.7 GB."""
    for p, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape:
                state[name] = moments.setdefault((p, name), value)


def measure(
    bert: BertForPreTraining, device: torch.device, rounds: int, only: list[str]
) -> tuple[dict[str, list[float]], dict[str, float], list[str]]:
    """Seconds of each step, and of moving FLOOR bytes a parameter by copying; first steps; what is missing.

    All move the same weights and moments by the same gradients.
    """
    count = sum(p.numel() for p in bert.parameters())
    times: dict[str, list[float]] = {"copy": []}
    first: dict[str, float] = {}
    moments: dict[tuple[Tensor, str], Tensor] = {}
    missing, optimizers = [], {}
    for name in only or MAKERS:
        try:
            optimizers[name] = MAKERS[name](decay_groups(bert, WEIGHT_DECAY))
        except ModuleNotFoundError as error:
            missing.append(f"{name}: {error.name} is not installed")
    copy = copier(device)
    for name, optimizer in optimizers.items():
        first[name] = seconds(optimizer.step, device)
        share_moments(optimizer, moments)
        seconds(optimizer.step, device)
        times[name] = []
        print(f"{name}: first step {first[name]:.1f} s", flush=True)
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            gc.collect()
            times[name].append(seconds(optimizer.step, device))
        times["copy"].append(seconds(copy, device) * FLOOR * count / (2 * COPIED))
    return times, first, missing


def rows(times: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    """A row for each, fastest first: median and quartiles of milliseconds, bytes a parameter at the copy's speed."""
    floor = statistics.median(times["copy"])
    reference = statistics.median(times[REFERENCE]) if REFERENCE in times else None
    for name, values in sorted(times.items(), key=lambda item: statistics.median(item[1])):
        low, median, high = quartiles(values)
        yield {
            "name": f"copying {FLOOR} bytes a parameter" if name == "copy" else name,
            "ms": 1e3 * median, "ms_low": 1e3 * low, "ms_high": 1e3 * high,
            "bytes_per_parameter": FLOOR * median / floor,
            "times_faster_than_reference": reference / median if reference else None,
        }  # fmt: skip


def page(results: list[dict[str, Any]]) -> str:
    """docs/results/optim.md."""
    lines = [
        "# Time of an optimizer's step", "",
        "`make bench-optim` wrote this page. Medians and quartiles of interleaved rounds, in fp32. The bytes",
        "per parameter are what could have been copied in the time of the step, at the speed of a plain copy",
        f"between its rounds. LAMB must move at least {FLOOR}, or 44 with the norm of all gradients, which `Lamb`",
        "always computes and timm computes for its clip at 1, which is its default; AdamW must move 28. Half of",
        "what a copy moves is written, less of what LAMB moves, and writing is slower than reading, so a step",
        "may seem to move less than these bytes.",
    ]  # fmt: skip
    for result in results:
        lines += [
            "", f"## BERT-{result['model'].capitalize()}, {result['parameters'] / 1e6:.1f} M parameters", "",
            f"{result['device']}, {counted(result['threads'], 'thread')}, torch {result['torch']}, "
            f"commit {result['commit']}; {counted(result['rounds'], 'round')}; `{result['command']}`.", "",
            f"| | ms a step | quartiles | bytes a parameter | times as fast as {REFERENCE} | first step, s |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in result["rows"]:
            faster, first = row["times_faster_than_reference"], result["first_step_s"].get(row["name"])
            lines.append(
                f"| {row['name']} | {row['ms']:.3g} | {row['ms_low']:.3g} to {row['ms_high']:.3g} "
                f"| {row['bytes_per_parameter']:.0f} | {'' if faster is None else format(faster, '.2f')} "
                f"| {'' if first is None else format(first, '.1f')} |"
            )
        lines += [f"\nNot measured: {line}." for line in result["missing"]]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["base"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=list(MAKERS), default=[], help="some of the optimizers")
    parser.add_argument("--out", type=Path, default=Path("docs/results/optim.md"))
    chosen = parser.parse_args(arguments)
    device, results = torch.device(chosen.device), []
    for model in chosen.models:
        bert = with_gradients(model, device)
        count = sum(p.numel() for p in bert.parameters())
        times, first, missing = measure(bert, device, chosen.rounds, chosen.only)
        machine = machine_record(device, 1)
        results.append({
            "model": model, "parameters": count, "rounds": chosen.rounds, "threads": torch.get_num_threads(),
            "command": shlex.join(["python", "-m", "bert_lamb.bench.optim", *arguments]),
            "commit": str(machine["commit"])[:8],
            "device": machine["device"], "cores": machine["cores"], "torch": torch.__version__,
            "first_step_s": first, "missing": missing,
            "rows": list(rows(times)),
        })  # fmt: skip
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(page(results))
    chosen.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    print(page(results))


if __name__ == "__main__":
    main(sys.argv[1:])
