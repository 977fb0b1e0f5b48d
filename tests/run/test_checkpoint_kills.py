"""A process that is killed at any change of the file system leaves a whole checkpoint, which the next start finds."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch

from bert_lamb.model import build_bert
from bert_lamb.optim import Lamb
from bert_lamb.run import (
    Progress,
    Retention,
    list_checkpoints,
    newest_whole,
    read_progress,
    save_checkpoint,
    verify_checkpoint,
)
from bert_lamb.settings import ModelSettings

SHAPE = ModelSettings("t", 1, 8, 2, 16, 32, 0.0, 0.0, 0.1)
CHANGES = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "truncate", "fsync")  # of the module os


class Killed(BaseException):
    """Nothing of ours catches it, and the dead process changes no file any more."""


class Calls:
    """Counts the changes of the file system; dies at number `last`."""

    def __init__(self, last: int) -> None:
        self.count, self.last = 0, last

    def dies(self) -> bool:
        self.count += 1
        return self.count >= self.last


@contextmanager
def killed_at(last: int) -> Iterator[Calls]:
    """The process dies at its change number `last`. A file that it was about to write then is there, but empty."""
    calls = Calls(last)

    def dying(inside: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if calls.dies():
                raise Killed
            return inside(*arguments, **more)

        return call

    open_inside, save_inside = io.open, safetensors.torch.save_file

    def opened(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if set(mode) & set("wax+") and calls.dies():
            if calls.count == calls.last:
                open_inside(file, mode, *arguments, **more).close()
            raise Killed
        return open_inside(file, mode, *arguments, **more)

    def saved(tensors: Any, path: Path, *arguments: Any, **more: Any) -> None:
        if calls.dies():
            if calls.count == calls.last:
                path.write_bytes(b"half")
            raise Killed
        save_inside(tensors, path, *arguments, **more)

    patches = [mock.patch(f"os.{name}", dying(getattr(os, name))) for name in CHANGES]
    patches += [mock.patch("io.open", opened)]
    patches += [mock.patch("bert_lamb.model.build.save_file", saved)]
    for patch in patches:
        patch.start()
    try:
        yield calls
    finally:
        for patch in patches:
            patch.stop()


@pytest.fixture(scope="module")
def model() -> tuple[Any, Lamb]:
    bert = build_bert(SHAPE, 30, 0, 0)
    optimizer = Lamb(bert.parameters(), lr=0.01)
    for p in bert.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    return bert, optimizer


def every_kill(prepared: Path, work: Callable[[Path], object], place: Path) -> Iterator[Path]:
    """Copies of a folder in which `work` was killed at its first change, its second, and so on up to its last."""
    for last in range(1, 1000):
        folder = place / f"killed-{last}"
        shutil.copytree(prepared, folder, symlinks=True)
        try:
            with killed_at(last):
                work(folder)
        except Killed:
            yield folder
            continue
        assert last > 5, "the work changes more files than that"
        yield folder
        return
    raise AssertionError("the work never ends")


def steps_of(folder: Path) -> list[int]:
    return [read_progress(path).step for path in list_checkpoints(folder)]


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("step", [6, 9], ids=["the same step again", "a new step"])
def test_a_kill_anywhere_in_a_save(tmp_path: Path, model: tuple[Any, Lamb], keep: int, step: int) -> None:
    """The next start goes on from the new checkpoint or from the one before, and its own save leaves no leavings."""
    before = tmp_path / "before"
    for saved in (3, 6):
        save_checkpoint(before, *model, Progress(1, saved), Retention(keep))
    new = Progress(1, step, rollbacks=1)
    found = set()
    for folder in every_kill(before, lambda f: save_checkpoint(f, *model, new, Retention(keep)), tmp_path):
        path, _ = newest_whole(folder)
        assert path is not None
        verify_checkpoint(path)
        found.add(progress := read_progress(path).step)
        assert progress >= 6, "an old one is never taken where there was a newer one"
        save_checkpoint(folder, *model, Progress(1, 12), Retention(keep))
        assert steps_of(folder)[-keep:] == [6, step, 12][-keep:] or steps_of(folder) == [6, 12]
        assert sorted(p.name for p in folder.iterdir()) == [p.name for p in list_checkpoints(folder)], "no leavings"
        shutil.rmtree(folder)
    assert found == {6, step}


def test_a_start_that_is_killed_too(tmp_path: Path, model: tuple[Any, Lamb]) -> None:
    """Killed amid replacing a checkpoint, and again at each change of the start that mends it."""
    before = tmp_path / "before"
    save_checkpoint(before, *model, Progress(1, 6), Retention(1))
    again = Progress(1, 6, rollbacks=1)
    for folder in every_kill(before, lambda f: save_checkpoint(f, *model, again, Retention(1)), tmp_path):
        for last in (1, 2):  # a start changes one name at most
            copy = tmp_path / f"twice-{last}"
            shutil.copytree(folder, copy)
            with suppress(Killed), killed_at(last):
                newest_whole(copy)
            path, _ = newest_whole(copy)
            assert path is not None
            verify_checkpoint(path)
            shutil.rmtree(copy)
        shutil.rmtree(folder)


def test_a_kill_while_a_damaged_one_is_set_aside(tmp_path: Path, model: tuple[Any, Lamb]) -> None:
    before = tmp_path / "before"
    for saved in (3, 6):
        save_checkpoint(before, *model, Progress(1, saved), Retention(2))
    damaged = before / "step-000006" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for last in (1, 2, 3):
        folder = tmp_path / f"start-{last}"
        shutil.copytree(before, folder)
        with suppress(Killed), killed_at(last):
            newest_whole(folder)
        path, _ = newest_whole(folder)
        assert path is not None
        assert read_progress(path).step == 3
        assert (folder / "damaged-step-000006" / "model.safetensors").is_file()
