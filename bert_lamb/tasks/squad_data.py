"""SQuAD v1.1: questions from its JSON, windows of tokens over their contexts, batches of windows.

W windows lie end to end in flat columns of N tokens; each is [CLS] question [SEP] part of a context [SEP].
The windowing follows google-research/bert, run_squad.py; docs/squad.md lists where we depart from it.
"""

import math
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from bert_lamb.settings import FinetuneSettings
from bert_lamb.squadfiles import Question, SquadError

POOL = 32  # batches sorted by length together; more saves little padding and makes batches more alike
MOST_WINDOWS = 1_000_000  # of SQuAD's training file: 88,641 of at most 384 tokens; one of these takes some 5 KB
QUESTIONS, ORDER = 1, 2  # keys of the random draws, so that no two share a stream
JOINERS = "\u200c\u200d"  # without a width, inside words of Persian and Indian languages and between emoji


def missing_files(f: FinetuneSettings) -> list[str]:
    """Question files that are not there, as problems of settings."""
    return [
        f"finetune.{name}={path}: no such file; name a SQuAD v1.1 JSON file (also .zst), or finetune.arms=[] for "
        "pretraining alone"
        for name, path in (("train_file", f.train_file), ("dev_file", f.dev_file))
        if f.arms and not Path(path).is_file()
    ]


@dataclass
class Windows:
    """W windows of N tokens in all; window w is rows starts[w]:starts[w + 1] of the token columns."""

    starts: np.ndarray  # [W + 1] int64
    input_ids: np.ndarray  # [N] int32
    char_from: np.ndarray  # [N] int32, into the question's context; -1 outside the context part
    char_to: np.ndarray  # [N] int32, exclusive
    most_context: np.ndarray  # [N] bool: no other window shows this context token with more text around it
    context_at: np.ndarray  # [W] int64, position of the first context token; everything before has type 0
    question: np.ndarray  # [W] int64, index of the question
    answer: np.ndarray  # [W, 2] int64, positions of the answer's first and last token; 0, 0 ([CLS]): not here
    pad_id: int

    def __len__(self) -> int:
        return len(self.context_at)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each window, special ones included."""
        return np.diff(self.starts)


@dataclass
class SquadBatch:
    """B windows, padded to the T tokens of the longest."""

    input_ids: Tensor  # [B, T] int64
    token_type_ids: Tensor  # [B, T] int64
    attention_mask: Tensor  # [B, T] int64, 0 on padding
    answer: Tensor  # [B, 2] int64
    rows: np.ndarray  # [B], which windows

    def to(self, device: torch.device) -> "SquadBatch":
        names = ("input_ids", "token_type_ids", "attention_mask", "answer")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def trainable(questions: list[Question]) -> tuple[list[Question], list[str]]:
    """The questions to train on, and the ids of those whose answers do not stand where the file says."""
    return [q for q in questions if q.span], [q.id for q in questions if not q.span]


def subset(questions: list[Question], count: int, seed: int) -> list[Question]:
    """`count` of the questions (0: all), drawn by the seed, in the file's order."""
    if not 0 < count < len(questions):
        return questions
    return [questions[i] for i in np.sort(_permutation(len(questions), QUESTIONS, seed)[:count])]


def cut_windows(questions: list[Question], tokenizer: Tokenizer, f: FinetuneSettings) -> Windows:
    """Windows of at most f.max_length tokens over every context, f.stride tokens apart."""
    contexts = list(dict.fromkeys(q.context for q in questions))
    encoded = dict(zip(contexts, tokenizer.encode_batch(contexts, add_special_tokens=False), strict=True))
    ids_of = {context: np.array(e.ids, np.int32) for context, e in encoded.items()}
    offsets_of = {context: with_marks(context, e.offsets) for context, e in encoded.items()}
    asked = tokenizer.encode_batch([q.text for q in questions], add_special_tokens=False)
    cls, sep, pad = (_special(tokenizer, token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    heads = [np.array([cls, *tokens.ids[: f.max_query], sep], np.int32) for tokens in asked]
    rooms = [f.max_length - len(head) - 1 for head in heads]
    count = sum(window_count(len(ids_of[q.context]), r, f.stride) for q, r in zip(questions, rooms, strict=True))
    if count > MOST_WINDOWS:
        raise SquadError(
            f"{len(questions):,} questions give {count:,} windows of {f.max_length} tokens, more than the "
            f"{MOST_WINDOWS:,} that fit into memory: cut long contexts, or split finetune.train_file or dev_file"
        )
    bounds = [window_bounds(len(ids_of[q.context]), r, f.stride) for q, r in zip(questions, rooms, strict=True)]

    owner = np.repeat(np.arange(len(questions)), [len(b) for b in bounds])
    context_at = np.array([len(head) for head in heads], np.int64)[owner]
    shown = np.array([end - begin for b in bounds for begin, end in b], np.int64)  # context tokens of each window
    starts = np.concatenate([[0], np.cumsum(context_at + shown + 1)])
    windows = Windows(
        starts=starts,
        input_ids=np.full(starts[-1], sep, np.int32),
        char_from=np.full(starts[-1], -1, np.int32),
        char_to=np.full(starts[-1], -1, np.int32),
        most_context=np.zeros(starts[-1], bool),
        context_at=context_at,
        question=owner,
        answer=np.zeros((len(owner), 2), np.int64),
        pad_id=pad,
    )
    window = 0
    for question, head, its_bounds in zip(questions, heads, bounds, strict=True):
        ids, offsets = ids_of[question.context], offsets_of[question.context]
        first, last = _answer_tokens(offsets, question.span)
        best = _best_window(its_bounds, len(ids))
        for number, (begin, end) in enumerate(its_bounds):
            at = starts[window] + len(head)
            here = slice(at, at + end - begin)
            windows.input_ids[starts[window] : at] = head
            windows.input_ids[here] = ids[begin:end]
            windows.char_from[here], windows.char_to[here] = offsets[begin:end].T
            windows.most_context[here] = best[begin:end] == number
            if begin <= first and last < end:  # else [CLS]: part of an answer teaches nothing
                windows.answer[window] = first - begin + len(head), last - begin + len(head)
            window += 1
    return windows


def with_marks(context: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """[tokens, 2] int32: offsets whose ends take in the marks that follow (accents, vowel signs, variation selectors).

    The normaliser drops such characters, so the tokenizer's own offsets end before those at the end of a word.
    """
    found = np.array(offsets, np.int32).reshape(-1, 2)
    if not context.isascii():
        next_starts = [*found[1:, 0].tolist(), len(context)]
        for token, (end, limit) in enumerate(zip(found[:, 1].tolist(), next_starts, strict=True)):
            while end < limit and (context[end] in JOINERS or unicodedata.category(context[end])[0] == "M"):
                end += 1
            found[token, 1] = end
    return found


def _special(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise SquadError(f"the vocabulary has no {token}; SQuAD windows need [CLS], [SEP] and [PAD]")
    return number


def window_bounds(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """[from, to) of each window over a context; the last is the first one that reaches the end."""
    bounds = [(0, min(room, tokens))]
    while bounds[-1][1] < tokens:
        begin = bounds[-1][0] + min(room, stride)
        bounds.append((begin, min(begin + room, tokens)))
    return bounds


def window_count(tokens: int, room: int, stride: int) -> int:
    """How many bounds `window_bounds` gives, without making them."""
    return 1 + max(0, math.ceil((tokens - room) / min(room, stride)))


def _best_window(bounds: list[tuple[int, int]], tokens: int) -> np.ndarray:
    """For each context token, the window that shows it best: by its shorter side there."""
    best, shown = np.zeros(tokens, np.int64), np.full(tokens, -1)
    for window, (begin, end) in enumerate(bounds):
        at = np.arange(end - begin)
        side = np.minimum(at, at[::-1])
        better = side > shown[begin:end]  # the first of equals: run_squad.py's bonus for length decides no other way
        best[begin:end][better], shown[begin:end][better] = window, side[better]
    return best


def _answer_tokens(offsets: np.ndarray, span: tuple[int, int] | None) -> tuple[int, int]:
    """First and last token that touch the answer's characters; (-1, -1) where none does."""
    if span is None:
        return -1, -1
    first = int(np.searchsorted(offsets[:, 1], span[0], side="right"))
    last = int(np.searchsorted(offsets[:, 0], span[1], side="left")) - 1
    return (first, last) if first <= last else (-1, -1)


def make_batch(windows: Windows, rows: np.ndarray) -> SquadBatch:
    """The windows of these rows, padded to the longest of them."""
    lengths = windows.lengths[rows]
    at = np.arange(lengths.max())
    real = at < lengths[:, None]
    ids = windows.input_ids[np.where(real, windows.starts[rows][:, None] + at, 0)]
    return SquadBatch(
        input_ids=torch.from_numpy(np.where(real, ids, windows.pad_id).astype(np.int64)),
        token_type_ids=torch.from_numpy((real & (at >= windows.context_at[rows][:, None])).astype(np.int64)),
        attention_mask=torch.from_numpy(real.astype(np.int64)),
        answer=torch.from_numpy(windows.answer[rows]),
        rows=rows,
    )


def epoch_batches(lengths: np.ndarray, batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of each batch of an epoch: shuffled, sorted by length in pools of batches, batches shuffled."""
    order = _permutation(len(lengths), ORDER, seed, epoch, 0)
    pools = [order[i : i + POOL * batch] for i in range(0, len(order), POOL * batch)]
    sorted_rows = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    batches = [rows[i : i + batch] for rows in sorted_rows for i in range(0, len(rows), batch)]
    return [batches[i] for i in _permutation(len(batches), ORDER, seed, epoch, 1)]


def micro_batches(lengths: np.ndarray, rows: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Splits rows, longest first, so that no padded part exceeds `tokens` (but one window always fits)."""
    rows, parts = rows[np.argsort(-lengths[rows], kind="stable")], []
    while len(rows):
        fit = max(1, tokens // int(lengths[rows[0]]))
        parts.append(rows[:fit])
        rows = rows[fit:]
    return parts


def _permutation(size: int, *key: int) -> np.ndarray:
    """A shuffle keyed by integers, of raw generator bits: numpy keeps those the same in every version."""
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(size), kind="stable")
