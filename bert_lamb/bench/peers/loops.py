"""What people train BERT with today, on the same batches: transformers' Trainer, and loops written by hand.

All peers take padded batches, since that is what they have; AdamW (torch's fused one), gradients clipped to norm 1.
"""

import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForPreTraining, Trainer, TrainerCallback, TrainingArguments

from bert_lamb.batch import IGNORED, PackedBatch

Arrays = dict[str, Tensor]  # what BertForPreTraining takes, [M, S] each


def padded(batch: PackedBatch, width: int | None = None) -> Arrays:
    """A packed batch as [M, S] arrays; labels are IGNORED wherever nothing is masked."""
    lengths = batch.cu_seqlens.diff().tolist()
    width = width or max(lengths)
    arrays = {
        "input_ids": torch.zeros(len(lengths), width, dtype=torch.int64),
        "token_type_ids": torch.zeros(len(lengths), width, dtype=torch.int64),
        "attention_mask": torch.zeros(len(lengths), width, dtype=torch.int64),
        "labels": torch.full((len(lengths), width), IGNORED),
    }
    labels = torch.full_like(batch.input_ids, IGNORED)
    real = batch.masked_labels != IGNORED
    labels[batch.masked_positions[real]] = batch.masked_labels[real]
    for row, (start, length) in enumerate(zip(batch.cu_seqlens.tolist(), lengths, strict=False)):
        here = slice(start, start + length)
        arrays["input_ids"][row, :length] = batch.input_ids[here]
        arrays["token_type_ids"][row, :length] = batch.token_type_ids[here]
        arrays["attention_mask"][row, :length] = 1
        arrays["labels"][row, :length] = labels[here]
    return arrays | {"next_sentence_label": batch.next_labels}


def plain_bert(config: BertConfig, seed: int, device: torch.device) -> BertForPreTraining:
    """transformers' BERT with the attention that its users get, weights drawn from the seed."""
    torch.manual_seed(seed)
    config = BertConfig.from_dict(config.to_dict())
    config._attn_implementation = "sdpa"
    return BertForPreTraining(config).to(device).train()  # type: ignore[arg-type]


class HandLoop:
    """A training loop as one writes it today: autocast, sdpa, fused AdamW; perhaps compiled."""

    def __init__(
        self, config: BertConfig, device: torch.device, *, seed: int = 0, bf16: bool = True, compiled: bool = False,
        masked_head: bool = False, lr: float = 1e-4,
    ) -> None:  # fmt: skip
        self.bert, self._device = plain_bert(config, seed, device), device
        self.optimizer = torch.optim.AdamW(self.bert.parameters(), lr=lr, weight_decay=0.01, fused=True)
        self._bf16, self.fixed_width = bf16, compiled
        loss = masked_loss if masked_head else full_loss
        self._loss = torch.compile(loss, dynamic=False) if compiled else loss
        self.losses: list[Tensor] = []

    def run(self, batches: list[Arrays]) -> list[float]:
        """Seconds of each step."""
        seconds = []
        for arrays in batches:
            started_s = time.perf_counter()
            moved = {name: value.to(self._device, non_blocking=True) for name, value in arrays.items()}
            with torch.autocast(self._device.type, torch.bfloat16) if self._bf16 else nullcontext():
                loss = self._loss(self.bert, moved)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.bert.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append(loss.detach())
            synchronize(self._device)
            seconds.append(time.perf_counter() - started_s)
        return seconds


def full_loss(bert: BertForPreTraining, arrays: Arrays) -> Tensor:
    """transformers' own: logits of every position."""
    return bert(**arrays).loss


def masked_loss(bert: BertForPreTraining, arrays: Arrays) -> Tensor:
    """The same loss with logits of masked positions only; their number is rounded up to one shape, for a compiler."""
    inputs = {name: arrays[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    out = bert.bert(**inputs)
    labels = arrays["labels"].flatten()
    count = max(1, round(0.15 * labels.numel()))
    where = torch.topk((labels != IGNORED).to(torch.int32), count).indices
    logits = bert.cls.predictions(out.last_hidden_state.flatten(0, 1).index_select(0, where))
    mlm = F.cross_entropy(logits.float(), labels[where], ignore_index=IGNORED)
    return mlm + F.cross_entropy(bert.cls.seq_relationship(out.pooler_output).float(), arrays["next_sentence_label"])


class TrainerLoop:
    """transformers' Trainer with its own loop and optimizer, fed with ready batches."""

    fixed_width = False

    def __init__(self, config: BertConfig, device: torch.device, folder: str, *, bf16: bool) -> None:
        self._bert = plain_bert(config, 0, device)
        self._arguments: dict[str, Any] = dict(
            output_dir=folder, per_device_train_batch_size=1, bf16=bf16, use_cpu=device.type == "cpu", report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
            learning_rate=1e-4, weight_decay=0.01, lr_scheduler_type="constant", optim="adamw_torch_fused",
            max_grad_norm=1.0, dataloader_pin_memory=False,
        )  # fmt: skip
        self._device = device

    def run(self, batches: list[Arrays]) -> list[float]:
        """Seconds of each step."""
        clock = _Clock(self._device)
        arguments = TrainingArguments(**self._arguments, max_steps=len(batches))
        data: Any = _InOrder(batches)
        Trainer(self._bert, arguments, data_collator=_only, train_dataset=data, callbacks=[clock]).train()
        return clock.seconds


class _InOrder(torch.utils.data.IterableDataset):
    def __init__(self, batches: list[Arrays]) -> None:
        self._batches = batches

    def __iter__(self):
        return iter(self._batches)


def _only(examples: list[Arrays]) -> Arrays:
    return examples[0]


class _Clock(TrainerCallback):
    def __init__(self, device: torch.device) -> None:
        self.seconds: list[float] = []
        self._device, self._started_s = device, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started_s = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        synchronize(self._device)
        self.seconds.append(time.perf_counter() - self._started_s)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
