"""Time of an optimizer's step beside others': `make bench-optim`. Writes docs/results/optim.md and optim.json.

Every round times one step of each, in turn, so that a noisy machine disturbs all alike; ratios are of one run.
"""

import argparse
import gc
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from bert_lamb.model import build_bert
from bert_lamb.optim import Lamb, decay_groups
from bert_lamb.run import machine_record
from bert_lamb.settings import ModelSettings

FLOOR = 40  # bytes a parameter that LAMB must move in fp32: read x, g, m, v, write m, v; read x, m, v, write x
VOCABULARY = 30522  # of BERT's published uncased vocabulary
MODELS = {  # layers, width, heads, inner width: arXiv 1810.04805, section 3
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}
Groups = list[dict[str, Any]]
Maker = Callable[[Groups], torch.optim.Optimizer]


def ours(**path: Any) -> Maker:
    return lambda groups: Lamb(groups, lr=1e-3, **path)


def adamw(groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(without_adapt(groups), lr=1e-3, fused=True)


def timm(**path: Any) -> Maker:
    def make(groups: Groups) -> torch.optim.Optimizer:
        return module("timm", "optim.lamb").Lamb(without_adapt(groups), lr=1e-3, max_grad_norm=None, **path)

    return make


def pytorch_optimizer(groups: Groups) -> torch.optim.Optimizer:
    return importlib.import_module("pytorch_optimizer").Lamb(without_adapt(groups), lr=1e-3)


MAKERS: dict[str, Maker] = {
    "Lamb": ours(),
    "Lamb, max_grad_norm=1": ours(max_grad_norm=1.0),
    "Lamb, foreach=True": ours(foreach=True),
    "Lamb, foreach=False": ours(foreach=False),
    "timm Lamb, foreach=True": timm(foreach=True),
    "timm Lamb, foreach=False": timm(foreach=False),
    "pytorch_optimizer Lamb": pytorch_optimizer,
    "torch AdamW, fused=True": adamw,
}
REFERENCE = "timm Lamb, foreach=True"


def module(package: str, name: str) -> Any:
    """A module of a package, without running the package's __init__: timm's wants torchvision."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    folder = Path(spec.submodule_search_locations[0])
    parts = [package, *name.split(".")]
    for i in range(1, len(parts)):
        above = types.ModuleType(".".join(parts[:i]))
        above.__path__ = [str(folder.joinpath(*parts[1:i]))]
        sys.modules.setdefault(above.__name__, above)
    return importlib.import_module(".".join(parts))


def without_adapt(groups: Groups) -> Groups:
    return [{key: value for key, value in group.items() if key != "adapt"} for group in groups]


def shaped_parameters(model: str) -> list[tuple[str, Parameter]]:
    """BERT's parameters for pretraining, on the CPU, by name."""
    layers, width, heads, inner = MODELS[model]
    settings = ModelSettings(layers=layers, hidden=width, heads=heads, intermediate=inner)
    return list(build_bert(settings, VOCABULARY, pad_id=0, seed=0).named_parameters())


def fresh(named: list[tuple[str, Parameter]], device: torch.device) -> list[tuple[str, Parameter]]:
    """Copies with gradients, for one optimizer."""
    made = [(name, Parameter(p.detach().to(device, copy=True))) for name, p in named]
    generator = torch.Generator(device).manual_seed(1)
    for _, p in made:
        p.grad = torch.empty_like(p).normal_(0, 1e-3, generator=generator)
    return made


def seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def copier(device: torch.device) -> Callable[[], object]:
    """Copies 1 GB/5 from one buffer to another that no cache holds."""
    source, target = torch.ones(2, COPIED // 4, device=device)
    return lambda: target.copy_(source)


COPIED = 100_000_000  # bytes read, and as many written


def measure(
    named: list[tuple[str, Parameter]], device: torch.device, rounds: int, only: list[str]
) -> tuple[dict[str, list[float]], dict[str, float], list[str]]:
    """Seconds of each step, and of moving FLOOR bytes a parameter by copying; first steps; what is missing.

    Every optimizer is made, timed and given up by itself within a round's half: memory holds two models' states.
    """
    count = sum(p.numel() for _, p in named)
    times: dict[str, list[float]] = {"copy": []}
    first: dict[str, float] = {}
    missing, optimizers = [], {}
    for name in only or MAKERS:
        try:
            optimizers[name] = MAKERS[name](decay_groups(fresh(named, device), 0.01))
        except ModuleNotFoundError as error:
            missing.append(f"{name}: {error.name} is not installed")
    copy = copier(device)
    for name, optimizer in optimizers.items():
        first[name] = seconds(optimizer.step, device)
        seconds(optimizer.step, device)
        times[name] = []
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            gc.collect()
            times[name].append(seconds(optimizer.step, device))
        times["copy"].append(seconds(copy, device) * FLOOR * count / (2 * COPIED))
    return times, first, missing


def rows(times: dict[str, list[float]], count: int) -> Iterator[dict[str, Any]]:
    """A row for each, fastest first: median and quartiles of milliseconds, bytes a parameter at the copy's speed."""
    floor = statistics.median(times["copy"])
    reference = statistics.median(times[REFERENCE]) if REFERENCE in times else None
    for name, values in sorted(times.items(), key=lambda item: statistics.median(item[1])):
        median = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4)
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
        "`make bench-optim` wrote this. Medians of interleaved rounds, quartiles beside them; fp32. Bytes: what the",
        "step's time would have copied, for each parameter, at the speed of a plain copy between its rounds. LAMB cannot",
        f"move fewer than {FLOOR}, or 44 with the check for finite gradients, which `Lamb` always makes; AdamW 28.",
    ]  # fmt: skip
    for result in results:
        about = result["machine"]
        lines += [
            "", f"## BERT-{result['model'].capitalize()}, {result['parameters'] / 1e6:.1f} M parameters", "",
            f"{about['device']}, {result['threads']} threads, torch {about['torch']}, commit {result['commit']}; "
            f"{result['rounds']} rounds; `{result['command']}`.", "",
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
        named = shaped_parameters(model)
        count = sum(p.numel() for _, p in named)
        times, first, missing = measure(named, device, chosen.rounds, chosen.only)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        results.append({
            "model": model, "parameters": count, "rounds": chosen.rounds, "threads": torch.get_num_threads(),
            "command": " ".join(["python -m bert_lamb.bench.optim", *arguments]), "commit": commit.stdout.strip(),
            "machine": machine_record(device, 1), "first_step_s": first, "missing": missing,
            "rows": list(rows(times, count)),
        })  # fmt: skip
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(page(results))
    chosen.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    print(page(results))


if __name__ == "__main__":
    main(sys.argv[1:])
