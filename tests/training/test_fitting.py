"""hardware.micro_batch_tokens=null: the search, what it remembers, that ranks agree, and how a run uses it."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from tools import BF16, fresh, losses_of, make_store, phase_data, tiny

from bert_lamb.batch import PackedBatch
from bert_lamb.data.planner import MODEST_TOKENS, known_tokens
from bert_lamb.parallel import Single
from bert_lamb.planning.cost import budget, budget_text
from bert_lamb.pretrain import pretrain
from bert_lamb.run import RunFolder, TrainingStoppedError
from bert_lamb.training.assembly import Assembly
from bert_lamb.training.fitting import MOST, SHARE, candidates, explain_memory, fitted_tokens, peaks_of

FOUND = "hardware.micro_batch_tokens=null"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitting")
    make_store(folder / "data" / "made")
    return folder


def gib(batch: PackedBatch) -> float:
    """A device on which the model takes 1 GiB, and every 32 tokens another."""
    return 1 + len(batch.input_ids) / 32


def fit(folder: RunFolder, room: float, strategy: Single | None = None, how: str = "a card", peak: Any = gib) -> int:
    data = phase_data(folder.path.parents[1] / "data" / "made", 0, 1, 1)
    data.padded = False
    return fitted_tokens(folder, 1, data, strategy or Single(torch.device("cpu")), how, peak, room)


def test_the_largest_that_fits(place: Path) -> None:
    """30 sequences of 32 tokens: budgets of 32 ... 1024; the one of 256 needs 9 GiB."""
    for room, tokens in ((9 / SHARE, 256), (8.99 / SHARE, 128), (1000, 1024), (2 / SHARE, 32)):
        assert fit(fresh(place, f"room-{room:.2f}"), room) == tokens


def test_nothing_beyond_the_first_that_fails_is_tried(place: Path) -> None:
    tried = []

    def out_of_memory(batch: PackedBatch) -> float:
        tried.append(len(batch.input_ids))
        return np.inf if tried[-1] > 100 else 0.5

    assert fit(fresh(place, "fails"), 1, peak=out_of_memory) == 64
    assert tried == [32, 64, 128]


def test_what_was_found_is_remembered_for_this_device_only(place: Path) -> None:
    folder = fresh(place, "remembered")
    assert fit(folder, 9 / SHARE) == 256
    assert json.loads(folder.micro_batches_file.read_text()) == {
        "phase 1, a card": {"tokens": 256, "peak_gib": 9.0, "of_gib": 10.0}
    }
    assert fit(folder, 1000) == 256, "not tried again"
    assert fit(folder, 1000, how="a larger card") == 1024
    assert fit(folder, 1000) == 256


def test_a_model_that_is_too_large_is_told(place: Path) -> None:
    with pytest.raises(TrainingStoppedError, match=r"phase 1: .* of 32 tokens needs 2\.0 GiB, .* 0\.9 GiB may"):
        fit(fresh(place, "large"), 1)


def test_every_rank_takes_what_fits_all(place: Path) -> None:
    """The other rank's card holds two sizes fewer."""

    class Two(Single):
        def reduce_sums(self, sums: torch.Tensor) -> torch.Tensor:
            if sums.ndim == 0:
                return sums  # nothing is remembered
            theirs = sums.clone()
            theirs[int(sums.sum()) - 2 :] = 0
            return sums + theirs

    assert fit(fresh(place, "ranks"), 9 / SHARE, Two(torch.device("cpu"), 0, 2)) == 64


def test_what_rank_0_remembers_counts_for_all(place: Path) -> None:
    """On another card than rank 0's too: a rank that searched alone would wait forever."""

    class Second(Single):
        def reduce_sums(self, sums: torch.Tensor) -> torch.Tensor:
            assert sums.item() == 0, "only rank 0 looks"
            return sums + 256

    second, folder = Second(torch.device("cpu"), 1, 2), fresh(place, "second")
    folder.micro_batches_file.write_text(json.dumps({"phase 1, a card": {"tokens": 64}}))
    assert fit(folder, 1000, second) == 256


def test_too_small_elsewhere(place: Path) -> None:
    class Full(Single):
        def reduce_sums(self, sums: torch.Tensor) -> torch.Tensor:
            return sums

    with pytest.raises(TrainingStoppedError, match="phase 1: 32 tokens do not fit the device of another rank"):
        fit(fresh(place, "elsewhere"), 1000, Full(torch.device("cpu"), 0, 2))


@pytest.mark.parametrize(("ranks", "batch"), [(1, 30), (3, 30), (3, 4), (8, 23), (1, 1), (2, 100_000)])
@pytest.mark.parametrize("padded", [True, False])
def test_candidates_can_be_cut_for_every_rank(place: Path, ranks: int, batch: int, padded: bool) -> None:
    data = phase_data(place / "data" / "made", 0, ranks, 1)
    data.order.global_batch, data.padded = batch, padded
    found = candidates(data)
    assert found
    assert found[0] >= 32
    assert found[-1] <= MOST
    if batch < 1000:
        assert ranks * (found[-1] // 32) >= batch, "as much as a rank ever gets"
        for tokens in found:
            data.micro_batch_tokens = tokens
            assert all(len(rows) for rows in data.cut(np.full(batch, 32)))


@pytest.mark.parametrize("padded", [True, False])
def test_trials_are_micro_batches_at_their_largest(place: Path, padded: bool) -> None:
    data = phase_data(place / "data" / "made", 0, 1, 1)
    data.padded = padded
    seen = []
    peaks_of(data, [64, 256], lambda batch: seen.append(batch) or 0.0, 1.0)
    assert [len(batch.input_ids) for batch in seen] == [64, 256]
    assert all(batch.max_seqlen == 32 for batch in seen)


def on_a_card(room: float, bytes_a_token: int = 2**25) -> Any:
    """Patches the search to run here, with a made-up memory."""
    sizes = []

    def peak(_: torch.device, work: Any) -> float:
        with mock.patch.object(Assembly, "losses", autospec=True, side_effect=Assembly.losses) as losses:
            work()
        assert losses.call_count == 2, "gradients are there in the second pass"
        sizes.append(len(losses.call_args.args[1].input_ids))
        return sizes[-1] * bytes_a_token / 2**30

    return mock.patch.multiple(
        "bert_lamb.training.assembly", tokens_are_found=lambda *_: True, peak_gib=peak, room_gib=lambda _: room
    )


def test_a_run_that_finds_its_own_micro_batches(place: Path) -> None:
    """The same losses as with given ones; found once a phase; resumed with the same number, so with the same bits."""
    given, found = fresh(place, "given", "hardware.micro_batch_tokens=256"), fresh(place, "found", FOUND)
    assert given.settings().hardware.micro_batch_tokens == 256
    pretrain(given)
    with on_a_card(room=10):  # 256 tokens are 8 GiB, 512 are 16
        pretrain(found)
        remembered = json.loads(found.micro_batches_file.read_text())
        assert [entry["tokens"] for entry in remembered.values()] == [256, 256]
        again = fresh(place, "again", FOUND)
        again.micro_batches_file.write_text(json.dumps(remembered))
        with mock.patch("bert_lamb.training.fitting.peaks_of", side_effect=AssertionError("nothing is to be tried")):
            pretrain(again)
    for number in (1, 2):
        assert losses_of(found.path, number) == losses_of(given.path, number) == losses_of(again.path, number)


def test_a_cpu_takes_a_modest_number(place: Path) -> None:
    s = tiny(place, FOUND)
    assert known_tokens(s.hardware.micro_batch_tokens, on_gpu=False) == MODEST_TOKENS
    folder = fresh(place, "cpu", FOUND)
    pretrain(folder)
    assert not folder.micro_batches_file.exists()


def test_the_plan_without_a_number(place: Path) -> None:
    s = tiny(place, FOUND)
    with mock.patch("bert_lamb.planning.cost.use_cuda", return_value=True):
        plan = budget(s, 2, BF16)
        assert {p.micro_batches for p in plan.phases} == {None}
        assert "batch: micro-batches as large as the memory allows on each device" in budget_text(s, plan)


def test_out_of_memory_names_the_settings(place: Path) -> None:
    @explain_memory
    def stage(_: RunFolder) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    given = (
        "hardware.micro_batch_tokens=256",
        "hardware.recompute=false",
        "lower the first",
        "Tried to allocate 2.00 GiB",
    )
    found = ("hardware.micro_batch_tokens=null", "micro_batches.json", "or give a number")
    for name, settings, words in (("memory", (), given), ("memory-null", (FOUND,), found)):
        with pytest.raises(TrainingStoppedError) as told:
            stage(fresh(place, name, *settings))
        assert not [word for word in words if word not in str(told.value)]
        assert "more" not in str(told.value)
