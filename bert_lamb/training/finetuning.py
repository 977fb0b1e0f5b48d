"""One fine-tuned arm on SQuAD v1.1: from first weights to answers, by the rules of google-research/bert.

The arm `pretrained` starts from the run's final weights, `scratch` from random ones, all else equal: the difference of
their F1s is what pretraining is worth. One process, one device.
"""

import json
import logging
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from tokenizers import Tokenizer
from transformers import BertForQuestionAnswering

from bert_lamb.checksums import write_sums
from bert_lamb.data.manifest import MANIFEST
from bert_lamb.data.planner import MODEST_TOKENS
from bert_lamb.data.vocabulary import VOCABULARY, load_tokenizer
from bert_lamb.errors import EXIT_STOPPED
from bert_lamb.files import file_sha256, json_bytes, write_json, write_whole
from bert_lamb.machine import machine_record
from bert_lamb.model import bert_config
from bert_lamb.optim import Schedule, decay_groups, set_lr
from bert_lamb.parallel import run_device
from bert_lamb.run import (
    ARM_FILES,
    RESULT,
    ArmFolder,
    RunFolder,
    TrainingStoppedError,
    data_folder,
)
from bert_lamb.settings import Settings, finetune_recipe, recipe_hash, settings_yaml
from bert_lamb.signals import StopRequest
from bert_lamb.squadfiles import Question, SquadError, read_squad
from bert_lamb.tasks.squad_data import Windows, cut_windows, epoch_batches, make_batch, micro_batches, subset, trainable
from bert_lamb.tasks.squad_metrics import score
from bert_lamb.tasks.squad_model import (
    autocast,
    build_span_model,
    load_encoder,
    save_span_model,
    span_logits,
    span_loss,
)
from bert_lamb.tasks.squad_predict import answer
from bert_lamb.training.repeatable import repeat_to_the_bit
from bert_lamb.words import duration

log = logging.getLogger(__name__)

MAX_GRAD_NORM = 1.0  # google-research/bert, optimization.py, clips before AdamW
ADAM_EPS = 1e-6  # the same file
CONSOLE_EVERY_S = 10.0


@dataclass
class Squad:
    """What every arm shares: questions, and their windows."""

    tokenizer: Tokenizer
    train: list[Question]
    unmatched: list[str]  # ids of training questions left out
    train_windows: Windows
    dev: list[Question]
    dev_windows: Windows


def arm_folder(s: Settings, folder: RunFolder, arm: str) -> ArmFolder:
    """Named after what decides the result; question files count by their content, not by their path."""
    origin = folder.origin()
    about = finetune_recipe(s, file_sha256(data_folder(s) / MANIFEST), arm, origin.deciding() if origin else None)
    for name in ("train_file", "dev_file"):
        about["finetune"][name] = file_sha256(Path(about["finetune"][name]))
    return folder.arm(f"{arm}-{recipe_hash(about)}-seed{s.seed}")


def load_squad(s: Settings, folder: RunFolder) -> Squad:
    """Questions and windows, with the tokenizer of the run's own data."""
    tokenizer = load_tokenizer(data_folder(s), folder.manifest())  # refuses a vocabulary not of the run's data
    train, unmatched = trainable(read_squad(Path(s.finetune.train_file)))
    if not train:
        raise SquadError(
            f"finetune.train_file={s.finetune.train_file}: none of its {len(unmatched)} questions has an answer that "
            "stands where the file says; nothing to learn from"
        )
    train, dev = subset(train, s.finetune.max_train_questions, s.seed), read_squad(Path(s.finetune.dev_file))
    score(dev, {})  # refuses a file without gold answers before hours are spent
    if unmatched:
        ids = ", ".join(unmatched[:5]) + (" ..." if len(unmatched) > 5 else "")
        log.warning("squad: %d questions left out, answers not where the file says: %s", len(unmatched), ids)
    windows, dev_windows = cut_windows(train, tokenizer, s.finetune), cut_windows(dev, tokenizer, s.finetune)
    log.info(
        "squad: %d questions to learn from (%d windows), %d to answer (%d windows)",
        len(train), len(windows), len(dev), len(dev_windows),
    )  # fmt: skip
    return Squad(tokenizer, train, unmatched, windows, dev, dev_windows)


def run_arm(
    s: Settings, folder: RunFolder, arm: str, place: ArmFolder, squad: Squad, precision: str, stop: StopRequest
) -> None:
    """From first weights to result.json, which is written last."""
    started_s = time.monotonic()
    place.path.mkdir(parents=True, exist_ok=True)
    write_whole(place.settings_file, settings_yaml(s).encode())
    device = run_device(s.hardware)
    repeat_to_the_bit(s.hardware.deterministic, device)
    config = bert_config(s.model, squad.tokenizer.get_vocab_size(), squad.train_windows.pad_id)
    model = build_span_model(config, s.finetune.dropout, s.seed)
    source = folder.weights() if arm == "pretrained" else None
    if source:
        load_encoder(model, source / "model.safetensors")
    model.to(device)  # type: ignore[arg-type]  # transformers' decorator hides the method's own signature
    if precision == "fp64":
        model.double()

    with place.metrics_file.open("w") as file:
        about_training = train_arm(model, squad.train_windows, s, precision, arm, file, stop)
    log.info("squad %s: answering %d questions", arm, len(squad.dev))
    answers = answer(model, squad.dev, squad.dev_windows, s.finetune, s.hardware, precision)
    scores = score(squad.dev, answers)
    write_json(place.predictions_file, answers)
    save_span_model(model, place.path)
    write_whole(place.path / VOCABULARY, (data_folder(s) / VOCABULARY).read_bytes())
    write_json(place.machine_file, machine_record(device, 1) | {"precision": precision})
    result = {"arm": arm, **asdict(scores), **about_training, "seconds": time.monotonic() - started_s} | {
        "train_questions": len(squad.train),
        "train_windows": len(squad.train_windows),
        "unmatched": squad.unmatched,
        "weights": str(source.relative_to(folder.path)) if source else None,
        "precision": precision,
        "dev_sha256": file_sha256(Path(s.finetune.dev_file)),
    }
    write_sums(place.path, ARM_FILES, {RESULT: json_bytes(result)})
    write_json(place.result_file, result)
    log.info("squad %s: F1 %.2f  EM %.2f  (%d questions)  %s", arm, scores.f1, scores.em, len(squad.dev), place.path)


def train_arm(
    model: BertForQuestionAnswering,
    windows: Windows,
    s: Settings,
    precision: str,
    arm: str,
    file: TextIO,
    stop: StopRequest,
) -> dict[str, Any]:
    """All epochs. Returns the steps done, those skipped, and the mean loss of the last tenth."""
    f, device = s.finetune, model.device
    total = f.epochs * math.ceil(len(windows) / f.batch)
    schedule = Schedule(f.lr, round(f.warmup_share * total), total)
    optimizer = torch.optim.AdamW(decay_groups(model, f.weight_decay), lr=f.lr, eps=ADAM_EPS)
    progress = FinetuneLog(s, arm, total, file)
    log.info("squad %s: %d epochs, %d steps of %d windows on %s, %s", arm, f.epochs, total, f.batch, device, precision)
    torch.manual_seed(s.seed)  # dropout; every arm and every start draws the same
    model.train()

    for epoch in range(f.epochs):
        for rows in epoch_batches(windows.lengths, f.batch, s.seed, epoch):
            set_lr(optimizer, schedule(progress.step))
            loss = torch.zeros((), device=device)
            for part in micro_batches(windows.lengths, rows, s.hardware.micro_batch_tokens or MODEST_TOKENS):
                batch = make_batch(windows, part).to(device)
                with autocast(device, precision):
                    start, end = span_logits(model, batch)
                part_loss = span_loss(start, end, batch.answer) / len(rows)
                part_loss.backward()
                loss += part_loss.detach()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            if torch.isfinite(norm):  # else the step counts and is not applied
                optimizer.step()
            optimizer.zero_grad()
            progress.finish_step(loss.item(), norm.item(), schedule(progress.step))
            if stop:
                log.info("stopped as asked; the same command starts this arm again")
                sys.exit(EXIT_STOPPED)
    tail = progress.losses[-max(1, total // 10) :]
    return {"steps": total, "skipped": progress.skipped, "loss": sum(tail) / len(tail)}


class FinetuneLog:
    """Counts steps; tells metrics.jsonl and the console; ends a run that has diverged."""

    def __init__(self, s: Settings, arm: str, total: int, file: TextIO) -> None:
        self.step = self.skipped = self._skipped_in_row = 0
        self.losses: list[float] = []
        self._settings, self._arm, self._total, self._file = s, arm, total, file
        self._started_s = self._told_s = time.monotonic()

    def finish_step(self, loss: float, grad_norm: float, learning_rate: float) -> None:
        """A step whose gradient norm is not finite was not applied."""
        applied = math.isfinite(grad_norm)
        self.step += 1
        self.skipped += not applied
        self._skipped_in_row = 0 if applied else self._skipped_in_row + 1
        self.losses.append(loss)
        now_s, recovery = time.monotonic(), self._settings.recovery
        if self.step % self._settings.run.log_every == 0 or self.step == self._total:
            line = {"step": self.step, "loss": loss, "learning_rate": learning_rate, "grad_norm": grad_norm}
            line |= {"skipped": self.skipped, "seconds": round(now_s - self._started_s, 3)}
            finite = {k: v if math.isfinite(v) else None for k, v in line.items()}  # JSON has no NaN
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()
        if now_s - self._told_s >= CONSOLE_EVERY_S or self.step == self._total:
            self._told_s = now_s
            left_s = (now_s - self._started_s) / self.step * (self._total - self.step)
            log.info(
                "squad %s  step %d/%d  loss %.3f  lr %.2e  %s left",
                self._arm, self.step, self._total, loss, learning_rate, duration(left_s),
            )  # fmt: skip
        if self._skipped_in_row >= recovery.max_skipped_in_row:
            raise TrainingStoppedError(
                f"squad {self._arm}, step {self.step}: {self._skipped_in_row} steps in a row had no finite "
                f"gradient (recovery.max_skipped_in_row); lower finetune.lr={self._settings.finetune.lr}, or try "
                "hardware.precision=fp32"
            )
