"""Kills `prepare` at random moments, over and over, and compares the bytes: `make test-data ARGS='--text /my/texts'`.

Own text is copied into files of several kinds, so that it is cut into enough shards. A store made by one process
without a stop is the measure. Then 1, 2 and 5 processes and an array of 3 tasks make it again while they are killed,
and go on. Where a store is complete before all kills have struck, it is compared, removed and begun anew.
"""

import argparse
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from prepare_tools import command, digests

from bert_lamb.bench.own_text import take, texts
from bert_lamb.bench.pages import how_measured, put_section
from bert_lamb.words import counted
from data_prep.reading.slices import MIB

FILES = 8
LENGTHS = ["data.seq_lens=[128,512]", "phase1.seq_len=128", "phase2.seq_len=512", "model.max_positions=512"]
ARRANGEMENTS = {  # name: overrides of each of the tasks that run at a time
    "1 process": [["data.processes=1"]],
    "2 processes": [["data.processes=2"]],
    "5 processes": [["data.processes=5"]],
    "array of 3": [[f"data.part={part}", "data.parts=3", "data.processes=1"] for part in range(3)],
}


@dataclass
class Struck:
    """What became of one arrangement."""

    name: str
    kills: list[str] = field(default_factory=list)  # signal and state of the store at each
    stores: int = 0  # complete ones, each compared
    different: list[str] = field(default_factory=list)  # files of these that are not those of the measure
    seconds: float = 0.0


class Study:
    """One text, one measure, many kills."""

    def __init__(self, text: Path, folder: Path, overrides: list[str], seed: int) -> None:
        self.root, self.draw = folder, random.Random(seed)
        self.overrides = ["data=text", f"data.paths=[{text}]", f"data.root={folder}", *LENGTHS, *overrides]
        started_s = time.monotonic()
        ended([self.start("whole", ["data.processes=1"])])
        self.whole_s = time.monotonic() - started_s
        self.measure = digests(folder / "whole")

    @property
    def shards(self) -> int:
        return sum(name.startswith("train/documents-") for name in self.measure)

    def share_left(self, store: Path) -> float:
        """Of a store's work, so that most kills strike before the end; never so little that none could."""
        return max(0.1, 1 - len(list(store.glob(".work/shard-*.json"))) / self.shards)

    def start(self, name: str, overrides: list[str]) -> subprocess.Popen:
        return command(*self.overrides, f"data.name={name}", *overrides, stdout=subprocess.DEVNULL)

    def strike(self, name: str, tasks: list[list[str]], kills: int) -> Struck:
        """Makes stores by these tasks until so many kills have struck and a store stands."""
        result, started_s = Struck(name), time.monotonic()
        store = self.root / "struck"
        running = [self.start("struck", task) for task in tasks]
        while True:
            left = kills - len(result.kills)
            wait_s = self.draw.uniform(0, self.whole_s * self.share_left(store)) if left else math.inf
            deadline_s = time.monotonic() + wait_s
            while any(task.poll() is None for task in running) and time.monotonic() < deadline_s:
                time.sleep(0.01)
            alive = [i for i, task in enumerate(running) if task.poll() is None]
            if alive:
                victim = self.draw.choice(alive)
                how = self.draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
                os.kill(running[victim].pid, how)
                running[victim].communicate()
                result.kills.append(f"{how.name} {state(store)}")
                running[victim] = self.start("struck", tasks[victim])
                continue
            ended(running)
            if len(tasks) > 1:
                ended([self.start("struck", ["data.processes=1"])])
            result.stores += 1
            result.different += differing(digests(store), self.measure)
            shutil.rmtree(store)
            if not left:
                result.seconds = time.monotonic() - started_s
                return result
            running = [self.start("struck", task) for task in tasks]


def differing(made: dict[str, str], measure: dict[str, str]) -> list[str]:
    """Files that are not the same, or on one side only."""
    return sorted(name for name in made | measure if made.get(name) != measure.get(name))


def ended(tasks: list[subprocess.Popen]) -> None:
    """Waits for tasks that nobody kills; RuntimeError with the last words of one that failed."""
    for task in tasks:
        _, said = task.communicate()
        if task.returncode:
            raise RuntimeError(f"prepare ended with {task.returncode}:\n{said}")


def state(store: Path) -> str:
    """How far an unfinished store is, for the log."""
    work = store / ".work"
    if not (work / "plan.json").is_file():
        return "complete" if (store / "manifest.json").is_file() else "reading"
    return counted(len(list(work.glob("shard-*.json"))), "shard") if (work / "begun.json").is_file() else "vocabulary"


def copy_text(paths: list[Path], size: int, folder: Path) -> int:
    """So many bytes of text as files of four kinds; bytes written. TextError where there is less."""
    source = texts(paths)
    folder.mkdir(parents=True)
    total = 0
    for number in range(FILES):
        taken = take(source, size / FILES)
        total += sum(len(text.encode()) for text in taken)
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in taken).encode()
        path = folder / f"text-{number}.jsonl"
        if number % 4 == 3:
            pq.write_table(pa.table({"text": taken}), path.with_suffix(".parquet"), row_group_size=1 << 30)
        elif number % 4 == 1:
            path.with_suffix(".jsonl.zst").write_bytes(zstandard.compress(lines))
        else:
            path.write_bytes(lines)
    return total


def log(study: Study, size: int, results: list[Struck]) -> str:
    """The section of docs/results/data.md."""
    rows = [
        f"| {r.name} | {len(r.kills)} | {r.stores} | {'no' if r.different else 'yes'} | {r.seconds:.0f} |"
        for r in results
    ]
    moments = [f"- {r.name}: {', '.join(r.kills)}." for r in results]
    return "\n".join([
        f"{how_measured('test-data')}. {size / 1e6:.0f} MB of text, {study.shards} shards; one uninterrupted process "
        f"took {study.whole_s:.0f} s, and its files are the reference.", "",
        "| made by | kills | stores compared | every file equal | seconds |", "|---|---|---|---|---|", *rows, "",
        "Every kill, with its signal and how far the store was:", "", *moments,
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, help="files or folders, as data.paths takes them"
    )
    parser.add_argument("--mb", type=float, default=200)
    parser.add_argument("--shards", type=int, default=40, help="at least")
    parser.add_argument("--kills", type=int, default=20, help="over all arrangements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/data.md"))
    parser.add_argument("overrides", nargs="*", help="settings, before --text: data.vocab=/data/vocab.txt")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        size = copy_text(given.text, int(given.mb * 1e6), Path(name) / "text")
        shard_mib = max(1, int(size / given.shards) // MIB)
        study = Study(Path(name) / "text", Path(name), [f"data.shard_mib={shard_mib}", *given.overrides], given.seed)
        assert study.shards >= given.shards, f"{study.shards} shards: give more --mb"
        print(f"{size / 1e6:.0f} MB, {study.shards} shards, one process {study.whole_s:.0f} s", flush=True)
        results = []
        shares = [given.kills * (i + 1) // len(ARRANGEMENTS) for i in range(len(ARRANGEMENTS))]
        for (words, tasks), (before, upto) in zip(ARRANGEMENTS.items(), itertools.pairwise([0, *shares]), strict=True):
            results.append(study.strike(words, tasks, upto - before))
            print(results[-1], flush=True)
    put_section(given.out, "Data", "Killed and made again", log(study, size, results))
    return any(r.different for r in results)


if __name__ == "__main__":
    sys.exit(main())
