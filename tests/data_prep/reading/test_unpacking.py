"""Streams unpacked ahead, on threads: the same bytes, places and damages as one after the other."""

import bz2
from random import Random

import pytest

from data_prep.reading import unpacking
from data_prep.reading.unpacking import DamagedStream, unpacked

MARK = b"BZh91AY&SY"


def parts(seed: int, count: int = 12) -> list[bytes]:
    dice = Random(seed)
    return [dice.randbytes(dice.randrange(1, 4000)) * dice.randrange(1, 5) for _ in range(count)]


def outcome(packed: bytes, cut: int, threads: int, go_on: bool) -> tuple[bytes, list, str]:
    chunks = iter([packed[i : i + cut] for i in range(0, len(packed), cut)])
    given, starts, damage = [], [], ""
    try:
        for piece in unpacked(chunks, ".bz2", starts, go_on, threads):
            given.append(piece)
    except DamagedStream as error:
        damage = str(error)
    assert not list(chunks)  # read to its end, so that a checksum sees all of it
    return b"".join(given), starts, damage


def same(packed: bytes, cut: int, go_on: bool) -> tuple[bytes, list, str]:
    alone = outcome(packed, cut, 1, go_on)
    assert outcome(packed, cut, 3, go_on) == alone
    return alone


@pytest.mark.parametrize("cut", [1, 7, 1000, 1 << 20])
def test_streams_are_whole_and_in_order(cut):
    raw = parts(1)
    packed = [bz2.compress(part) for part in raw]
    given, starts, damage = same(b"".join(packed), cut, True)
    assert given == b"".join(raw)
    assert damage == ""
    assert starts == [(sum(map(len, packed[:i])), sum(map(len, raw[:i]))) for i in range(len(raw))]


def test_threads_do_unpack_ahead(monkeypatch):
    """Else the law of this file would hold of one way alone."""
    found = []
    plain = unpacking._whole_stream
    monkeypatch.setattr(unpacking, "_whole_stream", lambda packed: found.append(plain(packed)) or found[-1])
    monkeypatch.setattr(unpacking, "_decompressor", None)
    raw = parts(2)
    given, _, _ = outcome(b"".join(bz2.compress(part) for part in raw), 1 << 20, 3, True)
    assert given == b"".join(raw)
    assert sorted(found) == sorted(raw[: len(found)])
    assert len(found) == len(raw)


@pytest.mark.parametrize("go_on", [False, True])
def test_damage_is_the_same(go_on):
    dice = Random(3)
    for trial in range(150):
        packed = bytearray(b"".join(bz2.compress(part, dice.choice([1, 9])) for part in parts(trial, 5)))
        for _ in range(dice.randrange(1, 4)):
            packed[dice.randrange(len(packed))] ^= 1 << dice.randrange(8)
        if dice.random() < 0.3:
            del packed[dice.randrange(len(packed)) :]
        if dice.random() < 0.3:
            packed += dice.choice([b"\0" * 20, b"garbage", MARK, bz2.compress(b"")])
        same(bytes(packed), dice.choice([100, 997, 1 << 20]), go_on)


@pytest.mark.parametrize("between", [MARK, MARK + b"x" * 50, bz2.compress(b""), b"\0" * 100, b"BZh"])
def test_a_mark_that_begins_no_stream_costs_nothing_more(between):
    """Within what is read at a time: a break that is noticed later may cost the stream that began meanwhile."""
    raw = parts(4, 4)
    a, b, c, d = (bz2.compress(part) for part in raw)
    given, _, _ = same(a + b + between + c + d, 1 << 20, True)
    assert given.startswith(raw[0] + raw[1])
    assert given.endswith(raw[2] + raw[3])


@pytest.mark.parametrize(("limit", "value"), [("LARGEST_AHEAD", 500), ("LARGEST_RAW", 500)])
def test_large_streams_are_read_in_the_plain_way(monkeypatch, limit, value):
    monkeypatch.setattr(unpacking, limit, value)
    raw = parts(6)
    given, _, damage = same(b"".join(bz2.compress(part) for part in raw), 300, True)
    assert (given, damage) == (b"".join(raw), "")
