"""What a file is by its name, and what to do about files that are no source of text."""

import re
from pathlib import Path

TEXTS = (".txt", ".jsonl")
FORMATS = (*TEXTS, ".parquet")
COMPRESSIONS = ("", ".zst", ".gz", ".bz2")
DUMP = re.compile(r"(\.xml)(?:-p\d+p\d+)?(|\.bz2|\.gz|\.zst)\Z", re.IGNORECASE)  # large ones: .xml-p1p41242.bz2
FEED = "-rss.xml"  # Wikimedia puts a feed beside every file of a dump

WAYS_OUT = {  # ending: what to do about files that are no source
    ".json": "one JSON object on each line is read (.jsonl); a list: data=hf data.dataset=json data.paths=[...]",
    ".md": "Markdown is not read: take its markup off (`pandoc -t plain a.md -o a.txt`), or rename it to .txt",
    ".zip": "archives are not read: unpack it first",
    ".tar": "archives are not read: unpack it first",
    ".7z": "archives are not read: unpack it first (dumps of Wikipedia come as .bz2 too)",
    ".arrow": "a folder of datasets.save_to_disk is read by data=hf data.dataset=THE_FOLDER",
    ".csv": "data=hf data.dataset=csv data.paths=[...] data.text_field=THE_COLUMN reads it",
    ".html": "HTML is not read: convert it to plain text (.txt)",
    ".pdf": "PDF is not read: convert it to plain text (.txt)",
}


def kind_of(name: str, source: str) -> tuple[str, str] | None:
    """(format, compression) by a file's name; None where it is no text of this source."""
    name = name.lower()
    if source == "wikipedia_dump":
        ending = DUMP.search(name)
        return (ending[1], ending[2]) if ending and not name.endswith(FEED) else None
    for compression in COMPRESSIONS:
        for kind in FORMATS:
            if name.endswith(kind + compression) and (kind != ".parquet" or not compression):
                return kind, compression
    return None


def way_out(path: Path, source: str) -> str | None:
    """What to do about a file that is no source of text, by its name."""
    if source != "wikipedia_dump" and kind_of(path.name, "wikipedia_dump"):
        return "a dump of Wikipedia is read by data=wikipedia_dump"
    if source == "wikipedia_dump" and kind_of(path.name, "text"):
        return "plain text is read by data=text"
    endings = [suffix.lower() for suffix in path.suffixes]
    return next((WAYS_OUT[ending] for ending in reversed(endings) if ending in WAYS_OUT), None)
