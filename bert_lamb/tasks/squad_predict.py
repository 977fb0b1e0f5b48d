"""From start and end scores to answers: the best span of every window, the best window of every question."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import BertForQuestionAnswering

from bert_lamb.data.planner import MODEST_TOKENS
from bert_lamb.settings import FinetuneSettings, HardwareSettings
from bert_lamb.squadfiles import Question
from bert_lamb.tasks.squad_data import SquadBatch, Windows, make_batch, micro_batches
from bert_lamb.tasks.squad_model import autocast, span_logits

Logits = Callable[[SquadBatch], tuple[Tensor, Tensor]]  # start and end scores, [B, T] each


def best_spans(
    start_BT: Tensor, end_BT: Tensor, may_start_BT: Tensor, may_end_BT: Tensor, n_best: int, max_answer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Score, first and last position [B] of each window's best span; score -inf where no span is allowed.

    A span joins one of the n_best allowed starts to one of the n_best allowed ends at or after it;
    it has at most max_answer tokens.
    """
    n = min(n_best, start_BT.size(1))
    start_BN, first_BN = start_BT.float().masked_fill(~may_start_BT, -torch.inf).topk(n)
    end_BN, last_BN = end_BT.float().masked_fill(~may_end_BT, -torch.inf).topk(n)
    after_BNN = last_BN[:, None, :] - first_BN[:, :, None]  # tokens from first to last
    score_BNN = start_BN[:, :, None] + end_BN[:, None, :]
    score_BNN = score_BNN.masked_fill((after_BNN < 0) | (after_BNN >= max_answer), -torch.inf)
    score_B, flat_B = score_BNN.flatten(1).max(1)
    first_B = first_BN.gather(1, (flat_B // n)[:, None])[:, 0]
    last_B = last_BN.gather(1, (flat_B % n)[:, None])[:, 0]
    return score_B, first_B, last_B


@torch.inference_mode()
def predict(
    logits: Logits, questions: list[Question], windows: Windows, f: FinetuneSettings, tokens: int
) -> dict[str, str]:
    """The answer to every question, cut from its context; "" where no span was allowed.

    `tokens` bounds a padded batch. A start counts only in the window that shows it with the most context.
    """
    best = np.full(len(questions), -np.inf)
    answers = {q.id: "" for q in questions}
    for rows in micro_batches(windows.lengths, np.arange(len(windows)), tokens):
        batch = make_batch(windows, rows)
        starts, ends = logits(batch)
        real = batch.attention_mask.bool().numpy()
        flat = np.where(real, windows.starts[rows][:, None] + np.arange(real.shape[1]), 0)
        may_start = torch.from_numpy(real & windows.most_context[flat]).to(starts.device)
        may_end = torch.from_numpy(real & (windows.char_to[flat] > 0)).to(ends.device)
        spans = best_spans(starts, ends, may_start, may_end, f.n_best, f.max_answer)
        for row, score, first, last in zip(rows, *(t.tolist() for t in spans), strict=True):
            number = windows.question[row]
            if score > best[number]:  # the earlier window wins a tie
                best[number] = score
                answers[questions[number].id] = span_text(questions[number], windows, row, first, last)
    return answers


def answer(
    model: BertForQuestionAnswering,
    questions: list[Question],
    windows: Windows,
    f: FinetuneSettings,
    hardware: HardwareSettings,
    precision: str,
) -> dict[str, str]:
    """What a fine-tuned model answers in this precision, on the device where it is."""
    model.eval()

    def logits(batch: SquadBatch) -> tuple[Tensor, Tensor]:
        with autocast(model.device, precision):
            return span_logits(model, batch.to(model.device))

    return predict(logits, questions, windows, f, hardware.micro_batch_tokens or MODEST_TOKENS)


def span_text(question: Question, windows: Windows, row: int, first: int, last: int) -> str:
    """The characters of the context from a window's token `first` to its token `last`."""
    at = windows.starts[row]
    return question.context[windows.char_from[at + first] : windows.char_to[at + last]]
