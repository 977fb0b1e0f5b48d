"""A page of results that several commands write: each owns the section under its heading."""

import re
import statistics
import sys
from pathlib import Path

import torch

from bert_lamb.machine import machine_record, measured_on
from bert_lamb.words import counted


def put_section(page: Path, title: str, heading: str, text: str) -> None:
    """Writes `## heading` and its text into a page: in the place of that section, else at the end."""
    content = page.read_text() if page.is_file() else f"# {title}\n"
    found = re.search(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", content, re.MULTILINE | re.DOTALL)
    before, after = (content[: found.start()], content[found.end() :]) if found else (content, "")
    section = f"{before.rstrip()}\n\n## {heading}\n\n{text.strip()}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{section}\n{after}" if after else section)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; one value is all three."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return low, median, high


def how_measured(target: str) -> str:
    """The command with this process's arguments (folders left out), its commit and its machine."""
    arguments = re.sub(r"(?<=[ =\[,])/(?:[^\s/,]+/)+", "", " ".join(["", *sys.argv[1:]])).strip()
    machine = machine_record(torch.device("cpu"), 1)
    command = f"make {target} ARGS='{arguments}'" if arguments else f"make {target}"
    return f"`{command}`, {measured_on(machine)}, {counted(machine['cores'], 'core')}"
