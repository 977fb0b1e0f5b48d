"""Every command that the documents name runs: its make target exists, its module too, and its settings compose."""

import importlib.util
import re
import shlex
import subprocess

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from tools import ROOT

from bert_lamb.optim import square_root_scaled
from bert_lamb.settings import conf_dir, register_schema

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "conf").rglob("*.yaml"))
GAP = r"(?:[ ]|\n#?[ ]*)+"  # commands may be wrapped, also in a comment
ARGUMENT = r"[\w.@/+~-]+=(?:'[^']*'|[^\s`'|)]*)"
COMMAND = re.compile(rf"(?:`|[ ]{{3,}}|[Rr]un:?[ ]+)((?:make{GAP}[a-z-]+|python -m [\w.]+)(?:{GAP}{ARGUMENT})*)")


def documented() -> list[tuple[str, str]]:
    found = set()
    for page in PAGES:
        commands = (re.sub(r"\n#?", " ", match.group(1)) for match in COMMAND.finditer(page.read_text()))
        found |= {(page.name, " ".join(shlex.quote(w) for w in shlex.split(c))) for c in commands}
    return sorted(found)


def test_documents_name_commands():
    """The search below would pass on nothing."""
    assert len(documented()) >= 15


@pytest.mark.parametrize(("page", "command"), documented(), ids=lambda value: str(value)[:70])
def test_documented_command_runs(page: str, command: str):
    words = shlex.split(command)
    lines = [words]
    if words[0] == "make":
        dry = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, f"{page}: {command}: {dry.stderr}"
        stages = [line for line in dry.stdout.splitlines() if re.search(r" -m (bert_lamb|data_prep)\.", line)]
        lines = [shlex.split(line) for line in stages]
    for line in lines:
        if line[0] == "make" or line[2] == "pytest":
            continue
        module, overrides = line[line.index("-m") + 1], line[line.index("-m") + 2 :]
        assert importlib.util.find_spec(module), f"{page}: {command}: no module {module}"
        own_files = any(o.startswith("--config-dir=") for o in overrides)  # composed in test_command_lines.py
        if ".bench." not in module and not own_files:
            compose_all([o.replace("[...]", "[x]").removesuffix("...") for o in overrides])


def compose_all(overrides: list[str]) -> None:
    """Composes each value of a sweep once."""
    register_schema()
    fixed, swept = [], []
    for override, parsed in zip(overrides, OverridesParser.create().parse_overrides(overrides), strict=True):
        if parsed.key_or_group.startswith("hydra"):
            continue
        if parsed.is_sweep_override():
            swept += [f"{parsed.key_or_group}={value}" for value in parsed.sweep_string_iterator()]
        else:
            fixed.append(override)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for one in swept or [None]:
            compose("config", fixed + ([one] if one else []))


def test_learning_rates_to_start_from_are_the_rule():
    rows = re.findall(r"^\| ([\d,]+) \| (\d\.\d\de-\d) \|", (ROOT / "docs/optimizers.md").read_text(), re.MULTILINE)
    assert [int(batch.replace(",", "")) for batch, _ in rows] == [256 * 2**k for k in range(9)]
    for batch, rate in rows:
        assert f"{square_root_scaled(5e-3, 32768, int(batch.replace(',', ''))):.2e}" == rate.replace("e-", "e-0")


def test_the_map_names_files_that_exist():
    """docs/architecture.md and CONTRIBUTING.md tell where things are."""
    for page in ("docs/architecture.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text()
        named = re.findall(r"`((?:bert_lamb|data_prep|conf|tests|docs)/[\w./-]*)`", text)
        assert len(named) > 10
        missing = [name for name in named if not (ROOT / name).exists()]
        assert not missing, f"{page} names {missing}"


def test_every_room_is_on_the_map():
    text = (ROOT / "docs/architecture.md").read_text()
    for package in ("bert_lamb", "data_prep"):
        rooms = [path.parent.name for path in (ROOT / package).glob("*/__init__.py")]
        assert rooms
        assert not [room for room in rooms if f"{room}/" not in text]
