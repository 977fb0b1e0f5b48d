"""`make bench-data ARGS='--text /my/texts --vocab /my/vocab.txt'`: prepare beside peers on the same text.

Each contender is a process of its own on one core, start included; they take turns, and medians count. Time is that of
the processor (user and system), which a busy machine disturbs less than the clock. Writes a section of
docs/results/data.md.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bert_lamb.bench import measured
from bert_lamb.bench.own_text import take, texts
from bert_lamb.bench.pages import how_measured, put_section
from bert_lamb.data.manifest import read_manifest
from bert_lamb.errors import UserError
from bert_lamb.jsonfiles import parse_object
from bert_lamb.words import counted

OURS, PIPELINE = "prepare", "datasets.map, padded and masked"
DUMP, PAGES = "prepare, from a dump", "a dump's pages to text alone"
PEERS = "bert_lamb.bench.peers.pipelines"
LENGTHS = (128, 512)
CORPUS_GB = 20  # English Wikipedia and BookCorpus: 3.3 G words (Devlin et al. 2018) of some 6 bytes
CORES = (2, 16, 64)


class ContenderError(UserError):
    """A contender failed, or did not say what it was to say."""


def is_about_pages(value: dict[str, Any]) -> bool:
    """Whether an object is what the contender that reads a dump's pages prints last."""
    return all(isinstance(value.get(key), int | float) for key in ("documents", "parser_share"))


@dataclass
class Contender:
    """One row of the table."""

    name: str
    command: list[str]
    out: Path | None = None  # what it writes, removed before each turn
    cpu_s: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    written: int = 0  # bytes
    said: list[str] = field(default_factory=list)  # of its last turn

    @property
    def seconds(self) -> float:
        return statistics.median(self.cpu_s)

    def turn(self) -> None:
        """Runs once. ContenderError with its last words if it fails."""
        if self.out:
            shutil.rmtree(self.out, ignore_errors=True)
        env = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-S", measured.__file__, sys.executable, "-m", *self.command]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=env, start_new_session=True, **pipes) as process:
            try:
                out, errors = process.communicate()
            except BaseException:  # Ctrl-C or SIGTERM: what it has started ends with it
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode:
            raise ContenderError(f"{self.name} ended with exit code {process.returncode}:\n{errors[-2000:]}")
        *self.said, last = out.splitlines() or [""]
        try:
            cpu_s, peak_mib = map(float, last.split())
        except ValueError:
            raise ContenderError(f"{self.name} did not print its time and memory, but {last[:200]!r}") from None
        self.cpu_s.append(cpu_s)
        self.peak_mib.append(peak_mib)
        if self.out:
            files = (p for p in self.out.rglob("*") if p.is_file() and "cache" not in p.relative_to(self.out).parts)
            self.written = sum(p.stat().st_size for p in files)


def line_up(text: Path, dumps: list[Path], vocabulary: Path, times: int, folder: Path) -> list[Contender]:
    """Who is measured; the dump's rows only where there is one."""
    common = [
        "data_prep.prepare", f"data.root={folder}", f"data.vocab={vocabulary}", "data.vocab_size=0",
        f"data.passes={times}", "data.processes=1", f"data.seq_lens=[{LENGTHS[0]},{LENGTHS[1]}]",
        f"phase1.seq_len={LENGTHS[0]}", f"phase2.seq_len={LENGTHS[1]}", f"model.max_positions={LENGTHS[1]}",
    ]  # fmt: skip
    made = folder / "datasets"
    pipeline = [PEERS, "datasets", str(text), str(vocabulary), str(made), str(times), *map(str, LENGTHS)]
    found = [
        Contender(OURS, [*common, "data=text", "data.name=ours", f"data.paths=[{text}]"], folder / "ours"),
        Contender(PIPELINE, pipeline, made),
        Contender("tokenizers alone", [PEERS, "tokenizers", str(text), str(vocabulary)]),
        Contender("splitter alone", [PEERS, "splitter", str(text)]),
        Contender("reading alone", [PEERS, "reading", str(text)]),
    ]
    if dumps:
        named = ",".join(f'"{dump}"' for dump in dumps)
        settings = ["data=wikipedia_dump", "data.name=dump", f"data.paths=[{named}]", "data.max_reject_share=0.9"]
        found.append(Contender(DUMP, [*common, *settings], folder / "dump"))
        found.append(Contender(PAGES, [PEERS, "pages", *map(str, dumps)]))
    return found


def table(contenders: list[Contender], size: int, documents: int, tokens: int) -> list[str]:
    """Rows for contenders that read the same text."""
    lines = ["| | CPU s | MB/s per core | documents/s per core | peak MiB | bytes written per token |"]
    lines += ["|---|---|---|---|---|---|"]
    for c in contenders:
        written = f"{c.written / tokens:.2f}" if c.written else ""
        lines.append(
            f"| {c.name} | {c.seconds:.1f} ({min(c.cpu_s):.1f}-{max(c.cpu_s):.1f}) | {size / 1e6 / c.seconds:.2f} | "
            f"{documents / c.seconds:,.0f} | {statistics.median(c.peak_mib):.0f} | {written} |"
        )
    return lines


def shares(contenders: dict[str, Contender], size: int) -> list[str]:
    """Ours against what splitter and tokenizer need one after the other, reading counted once."""
    ours, pipeline, reading = contenders[OURS], contenders[PIPELINE], contenders["reading alone"].seconds
    splitter, tokenizer = (contenders[f"{name} alone"].seconds - reading for name in ("splitter", "tokenizers"))
    ceiling, speed = (size / 1e6 / s for s in (reading + splitter + tokenizer, ours.seconds))
    return [
        f"Reading, splitter and tokenizer run one after the other reach {ceiling:.2f} MB/s; prepare, which also cuts "
        f"and writes the pairs, reaches {speed:.2f}, {speed / ceiling:.2f} times as much. The splitter takes "
        f"{splitter / ours.seconds:.0%} of its time.",
        f"Compared with the pipeline, prepare is {pipeline.seconds / ours.seconds:.1f} times as fast, and its files "
        f"are {pipeline.written / ours.written:.1f} times smaller.",
    ]


def dump_lines(contenders: dict[str, Contender], dumps: list[Path], store: Path) -> list[str]:
    """The dump's rows, its size being that of the packed files."""
    ours, pages, counts = contenders[DUMP], contenders[PAGES], read_manifest(store)["counts"]
    last = pages.said[-1] if pages.said else ""
    about = parse_object(last.encode(), is_about_pages)
    if about is None:
        raise ContenderError(f"{PAGES} did not print its figures, but {last[:200]!r}")
    size = sum(path.stat().st_size for path in dumps)
    names = ", ".join(path.name for path in dumps)
    return [
        f"From dumps ({names}; {size / 1e6:.1f} MB compressed, {about['documents']:,} articles):",
        "",
        *table([ours, pages], size, about["documents"], counts["tokens"] + counts["heldout_tokens"]),
        "",
        f"Turning pages into text takes {pages.seconds / ours.seconds:.0%} of the time (both include the start of the "
        f"program); mwparserfromhell takes {about['parser_share']:.0%} of the work on pages.",
    ]


def prediction(mb_per_s: float, written: float, peak_mib: float) -> list[str]:
    """The full corpus by arithmetic. mb_per_s: a core; written: bytes on disk a byte of text."""
    return [
        f"Estimate for the full corpus, {CORPUS_GB} GB of text: {CORPUS_GB} GB / ({mb_per_s:.2f} MB/s x cores). Linear "
        "scaling over cores is assumed, because each makes shards of its own.",
        f"Disk: {CORPUS_GB * written:.0f} GB ({written:.2f} bytes per byte of text). "
        f"Memory: {peak_mib:.0f} MiB per process.",
        "",
        "| cores | hours |",
        "|---|---|",
        *(f"| {cores} | {CORPUS_GB * 1000 / mb_per_s / cores / 3600:.2f} |" for cores in CORES),
    ]


def page(contenders: list[Contender], dumps: list[Path], folder: Path, measure: tuple[int, int, int, int]) -> str:
    """The section. measure: bytes and documents of the text, passes, rounds."""
    size, documents, passes, rounds = measure
    counts = read_manifest(folder / "ours")["counts"]
    tokens = counts["tokens"] + counts["heldout_tokens"]
    named = {c.name: c for c in contenders}
    ours = named[OURS]
    lines = [
        f"{how_measured('bench-data')}. {size / 1e6:.0f} MB of text, {documents:,} documents, {tokens:,} tokens; "
        f"lengths {LENGTHS[0]} and {LENGTHS[1]}, pairs drawn {counted(passes, 'time')}; medians of "
        f"{counted(rounds, 'interleaved round')} (minimum and maximum in brackets). Each runs on one core; processor "
        "time, including the start of the program. The create_pretraining_data of google-research/bert is not "
        "included: it needs TensorFlow 1, which has no build for this Python.",
        "",
        *table([c for c in contenders if c.name not in (DUMP, PAGES)], size, documents, tokens),
        "",
        *shares(named, size),
        "",
        *([*dump_lines(named, dumps, folder / "dump"), ""] if dumps else []),
        *prediction(size / 1e6 / ours.seconds, ours.written / size, statistics.median(ours.peak_mib)),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files or folders, as for data.paths")
    parser.add_argument("--vocab", type=Path, required=True, help="a WordPiece vocab.txt")
    parser.add_argument("--dump", type=Path, nargs="*", default=[], help="MediaWiki dumps")
    parser.add_argument("--mb", type=float, default=50, help="megabytes of the text that are used")
    parser.add_argument("--passes", type=int, default=5, help="passes of prepare, and copies that the pipeline stores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/results/data.md"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that a contender ends too
    try:
        measure(given)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def measure(given: argparse.Namespace) -> None:
    """All turns, then the section of the page."""
    with tempfile.TemporaryDirectory() as name:
        folder, text = Path(name), Path(name) / "text.jsonl"
        chosen = take(texts(given.text), given.mb * 1e6)
        text.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in chosen))
        dumps = [dump.absolute() for dump in given.dump]
        contenders = line_up(text, dumps, given.vocab.absolute(), given.passes, folder)
        for turn in range(given.rounds):
            for contender in contenders:
                contender.turn()
                print(f"round {turn}: {contender.name} {contender.cpu_s[-1]:.1f} s", flush=True)
        figures = (sum(len(t.encode()) for t in chosen), len(chosen), given.passes, given.rounds)
        put_section(given.out, "Data", "Speed and size", page(contenders, dumps, folder, figures))


if __name__ == "__main__":
    main()
