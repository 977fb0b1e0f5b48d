"""What pretraining on the embedded corpus is worth: `make study`. Writes docs/results/sample.md; resumes what was cut.

Per seed (each draws pretraining and fine-tuning): F1 on unseen articles with pretraining, from random weights, from
random weights with other learning rates, 4 times the steps, 4 times the labels, and with pretraining on the same words
shuffled over the whole corpus. Every figure is a run of the ordinary commands, read from its result.json.
"""

import argparse
import json
import logging
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir

from bert_lamb.data.manifest import read_manifest
from bert_lamb.finetune import arm_folder
from bert_lamb.run import data_folder, locate_run
from bert_lamb.settings import Settings, conf_dir, register_schema, to_settings
from data_prep.world import PICTURES

log = logging.getLogger(__name__)

# two-sided 95% quantiles of Student's t for 1 ... 9 degrees of freedom
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    words: str
    arm: str  # pretrained | scratch
    overrides: tuple[str, ...] = ()


def rows(s: Settings) -> list[Row]:
    """What is compared; the two first give the headline."""
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
    parser.add_argument("--headline-only", action="store_true", help="leave out the controls of random weights")
    parser.add_argument("overrides", nargs="*", help="settings for every run, e.g. hardware.compile=off")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    register_schema()
    table = rows(settings_of(arguments.overrides))
    headline, controls = [table[0], table[1], table[-1]], table[2:-1]
    if arguments.headline_only:
        table, controls = headline, []
    scores: dict[Row, list[float]] = {row: [] for row in table}
    for group in (headline, controls):  # a study that is cut has what matters most
        for seed in range(arguments.seeds):
            for row in group:
                scores[row].append(score(row, seed, arguments.overrides))
    arguments.out.write_text(page(table, scores, settings_of(arguments.overrides), arguments.seeds))
    log.info("%s", arguments.out)


def settings_of(overrides: list[str]) -> Settings:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return to_settings(compose("config", overrides))


def score(row: Row, seed: int, overrides: list[str]) -> float:
    """F1 of one row and seed; runs what is missing."""
    wanted = [*overrides, *row.overrides, f"seed={seed}", f"finetune.arms=[{row.arm}]"]
    log.info("== %s, seed %d", row.words, seed)
    for stage in ("data_prep.prepare", "bert_lamb.pretrain", "bert_lamb.finetune"):
        subprocess.run([sys.executable, "-m", stage, *wanted], check=True)
    return arm_f1(settings_of(wanted), row.arm)


def arm_f1(s: Settings, arm: str) -> float:
    """F1 of the arm that these settings made."""
    folder = locate_run(s)
    return float(json.loads((arm_folder(s, folder, arm) / "result.json").read_text())["f1"])


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95% interval (Student's t)."""
    n = len(differences)
    half = T95[n - 2] * statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.nan
    return statistics.mean(differences), half


def page(table: list[Row], scores: dict[Row, list[float]], s: Settings, seeds: int) -> str:
    """The results page."""
    pretrained, scratch, shuffled = (scores[table[i]] for i in (0, 1, -1))
    gain, half = interval([a - b for a, b in zip(pretrained, scratch, strict=True)])
    shuffled_gain, shuffled_half = interval([a - b for a, b in zip(shuffled, scratch, strict=True)])
    machine = json.loads((locate_run(s).path / "machine.json").read_text())
    tokens = read_manifest(data_folder(s))["counts"]["tokens"]
    lines = [
        "# What pretraining on the embedded corpus is worth",
        "",
        f"F1 on questions about unseen articles, {seeds} seeds; each seed draws pretraining and fine-tuning. "
        "Rerun with `make study`.",
        "",
        f"- Pretraining gains **{gain:.1f} points** (95% interval {gain - half:.1f} to {gain + half:.1f}) over the "
        "same fine-tuning from random weights.",
        f"- Pretraining on the same words, shuffled over the whole corpus, gains {shuffled_gain:.1f} "
        f"({shuffled_gain - shuffled_half:.1f} to {shuffled_gain + shuffled_half:.1f}).",
        f"- Chance, one of a paragraph's {PICTURES} pictures drawn blindly: {100 / PICTURES:.0f}.",
        "",
        "| | mean | " + " | ".join(f"seed {seed}" for seed in range(seeds)) + " |",
        "|---|---|" + "---|" * seeds,
    ]
    for row in table:
        values = scores[row]
        lines.append(
            f"| {row.words} | {statistics.mean(values):.1f} | " + " | ".join(f"{v:.1f}" for v in values) + " |"
        )
    lines += [
        "",
        f"Corpus: {tokens:,} tokens. Machine: {machine['device']}, {machine['cores']} cores, torch "
        f"{machine['versions']['torch']}, {machine['precision']}, commit {machine['commit']}.",
        "",
        SHOWN,
    ]
    return "\n".join(lines)


SHOWN = """## What is shown, and what is not

The training questions ask about half of each category's words, the dev questions about the other half. To which
category one of these belongs stands in the unlabelled text only, in how it is used. So what is shown is that knowledge
of words moves from pretraining into the answers: **lexical knowledge**, a reason for which pretraining helps on real
text too. The text also holds remarks of the form "The only fruit in the album is the plum", which practise what a
question asks for.

Not shown: finding a value by its entity among several of the same type, reasoning over sentences, or anything about the
paper's figures. A BERT of this size does not learn these from a few million tokens.
"""


if __name__ == "__main__":
    main()
