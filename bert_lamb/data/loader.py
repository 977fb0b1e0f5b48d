"""A phase's steps as this rank sees them: denominators of the global batch, then its own micro-batches."""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

import numpy as np

from bert_lamb.batch import Denominators, PackedBatch
from bert_lamb.data.instances import InstanceTables
from bert_lamb.data.masking import MaskRule, masked_counts
from bert_lamb.data.order import GlobalBatch, Order
from bert_lamb.data.packing import SpecialIds, pack, round_up
from bert_lamb.data.planner import Shape, budget_shape, by_length, by_tokens, length_shape, most_sequences

T = TypeVar("T")


@dataclass
class Step:
    """One optimizer step's work for this rank."""

    number: int
    denominators: Denominators  # of the whole global batch, known from lengths alone (law 1)
    micro_batches: int  # of this rank; the same number on every rank
    batches: Iterator[PackedBatch]


@dataclass
class PhaseData:
    """Everything that makes a phase's batches; a pure function of its fields and the step."""

    tables: InstanceTables
    order: Order
    rule: MaskRule
    ids: SpecialIds
    seq_len: int
    micro_batch_tokens: int  # of one forward pass, at most
    padded: bool  # whether attention pads: micro-batches are planned by length, else by tokens
    rank: int
    ranks: int
    static_shapes: bool  # round micro-batches up to a few shapes
    prefetch: int
    pinned: bool  # batches stand in pinned memory, for a GPU

    def steps(self, first: int, last: int, data_offset: int = 0) -> Iterator[Step]:
        """Steps first ... last - 1; their micro-batches are made ahead in a thread."""

        def work() -> Iterator[tuple[Step, PackedBatch]]:
            for number in range(first, last):
                chosen = self.order.step(number, data_offset)
                step, rows_of_batches = self.plan(number, chosen)
                for rows in rows_of_batches:
                    yield step, self.make(chosen, rows)

        with closing(prefetched(work(), self.prefetch)) as made:  # a phase left early must end the thread
            for step, tagged in groupby(made, key=itemgetter(0)):
                step.batches = map(itemgetter(1), tagged)
                yield step

    def plan(self, number: int, chosen: GlobalBatch) -> tuple[Step, list[np.ndarray]]:
        """The step's counts, and which rows of the global batch form each of this rank's micro-batches."""
        lengths = self.tables.rows(chosen.pass_, chosen.instance).spans.lengths
        counts = Denominators(
            masked=int(masked_counts(lengths, self.rule.share).sum()),
            sequences=len(lengths),
            tokens=int(lengths.sum()),
            squared=int((lengths**2).sum()),
        )
        mine = self.cut(lengths)
        return Step(number, counts, len(mine), iter(())), mine

    def cut(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Which rows of a global batch form each of this rank's micro-batches."""
        if self.padded:
            return by_length(lengths, self.ranks, self._most_sequences)[self.rank]
        budget = budget_shape(self.micro_batch_tokens, self.seq_len, self.rule.share)
        return by_tokens(lengths, self.ranks, budget.tokens, budget.sequences)[self.rank]

    @property
    def _most_sequences(self) -> int:
        return most_sequences(self.micro_batch_tokens, self.seq_len)

    def make(self, chosen: GlobalBatch, rows: np.ndarray) -> PackedBatch:
        """One micro-batch."""
        epoch, pass_, instance = chosen.epoch[rows], chosen.pass_[rows], chosen.instance[rows]
        table_rows = self.tables.rows(pass_, instance)
        batch = pack(self.tables, table_rows, epoch, instance, self.ids, self.rule, self.seq_len)
        batch = round_up(batch, self.shape(batch)) if self.static_shapes else batch
        return batch.pinned() if self.pinned else batch

    def shape(self, batch: PackedBatch) -> Shape:
        """The static shape that a micro-batch is rounded up to."""
        if not self.padded:
            return budget_shape(self.micro_batch_tokens, self.seq_len, self.rule.share)
        whole, each = self.order.global_batch, self.ranks * self._most_sequences
        largest = -(-whole // (self.ranks * -(-whole // each)))  # sequences; others have one less
        tokens, masked = len(batch.input_ids), len(batch.masked_positions)
        return length_shape(tokens, masked, batch.max_seqlen, largest, self.seq_len, self.rule.share)


def prefetched(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items, made ahead by one thread; its exception is raised here; closing ends the thread."""
    slots: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(kind: str, value: object) -> None:
        while not stop.is_set():
            try:
                return slots.put((kind, value), timeout=0.2)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=produce, name="loader", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = slots.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        thread.join()
