"""What training will see: `python -m data_prep.inspect inspect.phase=1 inspect.sequence=42 inspect.epoch=3`.

Prints a sequence decoded, its mask at an epoch, and the batch of a step, made by the same code as training's; with
inspect.document=ID or a number the way of one document, from raw text to a masked sequence.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bert_lamb.data.instances import InstanceTables, Rows
from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.masking import MaskRule, mask, masked_counts
from bert_lamb.data.order import Order
from bert_lamb.data.packing import SpecialIds, lay_out
from bert_lamb.data.store import Spans, documents_name, read_documents
from bert_lamb.data.vocabulary import (
    CONTINUATION,
    VOCABULARY,
    continuation_pieces,
    load_tokenizer,
    read_vocabulary,
)
from bert_lamb.errors import UserError
from bert_lamb.settings import Settings, command
from bert_lamb.words import counted
from data_prep.shards.encoder import Encoder
from data_prep.store.document_way import SENTENCES, as_stored, find_document, more, of_raw, sequences_of

SHOWN = 8  # sequences of a step's batch
BEGINNING = 60  # characters of each of them


class InspectError(UserError):
    """Nothing there to be shown; the message names the range."""


@command
def main(s: Settings) -> None:
    """Prints the sequence and the step that the settings name."""
    view = View(s)
    print("\n".join(view.lines() if s.inspect.document is None else view.document(s.inspect.document)))


class View:
    """One phase of a token store, as training reads it."""

    def __init__(self, s: Settings) -> None:
        self.s, self.number = s, s.inspect.phase
        self.folder = Path(s.data.root) / s.data.name
        self.manifest = read_manifest(self.folder)
        self.tokenizer = load_tokenizer(self.folder, self.manifest)  # refuses a vocabulary that is not the store's
        self.vocabulary = read_vocabulary(self.folder / VOCABULARY)
        self.phase = s.phase(self.number)
        self.seq_len = self.phase.seq_len
        if str(self.seq_len) not in self.manifest["instances"]["train"]:
            lengths = ", ".join(self.manifest["instances"]["train"])
            raise InspectError(f"phase{self.number}.seq_len={self.seq_len}: {self.folder} has only lengths {lengths}")
        self.tables = InstanceTables(self.folder, self.manifest, "train", self.seq_len)
        self.special = SpecialIds.of(self.manifest)
        pieces = continuation_pieces(self.vocabulary) if s.masking.whole_word else None
        size = len(self.vocabulary)
        self.rule = MaskRule(s.seed, self.number, s.masking.share, self.special.mask, size, pieces)

    def lines(self) -> Iterator[str]:
        yield from self.sequence(self.s.inspect.epoch, self.s.inspect.sequence)
        yield ""
        yield from self.step(self.s.inspect.step)

    def document(self, wanted: str) -> Iterator[str]:
        """A document's way: raw, clean, sentences (from the source files), tokens, its first sequence, masked."""
        found = find_document(self.folder, list(self.manifest["files"]), wanted)
        if found is None:
            count = self.manifest["counts"]["documents"]
            raise InspectError(
                f"inspect.document={wanted}: {self.folder} has no document of this id; choose an id that "
                f"`make inspect` shows, or a number from 0 to {count - 1}"
            )
        data = as_stored(self.s.data, self.manifest["settings"])
        yield f"document {found.id}, {found.split}, shard {found.shard}"
        yield from of_raw(data, Encoder(self.tokenizer, self.manifest["tokenizer"]["lower_case"]), found)
        yield f"tokens ({found.place[1] - found.place[0]:,} in {counted(len(found.sentences), 'sentence')}):"
        for i, ids in enumerate(found.sentences[:SENTENCES]):
            yield f"  {i}: {' '.join(self.vocabulary[token] for token in ids)}"
        yield from more(len(found.sentences) - SENTENCES, "sentences")
        if found.split != "train":
            yield "held out: it is in no training sequence"
            return
        pass_ = self.s.inspect.epoch % self.tables.passes
        first, second = sequences_of(self.tables, found, pass_)
        where = f"sequences of length {self.seq_len} in pass {pass_}"
        yield f"{where}: it is A in {len(first)}, and random B in {len(second)}"
        if first or second:
            yield from self.sequence(self.s.inspect.epoch, (first or second)[0])

    def sequence(self, epoch: int, instance: int) -> Iterator[str]:
        """One sequence: where it is from, its segments, its mask."""
        pass_ = epoch % self.tables.passes
        size = self.tables.sizes[pass_]
        if instance >= size:
            raise InspectError(
                f"inspect.sequence={instance}: pass {pass_} of phase {self.number} has {size} sequences; "
                f"choose 0 to {size - 1}"
            )
        rows = self.tables.rows(np.array([pass_]), np.array([instance]))
        spans, shard = rows.spans, int(rows.shard[0])
        kind = "B follows A" if spans.is_next[0] else "B is random"
        yield (
            f"phase {self.number}, length {self.seq_len}, epoch {epoch} "
            f"(pass {pass_} of {self.tables.passes}), sequence {instance} of {size}, "
            f"{spans.lengths[0]} tokens, {kind}"
        )
        for name, start, length in (
            ("A", spans.a_start[0], spans.a_length[0]),
            ("B", spans.b_start[0], spans.b_length[0]),
        ):
            ids = self.tables.tokens(shard)[start : start + length]
            where = f"shard {self.tables.shards[shard]}, tokens {start} to {start + length}"
            yield f"  {name}: {self.document_at(shard, int(start))}, {where}"
            yield f"     {self.text(ids)}"
        yield from self.masked(rows, epoch, instance)

    def masked(self, rows: Rows, epoch: int, instance: int) -> Iterator[str]:
        """The sequence as the model sees it: {shown|label} where something is to be predicted."""
        ids, _, _, borders, special = lay_out(self.tables, rows, self.special)
        seen, places, labels = mask(self.rule, ids, borders, special, np.array([epoch]), np.array([instance]))
        words = [self.vocabulary[i] for i in seen]
        for place, label in zip(places, labels, strict=True):
            words[place] = f"{{{words[place]}|{self.vocabulary[label]}}}"
        yield f"  masked, {len(places)} of {len(ids)} tokens, shown as {{what the model sees|what it must predict}}:"
        yield f"     {joined(words)}"

    def step(self, number: int) -> Iterator[str]:
        """The global batch of a step: what it holds, and the beginning of its first sequences."""
        chosen = Order(self.s.seed, self.number, self.tables.sizes, self.phase.global_batch).step(number)
        spans = self.tables.rows(chosen.pass_, chosen.instance).spans
        lengths = spans.lengths
        epochs = ", ".join(str(e) for e in np.unique(chosen.epoch))
        yield (
            f"step {number} of phase {self.number}: {counted(len(lengths), 'sequence')} of epoch {epochs}, "
            f"{lengths.sum()} tokens ({lengths.min()} to {lengths.max()}), "
            f"{masked_counts(lengths, self.rule.share).sum()} masked, "
            f"{np.mean(spans.is_next == 0):.1%} with a random B"
        )
        for row in range(min(SHOWN, len(lengths))):
            yield self.beginning(int(chosen.epoch[row]), int(chosen.pass_[row]), int(chosen.instance[row]))
        if len(lengths) > SHOWN:
            yield f"  ... and {len(lengths) - SHOWN} more"

    def beginning(self, epoch: int, pass_: int, instance: int) -> str:
        rows = self.tables.rows(np.array([pass_]), np.array([instance]))
        spans: Spans = rows.spans
        ids = self.tables.tokens(int(rows.shard[0]))[spans.a_start[0] : spans.a_start[0] + spans.a_length[0]]
        text = self.text(ids)
        text = text if len(text) <= BEGINNING else text[:BEGINNING] + "..."
        return f"  epoch {epoch}, sequence {instance:>8}, {spans.lengths[0]:>4} tokens: {text}"

    def text(self, ids: np.ndarray) -> str:
        return joined([self.vocabulary[i] for i in ids])

    def document_at(self, shard: int, token: int) -> str:
        """The document that owns a token: its id, and its title where it has one."""
        documents: Any = read_documents(self.folder / "train" / documents_name(self.tables.shards[shard]))
        number = int(np.searchsorted(documents.token_starts, token, side="right")) - 1
        title = f" ({documents.titles[number]})" if documents.titles and documents.titles[number] else ""
        return documents.ids[number] + title


def joined(words: list[str]) -> str:
    """Pieces as words again."""
    text = ""
    for word in words:
        continues = word.startswith(CONTINUATION) and len(word) > len(CONTINUATION)
        text += word[len(CONTINUATION) :] if continues and text else f" {word}" if text else word
    return text


if __name__ == "__main__":
    main()
