"""Compressed files, unpacked: one frame after the other, what is broken named, many bz2 streams at a time."""

import bz2
import gzip
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import zstandard

MIB = 1 << 20
UNPACKED_SIZE = 16 * MIB  # bytes that bz2 and gzip may unpack at a time: few packed bytes can hold gigabytes
ZSTD_WINDOW = 128 * MIB  # of text that a zstd frame may refer back to; more only `zstd --long=28` and above ask for
# Packed bytes handed over at a time. zstd has no limit of its own, but 4 bytes hold at most 128 KiB; gzip copies what
# is left of them for each member, and there may be many small ones.
FED = {".zst": 1024, ".gz": MIB // 16, ".bz2": sys.maxsize}
BZ2_HEAD = 10  # bytes that begin a stream: "BZh", the block size, the mark of its first block
BZ2_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
LARGEST_AHEAD = 8 * MIB  # packed bytes of a stream that is unpacked ahead; Wikimedia's hold 100 pages, some 0.1 to 1 MB
LARGEST_RAW = 64 * MIB  # and what it may hold
MOST_CHUNKS = 64  # read ahead
Starts = list[tuple[int, int]]  # of the independent streams of a file: place on disk, place in its raw text


class DamagedStream(Exception):
    """A compressed file that ends too early or is broken; what came before it is good."""


def unpacked(
    packed: Iterator[bytes], compression: str, starts: Starts | None = None, go_on: bool = False, threads: int = 1
) -> Iterator[bytes]:
    """Decompressed frames, one after the other; the packed input is read to its end in any case.

    With `go_on` a broken bz2 stream costs only itself: a dump's page that is cut there is seen by its missing end.
    With more `threads` whole bz2 streams are unpacked ahead; the bytes and `starts` are the same.
    """
    if compression != ".bz2" or threads == 1:
        yield from _frames(packed, compression, starts, go_on)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead = StreamsAhead(packed, pool, min(2 * threads, MOST_CHUNKS))
        yield from _frames(ahead, compression, starts, go_on, ahead)


def _frames(
    packed: Iterator[bytes], compression: str, starts: Starts | None, go_on: bool, ahead: "StreamsAhead | None" = None
) -> Iterator[bytes]:
    state = None
    read = given = begin = skipped = 0
    damages: list[str] = []
    for some in packed:
        read += len(some)
        chunk = memoryview(some)  # its rest is no copy, however many streams begin in it
        while chunk:
            if skipped:  # of a stream that was unpacked ahead
                chunk, skipped = chunk[skipped:], max(0, skipped - len(chunk))
                continue
            if state is None:
                if not chunk[0] and not bytes(chunk).strip(b"\0"):  # padding after the last gzip member
                    break
                begin = read - len(chunk)
                if starts is not None:
                    starts.append((begin, given))
                whole = ahead.stream(begin) if ahead else None
                if whole:
                    out, skipped = whole
                    given += len(out)
                    yield out
                    continue
                state = _decompressor(compression)
            part = chunk[: FED[compression]]
            try:
                for out in _pieces(state, part, compression):
                    given += len(out)
                    yield out
            except (zstandard.ZstdError, zlib.error, gzip.BadGzipFile, OSError) as error:  # OSError: bz2's
                damages.append(f"broken {compression} data in the stream at byte {begin}: {error}")
                state = None
                found, passed = _next_stream(bytes(chunk), packed) if go_on else (b"", sum(map(len, packed)))
                chunk = memoryview(found)
                read += passed
                damages[-1] += "; " + (
                    "reading went on with the next stream" if chunk else "only what came before was read"
                )
                continue
            chunk = chunk[len(part) - len(state.unused_data) :]
            if state.eof:
                state = None
    if state is not None:
        damages.append(f"the {compression} data ends too early: the file is truncated")
    if damages:
        raise DamagedStream(_in_short(damages))


class StreamsAhead:
    """Packed chunks in their order, read some ahead; whole bz2 streams in them are being unpacked meanwhile."""

    def __init__(self, packed: Iterator[bytes], pool: ThreadPoolExecutor, chunks: int) -> None:
        self._packed, self._pool, self._most = packed, pool, chunks
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._streams: dict[int, tuple[Future[bytes | None], int]] = {}  # by the place of their first byte
        self._open, self._place, self._searched = bytearray(), 0, 0  # bytes since the last mark, their place, searched

    def __iter__(self) -> "StreamsAhead":
        return self

    def __next__(self) -> bytes:
        while not self._ended and len(self._chunks) < self._most:
            chunk = next(self._packed, b"")
            self._ended = not chunk
            self._find(chunk)
            self._chunks += [chunk] if chunk else []
        if not self._chunks:
            raise StopIteration
        return self._chunks.popleft()

    def stream(self, begin: int) -> tuple[bytes, int] | None:
        """Raw text and packed length of the stream that begins there; None: it is to be read in the plain way."""
        for place in [p for p in self._streams if p < begin]:
            del self._streams[place]
        future, length = self._streams.pop(begin, (None, 0))
        raw = future.result() if future else None
        return None if raw is None else (raw, length)

    def _find(self, chunk: bytes) -> None:
        """Hands out what stands between two marks; where one is no stream's begin, neither part is a whole stream."""
        self._open += chunk
        begin, end = 0, [len(self._open)] if self._ended else []
        for mark in [m.start() for m in BZ2_STREAM.finditer(self._open, self._searched)] + end:
            if mark > begin:
                part = bytes(self._open[begin:mark])
                self._streams[self._place + begin] = self._pool.submit(_whole_stream, part), len(part)
            begin = mark
        if len(self._open) - begin > LARGEST_AHEAD:
            begin = len(self._open) - BZ2_HEAD
        del self._open[:begin]
        self._place += begin
        self._searched = max(1, len(self._open) - BZ2_HEAD + 1)


def _whole_stream(packed: bytes) -> bytes | None:
    """The raw text of exactly one good bz2 stream of bounded size; None for anything else."""
    state = bz2.BZ2Decompressor()
    try:
        raw = state.decompress(packed, LARGEST_RAW)
    except OSError:
        return None
    return raw if state.eof and not state.unused_data else None


def _next_stream(chunk: bytes, packed: Iterator[bytes]) -> tuple[bytes, int]:
    """What is packed from the next bz2 stream on, and how many bytes were read beyond `chunk`; none where none comes.

    The broken stream may begin in `chunk`, so its first byte is passed over.
    """
    rest, passed = chunk[1:], 0
    while (found := BZ2_STREAM.search(rest)) is None:
        following = next(packed, b"")
        if not following:
            return b"", passed
        passed += len(following)
        rest = rest[1 - BZ2_HEAD :] + following
    return rest[found.start() :], passed


def _in_short(damages: list[str], shown: int = 3) -> str:
    more = len(damages) - shown
    return ". ".join(damages[:shown]) + (f". And {more} more" if more > 0 else "")


def _decompressor(compression: str) -> Any:
    if compression == ".bz2":
        return bz2.BZ2Decompressor()
    if compression == ".gz":
        return zlib.decompressobj(wbits=31)
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()


def _pieces(state: Any, part: memoryview, compression: str) -> Iterator[bytes]:
    """What a part of a stream unpacks to, in pieces of bounded size."""
    if compression == ".zst":
        out = state.decompress(part)
    elif compression == ".gz":
        out = state.decompress(part, UNPACKED_SIZE)
        while not state.eof and (state.unconsumed_tail or len(out) == UNPACKED_SIZE):
            yield out
            out = state.decompress(state.unconsumed_tail, UNPACKED_SIZE)
    else:
        out = state.decompress(part, UNPACKED_SIZE)
        while not state.eof and not state.needs_input:
            yield out
            out = state.decompress(b"", UNPACKED_SIZE)
    if out:
        yield out
