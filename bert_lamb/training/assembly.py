"""Puts the parts of pretraining together on one rank: model, optimizer, data, checkpoints, numbers."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch

from bert_lamb.batch import Denominators, LossSums, PackedBatch
from bert_lamb.data.loader import PhaseData
from bert_lamb.data.packing import SpecialIds
from bert_lamb.files import write_json
from bert_lamb.hardware import cache_by_processor
from bert_lamb.machine import device_name, machine_record
from bert_lamb.model import batch_flops, build_bert, pretraining_losses
from bert_lamb.optim import (
    OFFERED,
    PRESETS,
    Lamb,
    Lars,
    MuonAdamW,
    RunOptimizer,
    decay_groups,
    has_compiler,
    hidden_matrices,
)
from bert_lamb.parallel import Single
from bert_lamb.run import Dashboard, MetricsLog, Progress, RunFolder, how_computed, run_precision
from bert_lamb.settings import OptimizerSettings, Settings
from bert_lamb.training.checkpoints import PhaseCheckpoints
from bert_lamb.training.fitting import fitted_tokens, peak_gib, room_gib
from bert_lamb.training.phase_data import open_phase_data, open_store, tokens_are_found
from bert_lamb.training.repeatable import repeat_to_the_bit
from bert_lamb.training.tokenizer import tokenizer_of

log = logging.getLogger(__name__)

SHAPES = 32  # more than a run's micro-batches have: beyond its limit the compiler would give up without a word
PRECISIONS = {"bf16": torch.float32, "fp32": torch.float32, "fp64": torch.float64}  # of the weights


class Assembly:
    """What every step of a run uses, on one rank."""

    def __init__(self, s: Settings, folder: RunFolder, strategy: Single) -> None:
        self.settings, self.folder, self.strategy = s, folder, strategy
        self.manifest, self.precision = folder.manifest(), run_precision(s, folder)
        self.store = open_store(s, self.manifest)
        repeat_to_the_bit(s.hardware.deterministic, strategy.device)
        bert = build_bert(s.model, self.manifest["tokenizer"]["size"], SpecialIds.of(self.manifest).pad, s.seed)
        bert.to(device=strategy.device, dtype=PRECISIONS[self.precision])  # type: ignore[call-arg]
        self.bert = bert.train()
        self.parameters = list(self.bert.parameters())
        self.compiled = should_compile(s.hardware.compile, strategy.device)
        if self.compiled:
            cache_by_processor()
        self.optimizer = make_optimizer(self.bert, s.optimizer, self.compiled)
        self._bf16 = self.precision == "bf16"
        self._losses: Callable[..., LossSums] = pretraining_losses
        if self.compiled:
            torch._dynamo.config.recompile_limit = SHAPES
            self._losses = torch.compile(pretraining_losses, dynamic=False)
        self._tokens: dict[int, int] = {}  # of a phase's micro-batches, where they were found by trial
        self._dashboard: Dashboard | None = None
        self._tokenizer = tokenizer_of(self.store, self.manifest, s.model.max_positions)
        self._how: dict[str, Any] = {}
        if strategy.rank == 0:
            machine = machine_record(strategy.device, strategy.ranks) | {
                "precision": self.precision, "compiled": self.compiled, "hardware": s.hardware.name,
            }  # fmt: skip
            self._how = how_computed(machine, s.hardware)
            write_json(folder.machine_file, machine)
            self._dashboard = Dashboard(s.run.wandb, s.run.wandb_project, folder.path.name, folder.path, asdict(s))
            log.info("  device: %s, %s, %s", machine["device"], self.precision, self._compile_words())

    def losses(self, batch: PackedBatch, compiled: bool = True) -> LossSums:
        """Summed losses of a micro-batch at the run's precision."""
        cast = torch.autocast(self.strategy.device.type, torch.bfloat16) if self._bf16 else nullcontext()
        with cast:
            function = self._losses if compiled else pretraining_losses
            return function(self.bert, batch, self.settings.hardware.recompute)

    def data(self, phase_number: int, split: str = "train") -> PhaseData:
        """The batches of a phase for this rank."""
        activations = torch.bfloat16 if self._bf16 else torch.float32
        data = open_phase_data(
            self.settings, self.store, self.manifest, self.strategy, phase_number, split, activations, self.compiled
        )
        if tokens_are_found(self.settings, self.strategy.device):
            data.micro_batch_tokens = self._fitted(phase_number, data)
        return data

    def checkpoints(self, phase_number: int) -> PhaseCheckpoints:
        """What the phase saves and goes on from."""
        return PhaseCheckpoints(
            self.settings, self.folder, self.strategy, self.bert, self.optimizer, phase_number, self._how,
            self._tokenizer,
        )  # fmt: skip

    def metrics(self, progress: Progress) -> MetricsLog:
        """The phase's log, writing on rank 0 only."""
        by_id = {id(p): name for name, p in self.bert.named_parameters()}
        names = [by_id[id(p)] for group in self.optimizer.param_groups for p in group["params"]]
        model, vocabulary = self.settings.model, self.manifest["tokenizer"]["size"]

        def flops(c: Denominators) -> float:
            return batch_flops(model, vocabulary, c.tokens, c.squared, c.masked, c.sequences)

        return MetricsLog(self.folder, self.settings, progress, names, self._dashboard, flops, self.strategy)

    def close(self) -> None:
        if self._dashboard is not None:
            self._dashboard.close()
        self.strategy.close()

    def _fitted(self, number: int, data: PhaseData) -> int:
        """Tokens of a micro-batch as they fit this device: found once a phase, kept in the run folder."""
        h, device = self.settings.hardware, self.strategy.device
        moments_gib = 0 if self.optimizer.state else 2 * sum(p.nbytes for p in self.parameters) / 2**30

        def gib(batch: PackedBatch) -> float:
            def work() -> None:
                for _ in range(2):  # gradients stand beside the second one's activations
                    losses = self.losses(batch.to(device), compiled=False)
                    (losses.mlm + losses.nsp).backward()

            peak = peak_gib(device, work) + moments_gib
            self.optimizer.zero_grad()
            return peak

        if number not in self._tokens:
            how = f"{device_name(device)} x {data.ranks}, {self.precision}, recompute {str(h.recompute).lower()}"
            room = room_gib(device)
            self._tokens[number] = fitted_tokens(self.folder, number, data, self.strategy, how, gib, room)
        return self._tokens[number]

    def _compile_words(self) -> str:
        if self.compiled:
            return "compiled step (the first steps take longer)"
        wanted = self.settings.hardware.compile
        return "eager step" + (": no working C++ compiler" if wanted == "auto" else "")


def make_optimizer(bert: torch.nn.Module, o: OptimizerSettings, compiled: bool) -> RunOptimizer:
    """The preset, with the settings' own values where they are given. Not compiled: nothing of its step is either."""
    names = ("eps", "bias_correction", "grad_averaging", "max_grad_norm", "norm", "phi_bounds", "ratio_bounds")
    given: dict[str, Any] = {name: getattr(o, name) for name in names if getattr(o, name) is not None}
    rule = OFFERED[o.preset].rule
    weight_decay = rule.weight_decay if o.weight_decay is None else o.weight_decay
    groups = decay_groups(bert, weight_decay, bool(rule.adapt), o.no_decay, o.no_adapt)
    beta1, beta2 = (b if own is None else own for b, own in zip(rule.betas, (o.beta1, o.beta2), strict=True))
    if o.preset == "lars":
        return Lars(groups, lr=0.0, momentum=beta1, **given)
    fused = None if compiled else False
    if o.preset == "muon":
        betas = (PRESETS["adamw"].rule.betas[0], beta2)
        return MuonAdamW(groups, hidden_matrices(bert), 0.0, momentum=beta1, betas=betas, fused=fused, **given)
    return Lamb(groups, lr=0.0, preset=o.preset, betas=(beta1, beta2), fused=fused, **given)


def should_compile(wanted: str, device: torch.device) -> bool:
    """ "auto": on a GPU always, on a CPU where a C++ compiler works."""
    if wanted != "auto":
        return wanted == "on"
    return device.type == "cuda" or has_compiler()
