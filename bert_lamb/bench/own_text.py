"""Text for measurements: the documents of files that the command line names, in any form that prepare reads."""

from collections.abc import Iterator
from pathlib import Path

from bert_lamb.errors import UserError
from bert_lamb.settings import compose_settings
from data_prep.reading.sources import source_files
from data_prep.text.records import documents_of


class TextError(UserError):
    """Too little text was given."""


def texts(paths: list[Path], source: str = "text") -> Iterator[str]:
    """The documents of these files, one after the other; source: as data.source."""
    named = ",".join(f'"{path.absolute()}"' for path in paths)
    data = compose_settings([f"data={source}", f"data.paths=[{named}]"]).data
    for file in source_files(data):
        yield from (document.text for _, _, document in documents_of(file, data))


def take(source: Iterator[str], size: float) -> list[str]:
    """The next documents, until they hold so many bytes; TextError where the text ends before."""
    taken, total = [], 0
    while total < size:
        text = next(source, None)
        if text is None:
            raise TextError(f"the given text ends {size - total:.0f} bytes too early: give more of it")
        taken.append(text)
        total += len(text.encode())
    return taken
