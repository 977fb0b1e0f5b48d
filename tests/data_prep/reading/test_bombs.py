"""Small files that unpack to gigabytes: memory stays bounded, and what is in them is met as in any other file."""

import bz2
import gzip
import io
import subprocess
import sys
import zlib
from collections.abc import Iterator
from random import Random

import pytest
import zstandard
from prepare_tools import data_settings

from data_prep.reading import unpacking
from data_prep.reading.borders import BLANK_LINE, Borders
from data_prep.reading.slices import payloads, plan_input, read_piece
from data_prep.reading.sources import source_files
from data_prep.reading.unpacking import DamagedStream, unpacked
from data_prep.text.document import Document, Reject
from data_prep.text.records import records

GIB, MIB = 1 << 30, 1 << 20
SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0skip"  # a zstd frame that holds no text
UNPACK = """
import resource, sys
from data_prep.reading.unpacking import unpacked
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
given = sum(map(len, unpacked(iter([Path(sys.argv[1]).read_bytes()]), sys.argv[2])))
print(given, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def zeros(count: int, compression: str) -> bytes:
    """Packed zeros, made from a few packed ones where the format lets streams follow each other."""
    if compression == ".zst":
        packed = io.BytesIO()
        with zstandard.ZstdCompressor().stream_writer(packed, closefd=False) as writer:
            for _ in range(count // MIB):
                writer.write(bytes(MIB))
        return packed.getvalue()
    state, some = zlib.compressobj(9, wbits=31), bytes(16 * MIB)
    return b"".join(state.compress(some) for _ in range(count // len(some))) + state.flush()


def outcome(packed: bytes, compression: str, cut: int) -> tuple[bytes, str]:
    given, damage = [], ""
    try:
        for piece in unpacked(chunks_of(packed, cut), compression):
            given.append(piece)
    except DamagedStream as error:
        damage = str(error)
    return b"".join(given), damage


def chunks_of(packed: bytes, cut: int) -> Iterator[bytes]:
    return iter([packed[i : i + cut] for i in range(0, len(packed), cut)])


@pytest.mark.parametrize(("compression", "size"), [(".zst", 3 * GIB), (".gz", GIB // 2)])
def test_memory_stays_bounded(tmp_path, compression, size):
    bomb = tmp_path / "bomb"
    bomb.write_bytes(zeros(size, compression))
    assert bomb.stat().st_size < MIB
    said = subprocess.run(
        [sys.executable, "-c", UNPACK, bomb, compression], check=True, capture_output=True, text=True
    ).stdout
    given, mib = map(int, said.split())
    assert given == size
    assert mib < 150


@pytest.mark.parametrize("compression", [".zst", ".gz", ".bz2"])
def test_pieces_are_bounded(compression):
    """Whatever stands before: a stream that begins as text may go on as a bomb."""
    text = Random(1).randbytes(3 * MIB) + bytes(96 * MIB)
    pack = {".zst": zstandard.compress, ".gz": gzip.compress, ".bz2": bz2.compress}[compression]
    pieces = list(unpacked(iter([pack(text)]), compression))
    assert b"".join(pieces) == text
    assert max(map(len, pieces)) <= 32 * MIB


@pytest.mark.parametrize("cut", [1, 1000, 1 << 20])
@pytest.mark.parametrize("compression", [".zst", ".gz"])
def test_streams_end_to_end(monkeypatch, compression, cut):
    """Members, frames without text and padding; pieces as small as they can be, so that each limit is met."""
    monkeypatch.setattr(unpacking, "UNPACKED_SIZE", 100)
    monkeypatch.setitem(unpacking.FED, compression, 7)
    dice = Random(5)
    parts = [dice.randbytes(dice.randrange(300)) * dice.randrange(1, 9) for _ in range(40)] + [b"", bytes(5000)]
    pack = gzip.compress if compression == ".gz" else zstandard.compress
    between = b"" if compression == ".gz" else SKIPPED
    packed = b"".join(pack(part) + between for part in parts) + (bytes(3000) if compression == ".gz" else b"")
    assert outcome(packed, compression, cut) == (b"".join(parts), "")


@pytest.mark.parametrize("compression", [".zst", ".gz"])
def test_a_cut_is_named_wherever_it_is(compression):
    first, second = Random(7).randbytes(500) * 3, bytes(70_000)
    pack = gzip.compress if compression == ".gz" else zstandard.compress
    packed, border = pack(first) + pack(second), len(pack(first))
    for end in range(1, len(packed)):
        given, damage = outcome(packed[:end], compression, 1 << 20)
        assert (first + second).startswith(given)
        assert bool(damage) == (end != border)
        assert len(given) >= len(first) * (end >= border)


def test_a_window_beyond_the_limit_is_named():
    huge = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    ).compressobj()
    given, damage = outcome(huge.compress(b"text") + huge.flush(), ".zst", 1 << 20)
    assert given == b""
    assert "memory" in damage


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.jsonl.gz", "a.txt", "a.txt.zst"])
def test_an_endless_record_is_named_and_never_read_whole(tmp_path, monkeypatch, name):
    """Of a record that is too large for a document no more is read than shows this; those beside it stay."""
    limit = 100_000
    for module in ("data_prep.text.records", "data_prep.reading.slices"):
        monkeypatch.setattr(f"{module}.LARGEST_DOCUMENT", limit)
    form = b'{"text": "%s"}' if "jsonl" in name else b"%s"
    text = (b"\n" if "jsonl" in name else b"\n\n").join(form % s for s in (b"Before.", b"x" * 9 * MIB, b"After."))
    pack = zstandard.compress if name.endswith("zst") else gzip.compress if name.endswith("gz") else bytes
    (tmp_path / name).write_bytes(pack(text))
    data = data_settings(paths=[tmp_path], shard_mib=1, txt_document="blank_line")
    seen: list[int] = []
    monkeypatch.setattr("data_prep.text.records.read_piece", watched(seen))
    items = []
    for part, texts in payloads(plan_input(data, source_files(data), 1).slices, data):
        seen += [len(text) for text in texts if text is not None]
        items += records(part, texts, data)
    assert [i.text.strip() for i in items if isinstance(i, Document)] == ["Before.", "After."]
    assert [(r.line, r.reason) for r in items if isinstance(r, Reject)] == [
        (2 if "jsonl" in name else 3, "larger than 32 MiB")
    ]
    assert max(seen) <= MIB + 2 * limit


def watched(seen: list[int]):
    def read(*asked):
        text = read_piece(*asked)
        seen.append(len(text))
        return text

    return read


def test_blanks_without_end_are_not_kept():
    """Between two ends of lines that are one separator; nor does each chunk copy those of all chunks before."""
    borders = Borders(BLANK_LINE, 10)
    assert borders.feed(b"text of a first document\n")
    for _ in range(1000):
        assert borders.feed(b" \t\r" * 100)
        assert len(borders._open) <= 1
    assert borders.feed(b"\nnext")
    assert borders.found == [(0, 1), (25 + 300_000 + 1, 3)]
