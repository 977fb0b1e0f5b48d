"""What pretraining on the embedded corpus is worth: `make study`. Writes docs/results/sample.md; can be resumed.

Per seed (each draws pretraining and fine-tuning): F1 on unseen articles with pretraining, from random weights, from
random weights with other learning rates, 4 times the steps, 4 times the labels, and with pretraining on the same words
shuffled over the whole corpus. Every figure is a run of the ordinary commands, read from its result.json. What was
measured is kept beside the page (sample.jsonl), so that another machine can continue where one stopped; delete a line
there to have it measured again.
"""

import argparse
import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from bert_lamb.data.manifest import read_manifest
from bert_lamb.errors import UserError
from bert_lamb.jsonfiles import clean_lines, read_lines, read_object
from bert_lamb.reporting.read_run import read_run
from bert_lamb.run import ArmFolder, data_folder, is_arm_result, locate_run
from bert_lamb.settings import Settings, compose_settings
from bert_lamb.training.finetuning import arm_folder
from bert_lamb.words import counted
from data_prep.world.world import PICTURES

log = logging.getLogger(__name__)

# two-sided 95% quantiles of Student's t for 1 ... 9 degrees of freedom
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class StudyError(UserError):
    """A figure that cannot be read; the message says what to remove."""


def is_measured(value: dict[str, Any]) -> bool:
    """Whether an object is a line of sample.jsonl."""
    told = {"precision", "device", "torch", "commit"} <= value.keys()
    numbers = isinstance(value.get("seed"), int) and isinstance(value.get("f1"), int | float)
    return told and numbers and isinstance(value.get("row"), str)


def is_machine(value: dict[str, Any]) -> bool:
    """Whether an object is a machine.json with all that a line takes from it."""
    versions = value.get("versions")
    return {"device", "commit", "dirty"} <= value.keys() and isinstance(versions, dict) and "torch" in versions


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    words: str
    arm: str  # pretrained | scratch
    overrides: tuple[str, ...] = ()


def rows(s: Settings) -> list[Row]:
    """What is compared; the two first and the last give the headline."""
    f = s.finetune
    tuned = [Row(f"random weights, learning rate {lr:g}", "scratch", (f"finetune.lr={lr}",))
             for lr in (f.lr / 4, f.lr * 4)]  # fmt: skip
    return [
        Row("pretrained", "pretrained"),
        Row("random weights, the same fine-tuning", "scratch"),
        *tuned,
        Row("random weights, 4 times the steps", "scratch", (f"finetune.epochs={4 * f.epochs}",)),
        Row(
            "random weights, 4 times the labels", "scratch",
            (f"finetune.max_train_questions={4 * f.max_train_questions}",),
        ),
        Row("pretrained on the shuffled corpus", "pretrained", ("data.shuffled=true", "data.name=sample_shuffled")),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/results/sample.md"))
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time; the cores are shared out evenly")
    parser.add_argument("overrides", nargs="*", help="settings for every run, e.g. hardware.compile=off")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("hydra").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # as Ctrl-C, so that stages end too
    study = Study(tuple(arguments.overrides), arguments.jobs, arguments.out.with_suffix(".jsonl"))
    table, seeds = rows(compose_settings(study.overrides)), range(arguments.seeds)
    headline = [table[0], table[1], table[-1]]
    for row in (table[0], table[-1]):
        study.stage("data_prep.prepare", study.settings(row, 0))
    for group in (headline, table[2:-1]):  # so that an interrupted study has what matters most
        try:
            study.measure([(row, seed) for seed in seeds for row in group])
        except UserError as error:
            sys.exit(f"error: {error}")
        arguments.out.write_text(page(table, study, arguments.seeds))
    log.info("%s", arguments.out)


class Study:
    """Runs what is missing of the table, several seeds at a time, and keeps what was measured."""

    def __init__(self, overrides: tuple[str, ...], jobs: int, kept: Path) -> None:
        self.overrides, self._jobs, self._kept = overrides, jobs, kept
        self._running: list[subprocess.Popen[bytes]] = []
        self._ending, self._lock = False, Lock()  # which also holds for the list of what runs
        clean_lines(kept, is_measured)  # what is damaged is set aside, and measured again
        lines, _ = read_lines(kept, is_measured)
        self.lines: dict[tuple[str, int], dict[str, Any]] = {(line["row"], line["seed"]): line for line in lines}

    def measure(self, wanted: list[tuple[Row, int]]) -> None:
        """Every row and seed that has no line yet, whatever commit measured it."""
        missing = [(row, seed, self.place(row, seed)) for row, seed in wanted if (row.words, seed) not in self.lines]
        pool = ThreadPoolExecutor(self._jobs)
        try:
            list(pool.map(lambda one: self._run(*one), missing))
        except BaseException:  # Ctrl-C and SIGTERM too: no further stage begins, and those that run are ended
            with self._lock:
                self._ending = True
                for process in self._running:
                    process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def settings(self, row: Row, seed: int) -> tuple[str, ...]:
        return (*self.overrides, *row.overrides, f"seed={seed}", f"finetune.arms=[{row.arm}]")

    def place(self, row: Row, seed: int) -> ArmFolder:
        """The arm's folder: its name and its run folder's carry hashes of all that decides the result."""
        s = compose_settings(self.settings(row, seed))
        return arm_folder(s, locate_run(s), row.arm)

    def stage(self, module: str, overrides: tuple[str, ...]) -> None:
        """One stage of the chain, in a process of its own with its share of the cores."""
        threads = max(1, (os.cpu_count() or 1) // self._jobs)
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
        with self._lock:
            if self._ending:
                raise subprocess.CalledProcessError(-signal.SIGTERM, module)
            process = subprocess.Popen([sys.executable, "-m", module, *overrides], env=environment)
            self._running.append(process)
        try:
            code = process.wait()
        except BaseException:  # in the main thread, which signals reach
            process.terminate()
            process.wait()
            raise
        finally:
            with self._lock:
                self._running.remove(process)
        if code:
            raise subprocess.CalledProcessError(code, module)

    def _run(self, row: Row, seed: int, arm: ArmFolder) -> None:
        log.info("== %s, seed %d", row.words, seed)
        if row.arm == "pretrained":
            self.stage("bert_lamb.pretrain", self.settings(row, seed))
        self.stage("bert_lamb.finetune", self.settings(row, seed))
        self._keep(row, seed, arm)

    def _keep(self, row: Row, seed: int, arm: ArmFolder) -> None:
        (result, damage), (machine, damage_too) = (
            read_object(arm.result_file, is_arm_result),
            read_object(arm.machine_file, is_machine),
        )
        if result is None or machine is None:
            what = damage or damage_too or f"{arm.path} lacks its result"
            raise StudyError(f"{what}: remove {arm.path}, and run the same command again")
        precision = result["precision"]
        if row.arm == "pretrained" and (before := read_run(arm.path.parents[1]).precision) != precision:
            precision = f"{before} and for fine-tuning {precision}"
        line = {
            "row": row.words, "seed": seed, "f1": result["f1"], "em": result["em"],
            "run": f"{arm.path.parents[1].name}/{arm.path.name}", "precision": precision,
            "device": machine["device"], "torch": machine["versions"]["torch"],
            "commit": machine["commit"], "dirty": machine["dirty"],
        }  # fmt: skip
        clean_lines(self._kept, is_measured)
        with self._kept.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines[row.words, seed] = line


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95% interval (Student's t)."""
    n = len(differences)
    half = T95[n - 2] * statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.nan
    return statistics.mean(differences), half


def page(table: list[Row], study: Study, seeds: int) -> str:
    """The results page, of the rows that are measured."""
    table = [row for row in table if all((row.words, seed) in study.lines for seed in range(seeds))]
    lines = {row: [study.lines[row.words, seed] for seed in range(seeds)] for row in table}
    scores = {row: [line["f1"] for line in lines[row]] for row in table}
    pretrained, scratch, shuffled = (scores[table[i]] for i in (0, 1, -1))
    gain, half = interval([a - b for a, b in zip(pretrained, scratch, strict=True)])
    shuffled_gain, shuffled_half = interval([a - b for a, b in zip(shuffled, scratch, strict=True)])
    tokens = read_manifest(data_folder(compose_settings(study.overrides)))["counts"]["tokens"]

    def told(what: str) -> str:
        return ", ".join(sorted({str(line[what]) for row in table for line in lines[row]}))

    text = [
        "# What pretraining on the embedded corpus is worth",
        "",
        f"F1 on questions about unseen articles, {counted(seeds, 'seed')}; the seed decides pretraining and "
        f"fine-tuning. Repeat it with `make study` (here: {' '.join(study.overrides) or 'no further settings'}); the "
        "run, commit and machine of each figure are in [sample.jsonl](sample.jsonl).",
        "",
        f"- Pretraining gains **{gain:.1f} points** (95% interval {gain - half:.1f} to {gain + half:.1f}) over the "
        "same fine-tuning from random weights.",
        f"- Pretraining on the same words, shuffled over the whole corpus, gains {shuffled_gain:.1f} "
        f"({shuffled_gain - shuffled_half:.1f} to {shuffled_gain + shuffled_half:.1f}).",
        f"- Choosing one of a paragraph's {PICTURES} pictures at random gives {100 / PICTURES:.0f}. Knowing which "
        "words belong to a class that is ever asked about, without reading the question, gives 67.",
        "",
        "| | mean | " + " | ".join(f"seed {seed}" for seed in range(seeds)) + " |",
        "|---|---|" + "---|" * seeds,
    ]
    for row in table:
        values = scores[row]
        text.append(f"| {row.words} | {statistics.mean(values):.1f} | " + " | ".join(f"{v:.1f}" for v in values) + " |")
    text += [
        "",
        f"Corpus: {tokens:,} tokens. Machine: {told('device')}; torch {told('torch')}, {told('precision')}; commit "
        f"{told('commit')}.",
    ]
    return "\n".join([*text, "", SHOWN])


SHOWN = """## What is shown, and what is not

A paragraph describes four pictures. Questions ask about six of the twelve classes, and one or two of the four
pictures are of these. Training questions ask about half of each class's words, dev questions about the other half.
The class of a word of the second half appears only in the unlabelled text, in how the word is used. So the result
shows that knowledge of words is transferred from pretraining to the answers. This **lexical knowledge** is one reason
why pretraining helps on real text too. It alone gives an F1 of 67: all questions whose paragraph has only one picture
that is ever asked about, and half of the others. For more, the model must compare the question's class with the words
of the paragraph. Some seeds learn that within three epochs, others do not. The text also contains remarks of the form
"The only fruit in the album is the plum", which practise it.

Not shown: finding a value by its entity among several of the same type, reasoning over sentences, or anything about the
paper's figures. A BERT of this size does not learn these from a few million tokens.
"""


if __name__ == "__main__":
    main()
