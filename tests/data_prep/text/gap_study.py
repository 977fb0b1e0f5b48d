"""Sentences of dumps that lack what a template shows, without the table of templates and with it.

    python tests/data_prep/text/gap_study.py /dumps/*.xml.bz2

Without the table every template leaves a gap, but for those of its section [dropped], which no reader of a sentence
needs.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

from prepare_tools import data_settings

from data_prep.reading.sources import source_files
from data_prep.text import template_table as tables
from data_prep.text.document import Gaps, most_frequent
from data_prep.text.records import documents_of
from data_prep.text.sentences import clean, sentences

LISTED = 20  # names of templates


@dataclass
class Found:
    """What one way of cleaning gives of all dumps."""

    articles: int = 0
    sentences: int = 0
    gaps: Gaps = field(default_factory=Gaps)
    seconds: float = 0.0  # of the processor


def cleaned(paths: list[Path], language: str) -> Found:
    """All articles of the dumps, counted."""
    found = Found()
    data = data_settings(source="wikipedia_dump", paths=paths, language=language)
    begun = time.process_time()
    for file in source_files(data):
        for _, _, document in documents_of(file, data):
            found.articles += 1
            found.gaps.add(document.gaps)
            found.sentences += sum(1 for _ in sentences(clean(document.text), language))
    found.seconds = time.process_time() - begun
    return found


def without_texts(table: tables.TemplateTable) -> tables.TemplateTable:
    """The table with the templates that leave nothing to miss."""
    shown = {name: entry for name, entry in table.shown.items() if entry == tables.DROPPED}
    wildcards = [entry for entry in table.wildcards if entry[2] == tables.DROPPED]
    return tables.TemplateTable(table.language, shown, wildcards)


def line(name: str, found: Found) -> str:
    share = found.gaps.sentences / max(1, found.sentences)
    return f"| {name} | {found.sentences:,} | {found.gaps.sentences:,} ({share:.1%}) | {found.gaps.paragraphs:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--language", default="en")
    arguments = parser.parse_args()
    after = cleaned(arguments.paths, arguments.language)
    full = tables.template_table(None, arguments.language)
    emptied = without_texts(full)
    vars(full).update(vars(emptied))  # the cached table, which is what every reader gets
    before = cleaned(arguments.paths, arguments.language)
    print(f"{after.articles:,} articles\n\n| templates | sentences | with a gap | paragraphs with a gap |")
    print("|---|---|---|---|")
    print(line("no table", before))
    print(line("the built-in table", after))
    for name, found in (("no table", before), ("the built-in table", after)):
        listed = ", ".join(f"{n} ({c})" for n, c in most_frequent(found.gaps.templates, LISTED).items())
        print(f"\nGaps, {name}: {listed or 'none'}.")


if __name__ == "__main__":
    main()
