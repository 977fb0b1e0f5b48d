"""Whatever is typed at a command: one message that names it, exit code 2, no traceback; and the help."""

import importlib
import itertools
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from tools import ROOT, composed, environment

from bert_lamb import plan
from bert_lamb.settings import SettingsError, command, compose_settings
from bert_lamb.settings.help import STAGES
from bert_lamb.settings.messages import _all_keys

OWN = {  # experiment files of a user, with something wrong
    "cut": "# @package _global_\nexperiment: [\n",
    "list": "- a\n",
    "plain": "phase1: {steps: 3}\n",
    "bytes": b"\xff\xfe: 1",
    "unknown": "# @package _global_\nphase1: {stepps: 3}\n",
    "typed": "# @package _global_\nphase1: {steps: many}\n",
    "loop": "# @package _global_\ndefaults:\n  - loop\n",
    "lost": "# @package _global_\ndefaults:\n  - nosuch\n",
    "named": '# @package _global_\ndefaults: [sample]\nrun: {name: "${nowhere}"}\n',
}
KINDS = [  # command line, and what its message names
    ("~seed", "seed has no value: a setting cannot be removed"),
    ("~model", "model lacks values: choose a file of conf/model"),
    ("~phase1", "phase1 lacks values: choose a file of conf/phase"),
    ("~run.name", "~run.name: a setting cannot be removed"),
    ("~phase1.steps=7", "~phase1.steps: a setting cannot be removed"),
    ("++nosuch.deep=1", "unknown setting 'nosuch'"),
    ("++seed=x", "seed=x: a value of type int"),
    ("'a=[1'", "a=[1 cannot be read as key=value"),
    ('"a=\'b"', "a='b cannot be read as key=value"),
    ("''", "'' is empty"),
    ("experiment=null", "experiment=null: a group of settings"),
    ("data.mix={a:1}", "data.mix: a value of another form is expected"),
    ("'seed=range(3)'", "several values are for `bert-lamb sweep`"),
    ("'seed=${seed}'", "seed: Recursive interpolation"),
    ("'seed=${nosuch:1}'", "seed: Unsupported interpolation type nosuch"),
    ("'run.name=${run}'", "run.name: Interpolation"),
    ("hydra.nonsense=1", "hydra.nonsense"),
    ("--config-dir=/no/such", "--config-dir=/no/such: no such folder"),
    ("--config-dir", "expected one argument"),
    ("--config-path=/tmp", "--config-path=/tmp: this option of Hydra is not used here"),
    ("--experimental-rerun=x", "--experimental-rerun=x: this option"),
    ("--cfg nosuch", "invalid choice: 'nosuch'"),
    ("--cfg job --resolve 'seed=${nowhere}'", "'nowhere' not found"),
    ("--resolve", "--resolve"),
    ("phase1.global_batch=-1", "phase1.global_batch=-1: must be at least 1"),
    *((f"--config-dir=OWN experiment={name}", words) for name, words in (
        ("cut", "experiment=cut: while parsing"), ("list", "its first line must be `# @package _global_`"),
        ("plain", "its first line must be `# @package _global_`"), ("bytes", "experiment=bytes: 'utf-8' codec"),
        ("unknown", "experiment=unknown: unknown setting 'phase1.stepps'"), ("typed", "phase1.steps=many"),
        ("loop", "experiment=loop: its defaults lead back"), ("lost", "experiment/nosuch: no such file"),
        ("named", "run.name refers to ${nowhere}"), ("nofile", "Choose from"),
    )),
]  # fmt: skip


@command
def stage(_) -> None:
    """What a stage is to the machinery of commands."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "experiment").mkdir()
    for name, content in OWN.items():
        file = folder / "experiment" / f"{name}.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str]:
    """Exit code and what is said; anything but SystemExit fails the test."""
    monkeypatch.setattr(sys, "argv", ["stage", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    try:
        stage()
    except SystemExit as ended:
        return int(ended.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.mark.parametrize(("line", "words"), KINDS, ids=[line for line, _ in KINDS])
def test_every_kind_of_fault_is_one_message(line: str, words: str, own: Path, monkeypatch, capsys) -> None:
    code, said = typed(monkeypatch, capsys, shlex.split(line.replace("OWN", str(own))))
    assert code == 2
    assert words in said
    assert len(said.splitlines()) == 1
    assert said.startswith("error: ")


def test_odd_overrides_never_end_in_a_traceback(monkeypatch, capsys) -> None:
    """Valid ones with a few characters put in, taken out or doubled."""
    draw, valid = (
        random.Random(0),
        ["seed=1", "model=mini", "phase1.steps=[1,2]", "~seed", "run.name=a", "+x={a:1}"],
    )
    for _ in range(12):
        text = list(draw.choice(valid))
        for _ in range(draw.randint(1, 3)):
            text.insert(draw.randrange(len(text) + 1), draw.choice("~+=[]{}'\"$.,:@ /\\#é?-"))
        code, said = typed(monkeypatch, capsys, ["".join(text)])
        assert code in (0, 2), "".join(text)
        assert "Traceback" not in said
        assert not code or said.startswith("error: ")


@pytest.mark.parametrize("first", ["phase1.stepps=3", "+nosuch=1", "seed=many", "~seed", "run.name=${nowhere}", "a=[1"])
def test_a_wrong_key_and_a_wrong_value_are_both_named(first: str) -> None:
    with pytest.raises(SettingsError) as refused:
        composed(first, "phase1.peak_lr=-1", "nonsense=2")
    assert len(refused.value.problems) == 3
    assert any("phase1.peak_lr=-1.0: must be above 0" in problem for problem in refused.value.problems)
    assert any("unknown setting 'nonsense'" in problem for problem in refused.value.problems)


def test_values_are_not_compared_with_those_of_a_file_that_was_not_meant() -> None:
    with pytest.raises(SettingsError) as refused:
        composed("experiment=nosuch", "phase1.warmup_steps=2000")
    assert len(refused.value.problems) == 1
    with pytest.raises(SettingsError, match=r"judged without phase1\.steps=many"):
        composed("phase1.steps=many", "phase1.warmup_steps=950")


def test_a_batch_below_one_does_not_blame_the_devices() -> None:
    with pytest.raises(SettingsError) as refused:
        composed("phase1.global_batch=-1")
    assert not any("hardware.devices" in problem for problem in refused.value.problems)


@pytest.mark.parametrize("name", STAGES)
def test_the_examples_of_the_help_compose(name: str) -> None:
    stage_ = STAGES[name]
    assert len(stage_.examples) == 5
    for settings, purpose in stage_.examples:
        assert purpose
        overrides = OverridesParser.create().parse_overrides(shlex.split(settings))
        choices = [
            [f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] if o.is_sweep_override() else [o.input_line]
            for o in overrides
            if not o.key_or_group.startswith("hydra")
        ]
        assert name == "sweep" or not any(o.is_sweep_override() for o in overrides)
        for one in itertools.islice(itertools.product(*choices), 2):
            compose_settings([str(override) for override in one])


@pytest.mark.parametrize("name", STAGES)
def test_the_help_is_ours_and_names_settings_that_exist(name: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    importlib.import_module(STAGES[name].module).main()
    page = capsys.readouterr().out
    assert page.startswith(f"usage: bert-lamb {name} ")
    assert all(words in page for words in (STAGES[name].does, STAGES[name].reads, STAGES[name].writes, "--hydra-help"))
    assert set(STAGES[name].decides) <= {*_all_keys()}
    named = re.findall(rf"\b(?:{'|'.join({key.partition('.')[0] for key in _all_keys()})})\.\w+", page)
    assert set(named) <= {*_all_keys()}


def test_the_own_recipe_of_the_documents_is_planned(tmp_path: Path, monkeypatch, capsys) -> None:
    """The file and the command as docs/training.md shows them."""
    section = (ROOT / "docs/training.md").read_text().partition("\n## A recipe of your own\n")[2].partition("\n## ")[0]
    (content,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    (line,) = re.findall(r"python -m bert_lamb\.plan (.*)", section)
    (tmp_path / "recipes/experiment").mkdir(parents=True)
    (tmp_path / "recipes/experiment/my_recipe.yaml").write_text(content)
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(line)
    s = compose_settings(arguments)
    assert s.experiment == "my_recipe"
    monkeypatch.setattr(plan, "measured_rates", lambda *_: {})
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    plan.main()
    said = capsys.readouterr().out
    assert said.startswith("my_recipe: BERT-mini, ")
    assert f"phase 1: {s.phase1.steps:,} steps" in said
    assert re.search(r"phase1\.steps +\d+ +ours, a trial", said)


def test_output_that_nobody_reads_to_its_end_is_no_error() -> None:
    """As of `plan | head`."""
    program = "from bert_lamb.settings import command; command(lambda s: print('line ' * 100_000))()"
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(reading)
    os.close(writing)
    assert process.communicate()[1] == ""
    assert process.returncode == 128 + signal.SIGPIPE
