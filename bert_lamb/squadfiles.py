"""SQuAD v1.1 files, checked field by field: a file is its questions, or one message with the place that is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from bert_lamb.errors import UserError
from bert_lamb.jsonfiles import parse_json

LARGEST = 1 << 30  # bytes of JSON; SQuAD's own training file has 30 MB
ALWAYS_UNPACKED, MOST_TIMES = 1 << 26, 50  # bytes of JSON from any .zst, and times its size; SQuAD packs to an eighth
READ_AT_ONCE = 1 << 20  # bytes
KINDS = {
    dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a broken number",
    bool: "true or false",
}  # fmt: skip
WAY_OUT = "name a SQuAD v1.1 JSON file (also .zst)"


class SquadError(UserError):
    """A file that is not SQuAD v1.1, or predictions that do not belong to it."""


@dataclass
class Question:
    id: str
    text: str
    context: str
    answers: list[str]  # every gold answer, as written
    span: tuple[int, int] | None  # characters [from, to) of the first answer that stands there; None: none does


def read_squad(path: Path) -> list[Question]:
    """All questions of a SQuAD v1.1 JSON file, or of the same behind zstd."""
    try:
        questions = [
            _question(entry, place, _text(paragraph, "context", at))
            for paragraph, at in _paragraphs(parse_json(squad_bytes(path)))
            for entry, place in _entries(paragraph, "qas", at)
        ]
    except OSError as error:
        raise SquadError(f"{path} cannot be read: {error.strerror}; see finetune.train_file and dev_file") from error
    except ValueError as error:
        raise SquadError(f"{path} is not SQuAD v1.1 JSON: {error}; {WAY_OUT}") from error
    if not questions:
        raise SquadError(f"{path} holds no question; {WAY_OUT}")
    if len({q.id for q in questions}) < len(questions):
        raise SquadError(f"{path} names a question id twice; predictions are kept by id")
    return questions


def read_contexts(path: Path) -> list[str]:
    """The paragraphs of such a file; OSError or ValueError where it is none."""
    return [_text(paragraph, "context", at) for paragraph, at in _paragraphs(parse_json(squad_bytes(path)))]


def squad_bytes(path: Path) -> bytes:
    """The JSON of such a file, packed or not; OSError or ValueError where it cannot be had, or is far too large."""
    packed, size = path.suffix == ".zst", path.stat().st_size
    most = min(LARGEST, max(ALWAYS_UNPACKED, MOST_TIMES * size)) if packed else LARGEST
    parts, read = [], 0 if packed else size
    if read > most:
        raise ValueError(f"it holds more than {most >> 20} MiB, far more than any such file")
    with path.open("rb") as file:
        unpacked = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) if packed else file
        try:
            for part in iter(lambda: unpacked.read(READ_AT_ONCE), b""):
                read += len(part) if packed else 0
                if read > most:
                    raise ValueError(f"it holds more than {most >> 20} MiB, far more than any such file of its size")
                parts.append(part)
        except zstandard.ZstdError as error:
            raise ValueError(f"broken zstd ({error})") from error
    return b"".join(parts)


def _paragraphs(document: Any) -> Iterator[tuple[Any, str]]:
    for article, place in _entries(document, "data", ""):
        yield from _entries(article, "paragraphs", place)


def _entries(holder: Any, key: str, place: str) -> Iterator[tuple[Any, str]]:
    """What stands in a list of an object, each with its place in words."""
    for number, entry in enumerate(_field(holder, key, place, list)):
        yield entry, f"{place}{'.' if place else ''}{key}[{number}]"


def _question(entry: Any, place: str, context: str) -> Question:
    span, answers = None, []
    for answer, at in _entries(entry, "answers", place):
        start, text = _field(answer, "answer_start", at, int), _text(answer, "text", at)
        answers.append(text)
        if span is None and text.strip() and start >= 0 and context[start : start + len(text)] == text:
            span = (start, start + len(text))
    own_id = _field(entry, "id", place, (str, int))
    return Question(str(own_id), _text(entry, "question", place), context, answers, span)


def _text(holder: Any, key: str, place: str) -> str:
    text = _field(holder, key, place, str)
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise ValueError(f"{place}.{key} is not UTF-8") from error
    return text


def _field(holder: Any, key: str, place: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(holder, dict):
        raise ValueError(f"{place or 'the whole'} is {_kind(holder)}, not an object")
    if key not in holder:
        raise ValueError(f"{place or 'the whole'} has no {key!r}")
    if not isinstance(holder[key], kind) or isinstance(holder[key], bool):
        wanted = KINDS[kind[0] if isinstance(kind, tuple) else kind]
        raise ValueError(f"{place}{'.' if place else ''}{key} is {_kind(holder[key])}, not {wanted}")
    return holder[key]


def _kind(value: Any) -> str:
    return KINDS.get(type(value), "null")
