"""`prepare` killed at random moments: a small round of what `make test-data` does at length."""

from pathlib import Path

import pytest
from kill_study import ARRANGEMENTS, Study, copy_text, differing, log
from prepare_tools import write_jsonl, write_text

from bert_lamb.bench.pages import put_section


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("kills")
    source = write_jsonl(folder / "source.jsonl", write_text(1, 5000, 24))
    assert copy_text([source], 3_000_000, folder / "text") > 3_000_000
    settings = ["data.vocab_size=200", "data.passes=2", "data.shard_mib=1"]
    return Study(folder / "text", folder, settings, seed=1)


def test_five_kills_leave_the_bytes_of_a_run_without_any(study: Study, tmp_path: Path):
    assert study.shards == 8
    struck = study.strike("2 processes", ARRANGEMENTS["2 processes"], kills=5)
    assert len(struck.kills) == 5
    assert struck.stores >= 1
    assert struck.different == []
    page = log(study, 3_000_000, [struck])
    assert "| 2 processes | 5 | " in page
    assert "| yes |" in page


def test_a_difference_is_seen():
    assert differing({"same": "1", "other": "2", "more": "3"}, {"same": "1", "other": "1", "gone": "4"}) == [
        "gone", "more", "other",
    ]  # fmt: skip


def test_a_section_takes_the_place_of_its_older_self(tmp_path: Path):
    page = tmp_path / "page.md"
    for heading, text in (("A", "one"), ("B", "two"), ("A", "three")):
        put_section(page, "Title", heading, text)
    assert page.read_text() == "# Title\n\n## A\n\nthree\n\n## B\n\ntwo\n"
