"""Puts the parts of pretraining together on one rank: model, optimizer, data, restored state, results."""

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bert_lamb.batch import Denominators, LossSums, PackedBatch
from bert_lamb.data.instances import InstanceTables
from bert_lamb.data.loader import PhaseData, Step
from bert_lamb.data.local_copy import copy_store
from bert_lamb.data.masking import MaskRule
from bert_lamb.data.order import Order
from bert_lamb.data.packing import SpecialIds
from bert_lamb.data.planner import known_tokens
from bert_lamb.data.vocabulary import VOCABULARY, continuation_pieces, read_vocabulary
from bert_lamb.machine import device_name, machine_record
from bert_lamb.model import batch_flops, build_bert, pretraining_losses, takes_varlen
from bert_lamb.optim import LARS, PRESETS, Lamb, Lars, decay_groups, has_compiler
from bert_lamb.parallel import Single
from bert_lamb.run import (
    Dashboard,
    MetricsLog,
    Progress,
    RunFolder,
    TrainingStoppedError,
    data_folder,
    last_line,
    list_checkpoints,
    load_checkpoint,
    restart_bias_correction,
    rollback_target,
    save_checkpoint,
    set_aside,
)
from bert_lamb.settings import MODEST_TOKENS, OptimizerSettings, Settings
from bert_lamb.training.fitting import fitted_tokens, peak_gib, room_gib
from bert_lamb.training.repeatable import repeat_to_the_bit

log = logging.getLogger(__name__)

SHAPES = 32  # more than a run's micro-batches have: beyond its limit the compiler would give up without a word
PRECISIONS = {"bf16": torch.float32, "fp32": torch.float32, "fp64": torch.float64}  # of the weights


class Assembly:
    """What every step of a run uses, on one rank."""

    def __init__(self, s: Settings, folder: RunFolder, strategy: Single) -> None:
        self.settings, self.folder, self.strategy = s, folder, strategy
        self.manifest = folder.manifest()
        self.store = self._store()
        repeat_to_the_bit(s.hardware.deterministic, strategy.device)
        tokenizer = self.manifest["tokenizer"]
        special = tokenizer["special_ids"]
        self.special = SpecialIds(special["[PAD]"], special["[CLS]"], special["[SEP]"], special["[MASK]"])
        bert = build_bert(s.model, tokenizer["size"], self.special.pad, s.seed)
        bert.to(device=strategy.device, dtype=PRECISIONS[s.hardware.precision])  # type: ignore[call-arg]
        self.bert = bert.train()
        self.parameters = list(self.bert.parameters())
        self.compiled = should_compile(s.hardware.compile, strategy.device)
        self.optimizer = make_optimizer(self.bert, s.optimizer, self.compiled)
        self._bf16 = s.hardware.precision == "bf16"
        self._losses: Callable[..., LossSums] = pretraining_losses
        if self.compiled:
            torch._dynamo.config.recompile_limit = SHAPES
            self._losses = torch.compile(pretraining_losses, dynamic=False)
        self._rollback_every = s.recovery.every if s.recovery.policy == "rollback" else None
        self._tokens: dict[int, int] = {}  # of a phase's micro-batches, where they were found by trial
        self._dashboard: Dashboard | None = None
        if strategy.rank == 0:
            machine = machine_record(strategy.device, strategy.ranks) | {
                "precision": s.hardware.precision, "compiled": self.compiled, "hardware": s.hardware.name,
            }  # fmt: skip
            folder.write_json("machine.json", machine)
            self._dashboard = Dashboard(s.run.wandb, s.run.wandb_project, folder.path.name, folder.path, asdict(s))
            log.info("  device: %s, %s, %s", machine["device"], s.hardware.precision, self._compile_words())

    def losses(self, batch: PackedBatch, compiled: bool = True) -> LossSums:
        """Summed losses of a micro-batch at the run's precision."""
        cast = torch.autocast(self.strategy.device.type, torch.bfloat16) if self._bf16 else nullcontext()
        with cast:
            function = self._losses if compiled else pretraining_losses
            return function(self.bert, batch, self.settings.hardware.recompute)

    def data(self, number: int, split: str = "train") -> PhaseData:
        """The batches of a phase for this rank."""
        s, phase = self.settings, self.settings.phase(number)
        tables = InstanceTables(self.store, self.manifest, split, phase.seq_len)
        tokens = known_tokens(s.hardware.micro_batch_tokens, self.strategy.device.type == "cuda")
        data = PhaseData(
            tables=tables,
            order=Order(s.seed, number, tables.sizes, phase.global_batch),
            rule=MaskRule(
                s.seed, number, s.masking.share, self.special.mask, self.manifest["tokenizer"]["size"],
                continuation_pieces(read_vocabulary(self.store / VOCABULARY)) if s.masking.whole_word else None,
            ),
            ids=self.special,
            seq_len=phase.seq_len,
            micro_batch_tokens=tokens or MODEST_TOKENS,
            padded=not takes_varlen(self.strategy.device, torch.bfloat16 if self._bf16 else torch.float32),
            rank=self.strategy.rank,
            ranks=self.strategy.ranks,
            static_shapes=self.compiled,
            prefetch=s.hardware.prefetch,
            pinned=self.strategy.device.type == "cuda",
        )  # fmt: skip
        if tokens is None:
            data.micro_batch_tokens = self._fitted(number, data)
        return data

    def restore(self, number: int) -> Progress:
        """Brings model and optimizer to where the phase begins or was cut. One path for both: from files."""
        checkpoints = list_checkpoints(self._checkpoints(number))
        if checkpoints:
            progress = load_checkpoint(checkpoints[-1], self.bert, self.optimizer)
            self._event("resume", phase=number, step=progress.step, ranks=self.strategy.ranks)
            return progress
        if number == 2:
            moments = self.settings.handover.moments
            result = self.folder.phase_result(1)
            assert result is not None
            self.optimizer.state.clear()
            keeps = self.optimizer if moments != "fresh" else None
            load_checkpoint(self.folder.phase(1) / result["checkpoint"], self.bert, keeps)
            if moments == "keep_reset_step":
                restart_bias_correction(self.optimizer)
        self._event("start", phase=number, ranks=self.strategy.ranks)
        progress = Progress(number)
        if self._rollback_every:
            self.strategy.barrier()  # every rank has seen that there is none yet
            self.save(progress)  # so that there is always one to go back to
        return progress

    def steps(self, data: PhaseData, progress: Progress) -> Iterator[Step]:
        """The steps that the phase has left; after a roll-back, from where it put the progress."""
        last = self.settings.phase(progress.phase).steps
        while progress.step < last:
            for step in data.steps(progress.step, last, progress.data_offset):
                yield step
                if progress.step != step.number + 1:
                    break

    def recover(self, progress: Progress, trouble: str) -> None:
        """Stops the run, or brings model, optimizer and progress back to the last good checkpoint."""
        r, number = self.settings.recovery, progress.phase
        way_out = f"The last good checkpoint stands; lower phase{number}.peak_lr or raise its warmup_steps"
        if r.policy == "stop":
            raise TrainingStoppedError(f"{trouble}: the run has diverged. {way_out}")
        if progress.rollbacks == r.max_rollbacks:
            raise TrainingStoppedError(f"{trouble}, after {progress.rollbacks} roll-backs (max_rollbacks). {way_out}")
        checkpoints = list_checkpoints(self._checkpoints(number))
        good = rollback_target(checkpoints, r.every)
        if good is None:
            raise TrainingStoppedError(f"{trouble}, and there is no checkpoint to go back to. {way_out}")
        self._event("rolled back", phase=number, step=progress.step, to=good.name, because=trouble)
        progress.roll_back(load_checkpoint(good, self.bert, self.optimizer))
        self.strategy.barrier()  # every rank has read before rank 0 writes
        if self.strategy.rank == 0:
            log.warning("%s; back to %s, with other sequences", trouble, good.name)
            for later in checkpoints[checkpoints.index(good) + 1 :]:
                set_aside(later)
        self.save(progress)

    def metrics(self, progress: Progress) -> MetricsLog:
        """The phase's log, writing on rank 0 only."""
        by_id = {id(p): name for name, p in self.bert.named_parameters()}
        names = [by_id[id(p)] for group in self.optimizer.param_groups for p in group["params"]]
        model, vocabulary = self.settings.model, self.manifest["tokenizer"]["size"]

        def flops(c: Denominators) -> float:
            return batch_flops(model, vocabulary, c.tokens, c.squared, c.masked, c.sequences)

        return MetricsLog(self.folder, self.settings, progress, names, self._dashboard, flops, self.strategy)

    def heldout_due(self, progress: Progress) -> bool:
        """Every so many steps, and at the phase's end."""
        every, last = self.settings.run.heldout_every, self.settings.phase(progress.phase).steps
        return progress.step == last or bool(every and progress.step % every == 0)

    def checkpoint_due(self, progress: Progress) -> bool:
        """Every so many steps while all is well, and at the phase's end."""
        step, last = progress.step, self.settings.phase(progress.phase).steps
        due = any(step % every == 0 for every in (self.settings.run.checkpoint_every, self._rollback_every) if every)
        return (due and progress.quiet) or step == last

    def save(self, progress: Progress) -> None:
        """A checkpoint by rank 0; others wait, so that none runs ahead of what is safe."""
        if self.strategy.rank == 0:
            folder, keep = self._checkpoints(progress.phase), self.settings.run.keep_checkpoints
            save_checkpoint(folder, self.bert, self.optimizer, progress, keep, self._rollback_every)
        self.strategy.barrier()

    def finish(self, progress: Progress) -> None:
        """Writes the phase's result.json, last of all."""
        if self.strategy.rank == 0:
            line = last_line(self.folder.phase(progress.phase) / "metrics.jsonl", progress.step)
            result: dict[str, Any] = {
                "checkpoint": f"checkpoints/step-{progress.step:06d}",
                "steps": progress.step,
                "skipped": progress.skipped,
                **{k: line[k] for k in ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "heldout_mlm_loss",
                                        "heldout_mlm_accuracy") if k in line},
                "precision": self.settings.hardware.precision,
            }  # fmt: skip
            self.folder.finish_phase(progress.phase, result)
        self.strategy.barrier()

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
            how = f"{device_name(device)} x {data.ranks}, {h.precision}, recompute {str(h.recompute).lower()}"
            room = room_gib(device)
            self._tokens[number] = fitted_tokens(self.folder, number, data, self.strategy, how, gib, room)
        return self._tokens[number]

    def _store(self) -> Path:
        """Where the prepared data is read; a copy on this node's disk is made by the first of its ranks to come."""
        shared, h = data_folder(self.settings), self.settings.hardware
        if h.local_data is None:
            return shared
        lengths = {self.settings.phase(number).seq_len for number in (1, 2)}
        return copy_store(shared, self.manifest, lengths, Path(h.local_data))

    def _checkpoints(self, number: int):
        return self.folder.phase(number) / "checkpoints"

    def _event(self, kind: str, **details: object) -> None:
        if self.strategy.rank == 0:
            self.folder.event(kind, **details)

    def _compile_words(self) -> str:
        if self.compiled:
            return "compiled step (the first steps take longer)"
        wanted = self.settings.hardware.compile
        return "eager step" + (": no C++ compiler found" if wanted == "auto" else "")


def make_optimizer(bert: torch.nn.Module, o: OptimizerSettings, compiled: bool) -> Lamb | Lars:
    """The preset, with the settings' own values where they are given. Not compiled: nothing of its step is either."""
    names = ("eps", "bias_correction", "grad_averaging", "max_grad_norm", "norm", "phi_bounds", "ratio_bounds")
    given: dict[str, Any] = {name: getattr(o, name) for name in names if getattr(o, name) is not None}
    rule = (LARS if o.preset == "lars" else PRESETS[o.preset]).rule
    weight_decay = rule.weight_decay if o.weight_decay is None else o.weight_decay
    groups = decay_groups(bert, weight_decay, bool(rule.adapt), o.no_decay, o.no_adapt)
    beta1, beta2 = (b if own is None else own for b, own in zip(rule.betas, (o.beta1, o.beta2), strict=True))
    if o.preset == "lars":
        return Lars(groups, lr=0.0, momentum=beta1, **given)
    return Lamb(groups, lr=0.0, preset=o.preset, betas=(beta1, beta2), fused=None if compiled else False, **given)


def should_compile(wanted: str, device: torch.device) -> bool:
    """ "auto": on a GPU always, on a CPU where a C++ compiler is at hand."""
    if wanted != "auto":
        return wanted == "on"
    return device.type == "cuda" or has_compiler()
