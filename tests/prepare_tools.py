"""Small texts and settings for the tests of data_prep."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import zstandard
from tools import ROOT

from bert_lamb.settings import DataSettings

SYLLABLES = [c + v for c in "bklmrst" for v in "aeio"]


def write_text(seed: int, documents: int = 30, sentences: int = 12) -> list[str]:
    """Documents of paragraphs of sentences of made-up words."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(150)]

    def sentence() -> str:
        return " ".join(rng.choices(words, k=rng.randint(3, 14))).capitalize() + rng.choice(".?!")

    def document() -> str:
        lines = [" ".join(sentence() for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(1, sentences // 2))]
        return "\n".join(lines)

    return [document() for _ in range(documents)]


def write_jsonl(path: Path, texts: list[str], **more: str) -> Path:
    lines = "".join(json.dumps({"text": text, **more}) + "\n" for text in texts).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress(lines) if path.suffix == ".zst" else lines)
    return path


def corpus(folder: Path, files: int = 4, documents: int = 30) -> Path:
    """A folder of JSON lines, every second file compressed; each file is a slice."""
    for i in range(files):
        write_jsonl(folder / f"part-{i:02d}.jsonl{'.zst' if i % 2 else ''}", write_text(i, documents))
    return folder


def data_settings(**given) -> DataSettings:
    """Small settings; every test names what it needs otherwise."""
    values = {
        "name": "store", "root": "unused", "source": "text", "paths": [], "hub": None, "mix": {}, "text_field": "text",
        "txt_document": "file", "encoding": "utf-8", "templates": None, "gaps": "keep",
        "dataset": None, "subset": None, "split": "train",
         "sentences_per_document": 0, "deduplicate": False,
        "min_characters": 0, "languages": [], "squad": None, "leave_out_squad": False,
        "articles": 0, "books": 0,
        "shuffled": False, "language": "en", "vocab": None, "vocab_size": 200,
        "lower_case": True, "strip_accents": None, "seq_lens": [32, 64], "passes": 2,
        "short_share": 0.1, "heldout_share": 0.1,
        "seed": 3,
        "shard_mib": 1, "max_reject_share": 0.05, "processes": 1, "part": None, "parts": 1,
    }  # fmt: skip
    return DataSettings(**(values | {k: [str(p) for p in v] if k == "paths" else v for k, v in given.items()}))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a store; stamps of verification are no part of it."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def command(*overrides: str, **more) -> subprocess.Popen:
    """The stage as a user runs it."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "data_prep.prepare", *overrides]
    return subprocess.Popen(arguments, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True, **more)


def overrides(text: Path, root: Path, *more: str) -> list[str]:
    return [
        "data=text", f"data.paths=[{text}]", f"data.root={root}", "data.name=store", "data.vocab_size=200",
        "data.seq_lens=[32,64,128,512]", "data.passes=2", "data.heldout_share=0.1", "data.seed=3", *more,
    ]  # fmt: skip
