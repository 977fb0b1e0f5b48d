"""Law 10: a checkpoint is whole or not at all; a damaged one is named and never loaded."""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ranks.pretrain import pretrain_for
from tools import assert_same_bits, make_store, tiny
from transformers import AutoTokenizer, BertForPreTraining

from bert_lamb.checksums import write_sums
from bert_lamb.data.vocabulary import make_tokenizer, read_vocabulary
from bert_lamb.errors import UserError
from bert_lamb.model import build_bert
from bert_lamb.optim import Lamb
from bert_lamb.pretrain import pretrain
from bert_lamb.run import (
    CheckpointError,
    Progress,
    Retention,
    RunFolder,
    damage,
    list_checkpoints,
    load_checkpoint,
    newest_whole,
    open_run,
    read_progress,
    rollback_target,
    save_checkpoint,
    verify_checkpoint,
)
from bert_lamb.settings import ModelSettings, SettingsError, kept_steps
from bert_lamb.training.checkpoints import PhaseCheckpoints

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "config.json", "SHA256SUMS")
SHAPE = ModelSettings("t", 1, 8, 2, 16, 32, 0.0, 0.0, 0.1)


def trained(seed: int = 0) -> tuple[Any, Lamb]:
    """A small BERT and an optimizer with moments."""
    bert = build_bert(SHAPE, 30, 0, seed)
    optimizer = Lamb(bert.parameters(), lr=0.01)
    for p in bert.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    return bert, optimizer


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Checkpoints of steps 3 and 6."""
    bert, optimizer = trained()
    return tuple(save_checkpoint(tmp_path, bert, optimizer, Progress(1, step), Retention(2)) for step in (3, 6))  # type: ignore


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    bert, optimizer = trained()
    path = save_checkpoint(tmp_path, bert, optimizer, Progress(2, 7, 5, 3, 1), Retention(2))
    assert sorted(p.name for p in path.iterdir()) == sorted(FILES)
    other, others = trained(1)
    assert load_checkpoint(path, other, others) == Progress(2, 7, 5, 3, 1)
    for p, q in zip(bert.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == others.state[q].keys()
        assert all(torch.equal(optimizer.state[p][k], others.state[q][k]) for k in optimizer.state[p])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["first byte", "middle", "last byte", "truncated", "emptied", "longer", "missing"])
def test_any_damage_is_refused(two: tuple[Path, Path], name: str, damage: str) -> None:
    first, last = two
    file = last / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        place = {"first byte": 0, "middle": len(content) // 2, "last byte": len(content) - 1}.get(damage)
        if place is not None:
            content[place] ^= 1
        size = {"truncated": len(content) - 1, "emptied": 0}.get(damage, len(content))
        file.write_bytes(bytes(content[:size]) + b"x" * (damage == "longer"))
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(last, *trained())
    message = str(refused.value)
    if name != "SHA256SUMS":
        assert str(file) in message
    assert str(last) in message
    assert f"remove {last} to go on from {first}" in message
    assert isinstance(refused.value, UserError)
    verify_checkpoint(first)


@pytest.mark.parametrize("name", FILES[:4])
def test_a_file_gone_with_its_line_is_missed(two: tuple[Path, Path], name: str) -> None:
    _, last = two
    (last / name).unlink()
    sums = last / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if not line.endswith(f"  {name}\n")))
    with pytest.raises(CheckpointError, match=name):
        verify_checkpoint(last)


@pytest.mark.parametrize("bit", range(8))
def test_no_bit_of_the_sums_may_flip(two: tuple[Path, Path], bit: int) -> None:
    _, last = two
    file = last / "SHA256SUMS"
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        file.write_bytes(bytes(changed))
        with pytest.raises(CheckpointError):
            verify_checkpoint(last)


def test_the_first_one_offers_a_new_start(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *trained(), Progress(1, 3), Retention(2))
    (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="start this phase again"):
        verify_checkpoint(path)


@pytest.mark.parametrize("where", ["the rename", "the checksums", "the moments"])
def test_a_cut_while_saving_leaves_the_one_before(two: tuple[Path, Path], where: str) -> None:
    first, last = two
    target = {
        "the rename": "pathlib.Path.replace",
        "the checksums": "bert_lamb.checksums.file_sha256",
        "the moments": "bert_lamb.run.checkpoint.save_tensors",
    }[where]
    with mock.patch(target, side_effect=OSError("no space left on device")), pytest.raises(OSError, match="no space"):
        save_checkpoint(last.parent, *trained(), Progress(1, 9), Retention(2))
    assert list_checkpoints(last.parent) == [first, last], "nothing was deleted for one that did not come"
    verify_checkpoint(first)
    verify_checkpoint(last)
    path = save_checkpoint(last.parent, *trained(), Progress(1, 9), Retention(2))
    assert list_checkpoints(last.parent) == [last, path]
    assert sorted(p.name for p in last.parent.iterdir()) == ["step-000006", "step-000009"], "no leavings"


def test_a_cut_while_replacing_the_same_step_loses_nothing(two: tuple[Path, Path]) -> None:
    _, last = two
    with mock.patch("pathlib.Path.rename", side_effect=OSError), pytest.raises(OSError):  # noqa: PT011
        save_checkpoint(last.parent, *trained(), Progress(1, 6), Retention(2))
    verify_checkpoint(last)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_keep_checkpoints(tmp_path: Path, keep: int) -> None:
    bert, optimizer = trained()
    for step in (1, 2, 10, 999_999, 1_000_000):
        save_checkpoint(tmp_path, bert, optimizer, Progress(1, step), Retention(keep))
    names = [p.name for p in list_checkpoints(tmp_path)]
    assert names == ["step-000010", "step-999999", "step-1000000"][-keep:]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    make_store(folder / "data" / "made")
    return folder


def run(store: Path, name: str, *overrides: str) -> RunFolder:
    return open_run(tiny(store, f"run.name={name}", *overrides))


def test_steps_that_are_kept_for_good(store: Path) -> None:
    """Whole checkpoints at steps and shares of the run, beside the newest; each opens in transformers."""
    folder = run(store, "for-good", "run.keep_checkpoints=1", "run.keep_at=[0,1,0.5,0.79]", "run.checkpoint_every=1")
    pretrain(folder)
    kept = [list_checkpoints(folder.checkpoints(number)) for number in (1, 2)]
    assert [[p.name[-1] for p in paths] for paths in kept] == [["0", "1", "5", "6"], ["2", "4"]]
    vocabulary = read_vocabulary(store / "data" / "made" / "vocab.txt")
    ours = make_tokenizer(vocabulary, lower_case=True)
    text = " ".join(vocabulary[5:40]) + " CAFÉ (x)"
    for path in (*kept[0], *kept[1]):
        assert damage(path) is None
        theirs = AutoTokenizer.from_pretrained(path)
        assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text, add_special_tokens=False).ids
        assert theirs.model_max_length == 64
        assert BertForPreTraining.from_pretrained(path).config.vocab_size == len(vocabulary)
    straight = run(store, "not-for-good")
    pretrain(straight)
    last = [f.path / "phase2" / "checkpoints" / "step-000004" / "model.safetensors" for f in (folder, straight)]
    assert last[0].read_bytes() == last[1].read_bytes(), "what is kept moves no bit"


def test_a_step_is_kept_in_trouble_too(store: Path) -> None:
    """A regular checkpoint waits until all is well; a learning curve has its points where they were asked for."""
    phase = PhaseCheckpoints.__new__(PhaseCheckpoints)
    phase._settings, phase.phase_number, phase._rollback_every = tiny(store), 1, None
    phase._keep = Retention(1, steps=frozenset({2}))
    assert [step for step in range(1, 6) if phase.due(Progress(1, step, skipped_in_row=1))] == [2]


@pytest.mark.parametrize("entry", ["-1", "11", "1.5", "ten", "10%", "nan", "1e3", ""])
def test_a_step_that_no_run_has_is_refused(store: Path, entry: str) -> None:
    with pytest.raises(SettingsError, match=r"run\.keep_at has .*from 0 to 10, or shares .* from 0\.0 to 1\.0"):
        tiny(store, f"run.keep_at=['{entry}']")


def test_shares_and_steps_of_a_run(store: Path) -> None:
    s = tiny(store, "run.keep_at=[0,0.0,6,7,10,1.0,0.5,.25,1e-1]")
    assert kept_steps(s) == {1: {0, 6, 5, 2, 1}, 2: {1, 4}}


def test_a_run_keeps_as_many_as_asked(store: Path) -> None:
    folder = run(store, "keeps", "run.checkpoint_every=1", "run.keep_checkpoints=3")
    pretrain(folder)
    names = [[p.name for p in list_checkpoints(folder.phase(n) / "checkpoints")] for n in (1, 2)]
    assert names == [["step-000004", "step-000005", "step-000006"], ["step-000002", "step-000003", "step-000004"]]


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, folder.events_file.read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def test_a_resume_takes_the_newest_whole_one(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unattended: the damaged ones are named and kept aside, and the run ends in the bits of one that met no damage."""
    unhurt = run(store, "unhurt")
    pretrain(unhurt)
    folder = run(store, "hurt", "run.checkpoint_every=1", "run.keep_checkpoints=4")
    pretrain_for(folder, 5)
    *_, whole, before_last, last = list_checkpoints(folder.checkpoints(1))
    (last / "model.safetensors").write_bytes(b"")
    (before_last / "state.json").unlink()
    caplog.clear()
    pretrain(folder)
    assert sorted(p.name for p in folder.checkpoints(1).glob("damaged-*")) == [
        f"damaged-{p.name}" for p in (before_last, last)
    ]
    said = [r.message for r in caplog.records if r.levelname == "WARNING" and "damaged-" in r.message]
    assert len(said) == 2
    assert f"{last}/model.safetensors does not match" in said[0]
    assert all(f"goes on from {whole.name}" in line for line in said)
    assert len(events(folder, "damaged checkpoint")) == 2
    assert events(folder, "resume")[0]["step"] == 3
    assert_same_bits(folder, unhurt)


def test_where_none_is_whole_the_run_is_refused_and_nothing_moves(store: Path) -> None:
    """To start a phase again is for people to decide, however often the command is tried."""
    folder = run(store, "all-damaged", "run.checkpoint_every=2")
    pretrain_for(folder, 5)
    checkpoints = list_checkpoints(folder.checkpoints(1))
    for path in checkpoints:
        (path / "optimizer.safetensors").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"step-000005/optimizer\.safetensors"):
            pretrain(folder)
        assert list_checkpoints(folder.checkpoints(1)) == checkpoints
    for path in checkpoints:
        shutil.rmtree(path)
    pretrain(folder)
    assert folder.phase_result(2)


COPIES = ("step-000008-backup", "step-9", "step-0000009", "step-000009.tar", "step-", "step-00000٩", "old-step-000009")


def test_copies_are_not_ours(tmp_path: Path) -> None:
    """Neither resumed from, nor counted, nor deleted."""
    for step in (4, 8):
        path = save_checkpoint(tmp_path, *trained(), Progress(1, step), Retention(2))
    for name in COPIES:
        shutil.copytree(path, tmp_path / name)
    (tmp_path / "step-000099").write_text("a file")
    assert newest_whole(tmp_path) == (path, [])
    new = save_checkpoint(tmp_path, *trained(), Progress(1, 13), Retention(2))
    assert list_checkpoints(tmp_path) == [path, new]
    assert newest_whole(tmp_path) == (new, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*COPIES, "step-000099", path.name, new.name])


def test_a_copy_that_took_a_later_name(tmp_path: Path) -> None:
    """Its state tells another step than its name: not loaded, and the one just saved is not deleted for it."""
    path = save_checkpoint(tmp_path, *trained(), Progress(1, 8), Retention(1))
    shutil.copytree(path, tmp_path / "step-000020")
    new = save_checkpoint(tmp_path, *trained(), Progress(1, 9), Retention(1))
    assert list_checkpoints(tmp_path) == [new, tmp_path / "step-000020"]
    newest, damaged = newest_whole(tmp_path)
    assert newest == new
    assert "is of step 8: the folder was given another checkpoint's name" in damaged[0]


def test_a_link_is_deleted_and_not_what_it_leads_to(tmp_path: Path) -> None:
    """A checkpoint that was moved to another disk."""
    path = save_checkpoint(tmp_path / "run", *trained(), Progress(1, 8), Retention(1))
    path.symlink_to(path.rename(tmp_path / "moved"))
    assert newest_whole(tmp_path / "run") == (path, [])
    new = save_checkpoint(tmp_path / "run", *trained(), Progress(1, 9), Retention(1))
    assert [*(tmp_path / "run").iterdir()] == [new]
    verify_checkpoint(tmp_path / "moved")


def test_content_is_on_the_disk_before_the_name(tmp_path: Path) -> None:
    """A power cut must not leave a name without its content."""
    done: list[str] = []
    open_files: dict[int, str] = {}
    opened, synced, renamed = os.open, os.fsync, os.replace

    def note_open(path: Any, *arguments: Any, **more: Any) -> int:
        descriptor = opened(path, *arguments, **more)
        open_files[descriptor] = Path(path).name
        return descriptor

    def note_sync(descriptor: int) -> None:
        done.append(open_files[descriptor])
        synced(descriptor)

    def note_replace(source: Any, target: Any) -> None:
        done.append(f"-> {Path(target).name}")
        renamed(source, target)

    with (
        mock.patch("os.open", note_open),
        mock.patch("os.fsync", note_sync),
        mock.patch("os.replace", note_replace),
    ):
        path = save_checkpoint(tmp_path / "run", *trained(), Progress(1, 8), Retention(1))
    at = done.index(f"-> {path.name}")
    assert {*FILES, f".{path.name}.tmp"} <= set(done[:at])
    assert "run" in done[at:]


@pytest.mark.parametrize("policy", ["rollback", "stop"])
@pytest.mark.parametrize("at", [0, 4])
def test_a_damaged_one_that_a_roll_back_needs(tmp_path: Path, policy: str, at: int) -> None:
    """It counts as the target as long as it is there: going back to another one would depend on chance."""
    every = 4 if policy == "rollback" else None
    for step in (0, 3, 4, 5):
        save_checkpoint(tmp_path, *trained(), Progress(1, step), Retention(9, every))
    (tmp_path / f"step-{at:06d}" / "state.json").write_text("{")
    assert rollback_target(list_checkpoints(tmp_path), 4) == tmp_path / "step-000004"
    save_checkpoint(tmp_path, *trained(), Progress(1, 6), Retention(1, every))
    kept = [p.name for p in list_checkpoints(tmp_path)]
    assert kept == (["step-000004", "step-000006"] if every else ["step-000006"])
    if every and at == 4:
        with pytest.raises(CheckpointError, match=r"remove .*step-000004 and step-000006 to start this phase again"):
            load_checkpoint(tmp_path / "step-000004", *trained())


def test_old_states_are_read_and_newer_ones_named(tmp_path: Path) -> None:
    """A state.json of an older version lacks fields; one of a newer version has more."""
    path = save_checkpoint(tmp_path, *trained(), Progress(1, 8), Retention(1))
    state = json.loads((path / "state.json").read_text())
    del state["pending"]
    (path / "state.json").write_text(json.dumps(state))
    assert read_progress(path) == Progress(1, 8)
    (path / "state.json").write_text(json.dumps(state | {"from_tomorrow": 1}))
    write_sums(path, FILES[:4])
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read .*from_tomorrow"):
        load_checkpoint(path, *trained())


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damage_at_the_hand_over(store: Path, damage: str) -> None:
    """Phase 1 is done, its weights are damaged: the message's way out must lead somewhere."""
    folder = run(store, f"hand-over-{damage}", "run.checkpoint_every=2")
    pretrain_for(folder, 5)
    inside = PhaseCheckpoints.restore

    def restore(self: PhaseCheckpoints) -> Progress:
        if self.phase_number == 2:
            raise InterruptedError
        return inside(self)

    with mock.patch.object(PhaseCheckpoints, "restore", restore), pytest.raises(InterruptedError):
        pretrain(folder)
    before, last = list_checkpoints(folder.phase(1) / "checkpoints")
    if damage == "missing":
        shutil.rmtree(last)
    else:
        (last / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as refused:
        pretrain(folder)
    message = str(refused.value)
    assert str(last) in message
    assert str(before) in message
    assert "phase1/result.json" in message
    shutil.rmtree(last, ignore_errors=True)
    (folder.phase(1) / "result.json").unlink()
    pretrain(folder)
    assert folder.phase_result(2)


def test_sums_are_readable_by_sha256sum(two: tuple[Path, Path]) -> None:
    lines = (two[0] / "SHA256SUMS").read_text().splitlines()
    assert [line[64:66] for line in lines] == ["  "] * 4
    assert json.loads((two[0] / "state.json").read_text())["step"] == 3
