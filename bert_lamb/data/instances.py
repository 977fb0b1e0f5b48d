"""Instance tables of a token store, read as if all shards of a pass were one table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bert_lamb.data.store import Spans, StoreError, documents_name, read_documents, read_spans, spans_name


@dataclass
class Rows:
    """Rows gathered from an instance table."""

    shard: np.ndarray  # [M] int64, index into InstanceTables.shards
    spans: Spans  # columns [M]


class InstanceTables:
    """The instances of one split and length, over all passes and shards; everything stays memory-mapped."""

    def __init__(self, folder: Path, manifest: dict[str, Any], split: str, seq_len: int) -> None:
        self._folder, self._seq_len = folder / split, seq_len
        self.passes = len(manifest["instances"][split][str(seq_len)])
        numbers = range(1 + max((int(n[-11:-6]) for n in manifest["files"] if f"{split}/documents" in n), default=-1))
        self.shards = [i for i in numbers if f"{split}/{documents_name(i)}" in manifest["files"]]
        self._tables = [
            [read_spans(self._folder / spans_name(seq_len, p, shard)) for shard in self.shards]
            for p in range(self.passes)
        ]
        self._ends = [np.cumsum([len(t) for t in tables]) for tables in self._tables]
        self.sizes = [int(ends[-1]) if len(ends) else 0 for ends in self._ends]
        self._tokens: dict[int, np.ndarray] = {}

    def rows(self, pass_: np.ndarray, instance: np.ndarray) -> Rows:
        """The rows of instances, each of its own pass; [M] each."""
        shard = np.empty(len(instance), np.int64)
        columns = {name: np.empty(len(instance), np.int64) for name in Spans.__annotations__}
        for p in np.unique(pass_):
            of_pass = np.flatnonzero(pass_ == p)
            ends = self._ends[p]
            shard[of_pass] = np.searchsorted(ends, instance[of_pass], side="right")
            for index in np.unique(shard[of_pass]):
                here = of_pass[shard[of_pass] == index]
                table = self._tables[p][index]
                row = instance[here] - (ends[index] - len(table))
                for name, column in columns.items():
                    column[here] = getattr(table, name)[row]
        spans = Spans(**columns)
        if (wrong := (spans.lengths > self._seq_len) | (spans.is_next > 1)).any():
            raise self.impossible(int(shard[wrong][0]), f"is longer than {self._seq_len} tokens, or has no answer")
        return Rows(shard, spans)

    def impossible(self, shard: int, problem: str) -> StoreError:
        """What is told of an instance that no store of ours holds."""
        return StoreError(
            f"{self._folder}: an instance of shard {self.shards[shard]} {problem}: the store is damaged, or not by "
            "`make prepare`; prepare it again"
        )

    def of_shard(self, pass_: int, shard: int) -> tuple[int, Spans]:
        """The number of a shard's first instance in a pass, and the shard's table; `shard` indexes `shards`."""
        table = self._tables[pass_][shard]
        return int(self._ends[pass_][shard]) - len(table), table

    def tokens(self, shard: int) -> np.ndarray:
        """All tokens of a shard, mapped on first use."""
        if shard not in self._tokens:
            self._tokens[shard] = read_documents(self._folder / documents_name(self.shards[shard])).tokens
        return self._tokens[shard]
