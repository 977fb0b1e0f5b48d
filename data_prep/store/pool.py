"""Slices over processes. Which process makes which shard, and when, never shows in the result."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children, connection, get_context, parent_process
from typing import Any

from bert_lamb.data.vocabulary import make_tokenizer, read_vocabulary
from bert_lamb.errors import UserError
from bert_lamb.settings import DataSettings
from bert_lamb.signals import STOP_SIGNALS
from data_prep.reading.slices import Slice, payloads
from data_prep.shards.encoder import Encoder
from data_prep.shards.folder import StoreFolder
from data_prep.shards.make import ShardRecord, make_shard
from data_prep.text.rules import Rules

AHEAD = 2  # slices read before a process is free for them
Work = Callable[[Slice, list[bytes | None]], Any]  # what a process does with a slice
Maker = Callable[[StoreFolder, DataSettings], Work]
LINE_EVERY_S, REDRAW_EVERY_S = 30.0, 0.5  # progress into a file, on a terminal


class PoolError(UserError):
    """A process ended; the message says what to do."""


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shard_maker(folder: StoreFolder, data: DataSettings) -> Work:
    """The work of the writing pass: a shard of every slice."""
    return partial(make_shard, folder, data, store_encoder(folder, data), Rules(data))


def run_slices(
    folder: StoreFolder,
    data: DataSettings,
    slices: list[Slice],
    done: Callable[[Any], None],
    maker: Maker = shard_maker,
) -> None:
    """Does some work on every slice, on many processes. `maker` is called once in each process and returns the work.

    `done` receives the results as they come, in any order.
    """
    cores = data.processes or core_count()
    workers = min(cores, len(slices))
    if workers <= 1:
        work = maker(folder, data)
        for part, texts in payloads(slices, data):
            done(work(part, texts))
        return
    start = (maker, folder, data, max(1, cores // workers))
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, start)
    try:
        running: set[Future[Any]] = set()
        for part, texts in payloads(slices, data):
            running.add(pool.submit(_work, part, texts))
            while len(running) >= workers + AHEAD:
                running = _collect(running, done)
        while running:
            running = _collect(running, done)
    except BrokenProcessPool as error:
        raise PoolError(
            "a process of `prepare` was killed, often because memory ran out; finished shards are kept: run the same "
            f"command again with fewer data.processes (now {workers})"
        ) from error
    except BaseException:
        for child in active_children():  # files appear whole or not at all, so nobody needs to wait for them
            child.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(running: set[Future[Any]], done: Callable[[Any], None]) -> set[Future[Any]]:
    finished, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        done(future.result())
    return rest


def store_encoder(folder: StoreFolder, data: DataSettings) -> Encoder:
    vocabulary = read_vocabulary(folder.vocabulary_file)
    return Encoder(make_tokenizer(vocabulary, data.lower_case, data.strip_accents), data.lower_case)


_worker: Work


def _start_worker(maker: Maker, folder: StoreFolder, data: DataSettings, threads: int) -> None:
    global _worker
    for stop in STOP_SIGNALS:
        signal.signal(stop, signal.SIG_IGN)  # the parent's to handle
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = maker(folder, data)


def _end_with_parent() -> None:
    """A killed parent takes its processes along."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(part: Slice, texts: list[bytes | None]) -> Any:
    return _worker(part, texts)


class ProgressBar:
    """One line on stderr: share, speed, time left."""

    def __init__(self, total: int, before: int, name: str = "prepare") -> None:
        self._name = name
        self._total, self._done, self._before = total, before, before
        self._started_s = time.monotonic()
        self._next_s = self._started_s
        self._terminal = sys.stderr.isatty()

    def add(self, size: int) -> None:
        self._done += size
        now_s = time.monotonic()
        if now_s < self._next_s and self._done < self._total:
            return
        self._next_s = now_s + (REDRAW_EVERY_S if self._terminal else LINE_EVERY_S)
        seconds = max(now_s - self._started_s, 1e-9)
        speed = (self._done - self._before) / seconds
        left_s = (self._total - self._done) / max(speed, 1e-9)
        text = (
            f"{self._name}: {100 * self._done / max(1, self._total):.0f}% of {self._total / 1e6:.1f} MB, "
            f"{speed / 1e6:.1f} MB/s, {clock(left_s)} left"
        )
        print(
            f"\r{text}   " if self._terminal else text,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        if self._terminal:
            print(file=sys.stderr)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def records_in_order(records: dict[int, ShardRecord]) -> Iterator[ShardRecord]:
    """The finished shards before the first unfinished one."""
    number = 0
    while number in records:
        yield records[number]
        number += 1
