"""A run's settings.yaml as it is met: one message, whatever is wrong with it."""

import pytest

from bert_lamb.errors import UserError
from bert_lamb.reporting.read_run import ReportError, read_run
from bert_lamb.settings import compose_settings, read_settings, settings_yaml

BAD = {
    "no YAML": "a: [",
    "no UTF-8": b"\xff\xfe: 1",
    "nothing": "",
    "a list": "- a",
    "a word": "word",
    "brackets": "a: " + "[" * 1_000_000,
    "braces": "{a: " * 1_000_000,
    "lines": "".join(" " * n + "a:\n" for n in range(900)),
    "aliases": "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)),
    "environment": "experiment: ${oc.env:HOME}",
    "tag": "seed: !!python/object/apply:os.getcwd []",
    "key": "? [a]\n: 1",
    "large": "a: " + "x" * (2 << 20),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_one_message(tmp_path, name):
    path, content = tmp_path / "settings.yaml", BAD[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ReportError, match=r"settings\.yaml is damaged"):
        read_run(tmp_path)
    if name not in ("nothing",):
        with pytest.raises(UserError, match=r"settings\.yaml is damaged"):
            read_settings(path)


WRONG = [
    ("seed: 0", "seed: zero"), ("phase1:", "phase1: 5\nbygone:"), ("phase1:", "phase1: [1]\nbygone:"),
    ("model:", "model: null\nbygone:"), ("  steps:", "  steps: {a: 1}\n  bygone:"),
    ("  steps:", "  steps: many\n  old:"),
    ("  dev_file:", "  dev_file: [a]\n  old:"), ("  seq_lens:", "  seq_lens: 5\n  old:"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), WRONG)
def test_wrong_kinds_below_the_top_are_named(tmp_path, before, after):
    good = settings_yaml(compose_settings([]))
    assert before in good
    path = tmp_path / "settings.yaml"
    path.write_text(good)
    read_run(tmp_path)
    path.write_text(good.replace(before, after, 1))
    for read in (read_settings, lambda path: read_run(path.parent)):
        with pytest.raises(UserError, match=r"settings\.yaml is damaged") as caught:
            read(path)
        assert "\n" not in str(caught.value)
