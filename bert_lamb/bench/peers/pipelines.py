"""What `make bench-data` sets beside prepare, each a process: `python -m bert_lamb.bench.peers.pipelines NAME ...`.

datasets: a pipeline of datasets.map as it is usually written, which stores padded sequences with their masks, drawn
anew so many times. tokenizers, splitter: these alone over the same paragraphs. pages: a dump's pages to text.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import sentencex

from bert_lamb.bench.own_text import texts
from bert_lamb.data.vocabulary import make_tokenizer, read_vocabulary
from bert_lamb.jsonfiles import parse_json

SHORT, MASKED, AS_MASK, AS_RANDOM = 0.1, 0.15, 0.8, 0.9  # google-research/bert
BATCH = 100  # documents that a map sees at a time; a random B is one of theirs
PARAGRAPHS = 1000  # that the tokenizer sees at a time


class Pipeline:
    """The function that datasets.map is given."""

    def __init__(self, vocabulary: Path, seq_len: int, times: int) -> None:
        entries = read_vocabulary(vocabulary)
        self.tokenizer = make_tokenizer(entries, lower_case=True)
        self.pad, self.cls, self.sep, self.mask = (entries.index(t) for t in ("[PAD]", "[CLS]", "[SEP]", "[MASK]"))
        self.entries, self.seq_len, self.times = len(entries), seq_len, times
        self.rng = random.Random(0)

    def __call__(self, batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        """Texts to sequences, `times` over."""
        documents = []
        for text in batch["text"]:
            sentences = [s for line in text.split("\n") if line.strip() for s in sentencex.segment("en", line.strip())]
            encoded = [e.ids for e in self.tokenizer.encode_batch(sentences, add_special_tokens=False)]
            documents.append([ids for ids in encoded if ids])
        rows = [
            self.row(a, b, is_random)
            for _ in range(self.times)
            for number in range(len(documents))
            for a, b, is_random in self.pairs(documents, number)
        ]
        names = ("input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence_label")
        return {name: [row[i] for row in rows] for i, name in enumerate(names)}

    def pairs(self, documents: list[list[list[int]]], number: int) -> Iterator[tuple[list[int], list[int], int]]:
        """(A, B, whether B is random) by BERT's rule, on lists."""
        rng, most = self.rng, self.seq_len - 3
        target = rng.randint(2, most) if rng.random() < SHORT else most
        document, chunk, i = documents[number], [], 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                border = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
                a, b, is_random = [*chain(*chunk[:border])], [*chain(*chunk[border:])], 0
                others = [d for k, d in enumerate(documents) if k != number and d]
                if others and (len(chunk) == 1 or rng.random() < 0.5):
                    other, b, is_random = rng.choice(others), [], 1
                    for sentence in other[rng.randrange(len(other)) :]:
                        b = b + sentence
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - border
                while len(a) + len(b) > most:
                    longer = a if len(a) > len(b) else b
                    longer.pop(0 if rng.random() < 0.5 else -1)
                if b:
                    yield a, b, is_random
                chunk = []
            i += 1

    def row(self, a: list[int], b: list[int], is_random: int) -> tuple[list[int], list[int], list[int], list[int], int]:
        """One padded sequence with its mask."""
        rng = self.rng
        ids = [self.cls, *a, self.sep, *b, self.sep]
        labels = [-100] * self.seq_len
        places = [i for i in range(len(ids)) if ids[i] not in (self.cls, self.sep)]
        rng.shuffle(places)
        for i in places[: max(1, round(MASKED * len(ids)))]:
            labels[i], draw = ids[i], rng.random()
            ids[i] = self.mask if draw < AS_MASK else rng.randrange(self.entries) if draw < AS_RANDOM else ids[i]
        rest = self.seq_len - len(ids)
        types = [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * rest
        return ids + [self.pad] * rest, [1] * len(ids) + [0] * rest, types, labels, is_random


def map_datasets(text: str, vocabulary: str, out: str, times: str, *seq_lens: str) -> None:
    """Writes a dataset a length below `out`."""
    from datasets import disable_progress_bars, load_dataset  # only here: the other peers are not to pay for it

    disable_progress_bars()
    loaded = load_dataset("json", data_files=text, split="train", cache_dir=f"{out}/cache")
    for seq_len in seq_lens:
        rows = Pipeline(Path(vocabulary), int(seq_len), int(times))
        made = loaded.map(rows, batched=True, batch_size=BATCH, remove_columns=loaded.column_names)
        made.save_to_disk(f"{out}/seq{seq_len}")


def paragraphs(text: str) -> Iterator[str]:
    """The lines of the texts of a file of JSON lines."""
    with Path(text).open() as file:
        for line in file:
            yield from (p for p in parse_json(line)["text"].split("\n") if p.strip())


def only_tokenizers(text: str, vocabulary: str) -> None:
    """The library on whole paragraphs, in batches, as fast as it is on one core."""
    tokenizer = make_tokenizer(read_vocabulary(Path(vocabulary)), lower_case=True)
    waiting: list[str] = []
    for paragraph in paragraphs(text):
        waiting.append(paragraph)
        if len(waiting) == PARAGRAPHS:
            tokenizer.encode_batch_fast(waiting, add_special_tokens=False)
            waiting = []
    tokenizer.encode_batch_fast(waiting, add_special_tokens=False)


def only_splitter(text: str) -> None:
    """The sentence splitter on the same paragraphs."""
    for paragraph in paragraphs(text):
        for _ in sentencex.segment("en", paragraph):
            pass


def only_reading(text: str) -> None:
    """What the two above pay for the file itself."""
    for _ in paragraphs(text):
        pass


def only_pages(*dumps: str) -> None:
    """A dump's pages to running text; prints the share that mwparserfromhell took of it."""
    from data_prep.text import wikitext  # only here: the other peers need no parser

    parse, inside_s = wikitext.mwparserfromhell.parse, 0.0

    def timed(*given: Any, **more: Any) -> Any:
        nonlocal inside_s
        started_s = time.process_time()
        try:
            return parse(*given, **more)
        finally:
            inside_s += time.process_time() - started_s

    wikitext.mwparserfromhell.parse = timed
    started_s = time.process_time()
    count = sum(1 for _ in texts([Path(dump) for dump in dumps], "wikipedia_dump"))
    print(json.dumps({"documents": count, "parser_share": inside_s / (time.process_time() - started_s)}))


PEERS: dict[str, Callable[..., None]] = {
    "datasets": map_datasets,
    "tokenizers": only_tokenizers,
    "splitter": only_splitter,
    "reading": only_reading,
    "pages": only_pages,
}

if __name__ == "__main__":
    os.environ["RAYON_NUM_THREADS"] = "1"
    PEERS[sys.argv[1]](*sys.argv[2:])
