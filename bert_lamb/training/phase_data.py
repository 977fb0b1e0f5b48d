"""The batches of one phase, for one rank: which data is read, and how it is cut."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bert_lamb.data.instances import InstanceTables
from bert_lamb.data.loader import PhaseData, Step
from bert_lamb.data.local_copy import copy_store
from bert_lamb.data.masking import MaskRule
from bert_lamb.data.order import Order
from bert_lamb.data.packing import SpecialIds
from bert_lamb.data.planner import MODEST_TOKENS, known_tokens
from bert_lamb.data.vocabulary import VOCABULARY, continuation_pieces, read_vocabulary
from bert_lamb.model import takes_varlen
from bert_lamb.parallel import Single
from bert_lamb.run import Progress, data_folder
from bert_lamb.settings import Settings


def open_store(s: Settings, manifest: dict[str, Any]) -> Path:
    """Where the prepared data is read; a copy on this node's disk is made by the first of its ranks to come."""
    shared, local = data_folder(s), s.hardware.local_data
    if local is None:
        return shared
    lengths = {s.phase(phase_number).seq_len for phase_number in (1, 2)}
    return copy_store(shared, manifest, lengths, Path(local))


def tokens_are_found(s: Settings, device: torch.device) -> bool:
    """Whether the size of a micro-batch is left to this device's memory (training/fitting.py)."""
    return known_tokens(s.hardware.micro_batch_tokens, device.type == "cuda") is None


def open_phase_data(
    s: Settings,
    store: Path,
    manifest: dict[str, Any],
    strategy: Single,
    phase_number: int,
    split: str,
    activations: torch.dtype,
    static_shapes: bool,
) -> PhaseData:
    """The batches of a phase for this rank, of a modest size where the device's memory is to decide it.

    `activations` is the type that the model computes in; `static_shapes` rounds micro-batches up for a compiler.
    """
    phase, ids, device = s.phase(phase_number), SpecialIds.of(manifest), strategy.device
    tables = InstanceTables(store, manifest, split, phase.seq_len)
    continuation = continuation_pieces(read_vocabulary(store / VOCABULARY)) if s.masking.whole_word else None
    size = manifest["tokenizer"]["size"]
    return PhaseData(
        tables=tables,
        order=Order(s.seed, phase_number, tables.sizes, phase.global_batch),
        rule=MaskRule(s.seed, phase_number, s.masking.share, ids.mask, size, continuation),
        ids=ids,
        seq_len=phase.seq_len,
        micro_batch_tokens=known_tokens(s.hardware.micro_batch_tokens, device.type == "cuda") or MODEST_TOKENS,
        padded=not takes_varlen(device, activations),
        rank=strategy.rank,
        ranks=strategy.ranks,
        static_shapes=static_shapes,
        prefetch=s.hardware.prefetch,
        pinned=device.type == "cuda",
    )


def steps_left(data: PhaseData, progress: Progress, last: int) -> Iterator[Step]:
    """The phase's steps from where it stands to `last`; after a roll-back, from where it put the progress."""
    while progress.step < last:
        for step in data.steps(progress.step, last, progress.data_offset):
            yield step
            if progress.step != step.number + 1:
                break
