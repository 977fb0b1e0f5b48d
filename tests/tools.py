"""What several tests share: a small token store made without data_prep, and settings composed as commands do."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from bert_lamb.data.instances import InstanceTables
from bert_lamb.data.loader import PhaseData
from bert_lamb.data.manifest import write_manifest
from bert_lamb.data.masking import MaskRule
from bert_lamb.data.order import Order
from bert_lamb.data.packing import SpecialIds
from bert_lamb.data.store import (
    FORMAT_VERSION,
    Documents,
    Spans,
    documents_name,
    spans_name,
    write_documents,
    write_spans,
)
from bert_lamb.files import file_sha256
from bert_lamb.hardware import Precision
from bert_lamb.run import RunFolder, open_run
from bert_lamb.settings import Settings, compose_settings

ROOT = Path(__file__).parents[1]  # of the checkout
RANKS = ROOT / "tests" / "ranks"  # programs that torchrun starts
BF16 = Precision("bf16", "a machine", "as set")
SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}


def make_store(
    folder: Path, *, seq_lens: tuple[int, ...] = (32, 64), passes: int = 2, shards: int = 2, instances: int = 40,
    vocab_size: int = 120, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Documents of random ids and instances of random spans: right in form, meaningless in content."""
    rng = np.random.default_rng(seed)
    vocabulary = [*SPECIAL_IDS, *(f"##p{i}" if i % 3 == 0 else f"w{i}" for i in range(5, vocab_size))]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    files: dict[str, Any] = {}
    tables: dict[str, Any] = {"train": {}, "heldout": {}}
    for split, split_passes, split_shards in (("train", passes, shards), ("heldout", 1, 1)):
        (folder / split).mkdir()
        for shard in range(split_shards):
            lengths = rng.integers(100, 300, 6)
            starts = np.concatenate([[0], np.cumsum(lengths)])
            documents = Documents(
                [f"made:{shard}-{d}" for d in range(6)], rng.integers(5, vocab_size, starts[-1]).astype(np.uint16),
                starts, lengths.astype(np.uint32), np.arange(7),
            )  # fmt: skip
            path = folder / split / documents_name(shard)
            write_documents(path, documents)
            files[f"{split}/{path.name}"] = {"sha256": file_sha256(path), "rows": 6, "tokens": int(starts[-1])}
            for seq_len in seq_lens:
                for pass_ in range(split_passes):
                    count = instances + shard + pass_
                    a = rng.integers(1, (seq_len - 3) // 2 + 1, count)
                    b = rng.integers(1, (seq_len - 3) // 2 + 1, count)
                    full = rng.random(count) < 0.6
                    a[full], b[full] = (seq_len - 3) // 2, (seq_len - 3) - (seq_len - 3) // 2
                    spans = Spans(
                        rng.integers(0, starts[-1] - seq_len, count), a, rng.integers(0, starts[-1] - seq_len, count),
                        b, rng.integers(0, 2, count),
                    )  # fmt: skip
                    path = folder / split / spans_name(seq_len, pass_, shard)
                    write_spans(path, spans)
                    files[f"{split}/{path.name}"] = {"sha256": file_sha256(path), "rows": count, "tokens": 0}
                    about = tables[split].setdefault(str(seq_len), [])
                    if len(about) <= pass_:
                        about.append({"pass": pass_, "instances": 0, "tokens": 0, "random_next": 0})
                    about[pass_]["instances"] += count
                    about[pass_]["tokens"] += int((a + b + 3).sum())
    sha256 = file_sha256(folder / "vocab.txt")
    files["vocab.txt"] = {"sha256": sha256, "rows": vocab_size, "tokens": 0}
    manifest = {
        "format_version": FORMAT_VERSION,
        "settings": {},
        "sources": [],
        "tokenizer": {
            "sha256": sha256, "lower_case": True,
            "size": vocab_size, "trained": True, "special_ids": SPECIAL_IDS,
        },
        "counts": {
            "documents": 6 * shards, "sentences": 6 * shards, "heldout_documents": 6,
            "tokens": sum(f["tokens"] for f in files.values()),
        },
        "rejects": {},
        "unigram_entropy_nats": float(np.log(vocab_size - 5)),
        "files": files,
        "instances": tables,
        "notes": [],
    }  # fmt: skip
    write_manifest(folder, manifest)
    return manifest


def composed(*overrides: str) -> Settings:
    """Settings as a command would compose them."""
    return compose_settings(overrides)


def tiny(folder: Path, *overrides: str) -> Settings:
    """A run of seconds over the store `folder/data/made`, results under `folder/runs`; W&B off.

    Every value of its recipe stands here, so that no change under conf/ moves a committed number.
    """
    return composed(*tiny_overrides(folder), *overrides)


def fresh(folder: Path, name: str, *overrides: str) -> RunFolder:
    """The run folder `name` of `tiny`, opened."""
    return open_run(tiny(folder, f"run.name={name}", *overrides))


def tiny_overrides(folder: Path) -> list[str]:
    """The overrides that make `tiny`."""
    return [
        f"data.root={folder / 'data'}", "data.name=made", "data.seq_lens=[32,64]", f"run.root={folder / 'runs'}",
        "run.wandb=disabled", "hardware=cpu", "hardware.devices=1", "hardware.micro_batch_tokens=256",
        "recovery.policy=stop", "recovery.max_skipped_in_row=10", "seed=0", "optimizer=lamb",
        "handover.schedule=rewarm", "handover.moments=keep", "masking.share=0.15",
        "masking.whole_word=false", "data.lower_case=true", "model.initializer_range=0.05", "model.dropout=0.1",
        "model.attention_dropout=0.1", "phase1.peak_lr=0.01", "phase1.decay_power=1", "phase1.decay_origin=start",
        "phase2.peak_lr=0.002", "phase2.decay_power=1", "phase2.decay_origin=start", "model.name=tiny",
        "model.layers=2", "model.hidden=32", "model.heads=2", "model.intermediate=64", "model.max_positions=64",
        "finetune.arms=[]", "finetune.max_length=64", "finetune.max_query=16", "finetune.stride=16",
        "phase1.lr_batch=24", "phase1.lr_rule=given", "phase1.hold_steps=0",
        "phase2.lr_batch=12", "phase2.lr_rule=given", "phase2.hold_steps=0",
        "phase1.seq_len=32", "phase1.global_batch=24", "phase1.steps=6", "phase1.warmup_steps=2",
        "phase2.seq_len=64", "phase2.global_batch=12", "phase2.steps=4", "phase2.warmup_steps=1",
        "run.heldout_sequences=16", "run.checkpoint_every=3", "run.trust_ratios_every=2",
    ]  # fmt: skip


def prepared(folder: Path, *overrides: str, **store: Any) -> Settings:
    """`tiny` with its store made; no dropout, so that what differs is what is tested."""
    if not (folder / "data" / "made").exists():
        make_store(folder / "data" / "made", **store)
    return tiny(folder, "model.dropout=0", "model.attention_dropout=0", "model.initializer_range=0.1", *overrides)


def phase_data(folder: Path, rank: int, ranks: int, micro_batch: int, whole_word: bool = False) -> PhaseData:
    """A phase over the store of `make_store`, as one of several ranks sees it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    vocabulary = (folder / "vocab.txt").read_text().split()
    continuation = np.array([entry.startswith("##") for entry in vocabulary]) if whole_word else None
    tables = InstanceTables(folder, manifest, "train", 32)
    rule = MaskRule(11, 1, 0.15, 4, 120, continuation)
    return PhaseData(
        tables,
        Order(11, 1, tables.sizes, 30),
        rule,
        SpecialIds(0, 2, 3, 4),
        32,
        32 * micro_batch,
        True,
        rank,
        ranks,
        False,
        2,
        False,
    )


def environment(**more: str) -> dict[str, str]:
    """For subprocesses: one thread each, and the checkout to import from."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | more


def torchrun(ranks: int, *arguments: str | Path) -> list[str]:
    """A command that starts so many processes of a program on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [*launcher, *map(str, arguments)]


def losses_of(folder: Path, number: int) -> dict[int, float]:
    """Step -> loss of a phase, as metrics.jsonl has them; the last line of a step counts."""
    lines = (folder / f"phase{number}" / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def _final_tensors(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Weights and moments at the end of a run."""
    return load_file(folder.weights() / "model.safetensors") | load_file(folder.weights() / "optimizer.safetensors")


def assert_same_bits(a: RunFolder, b: RunFolder) -> None:
    """Two finished runs ended in the same weights and moments, and lost as much in every step."""
    ours, theirs = _final_tensors(a), _final_tensors(b)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} differ, first {different[0]}"
    for number in (1, 2):
        assert losses_of(a.path, number) == losses_of(b.path, number)


__all__ = [
    "BF16",
    "SPECIAL_IDS",
    "assert_same_bits",
    "composed",
    "environment",
    "fresh",
    "losses_of",
    "make_store",
    "prepared",
    "replace",
    "tiny",
    "tiny_overrides",
    "torchrun",
]
