"""Imports flow one way, files stay short, and nothing loads what could run code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools import ROOT

PACKAGES = ("bert_lamb", "data_prep")
LONGEST = 320  # lines of a file

COMMANDS = "pretrain finetune evaluate report report_data plan sweep verify rehearse cli"
GROUND = "batch checksums errors files hashing jsonfiles locks machine signals squadfiles words"
TOOLS = "data model parallel hardware"
RECORDS = "run tasks"
ROOMS = "training planning reporting"
BELOW_RECORDS = f"{TOOLS} optim settings {GROUND}"
BELOW_ROOMS = f"{RECORDS} {BELOW_RECORDS}"
MAY = {  # part of bert_lamb: the parts that it may import, besides itself. Each level uses only the levels below it.
    **dict.fromkeys(GROUND.split(), GROUND),
    "settings": GROUND,
    "optim": "",  # torch alone, for people who only want the optimizer
    **dict.fromkeys(TOOLS.split(), f"optim settings {GROUND}"),
    "run": BELOW_RECORDS,
    "tasks": BELOW_RECORDS,
    **dict.fromkeys(ROOMS.split(), BELOW_ROOMS),
    **dict.fromkeys(COMMANDS.split(), f"{ROOMS} {BELOW_ROOMS}"),
    "bench": f"{COMMANDS} {ROOMS} {BELOW_ROOMS}",
    "data_prep": f"data settings {GROUND}",
}
RULES = {  # what a wrong arrow is told, by the level of the file that has it
    **dict.fromkeys(GROUND.split(), "the ground imports nothing but the ground"),
    "settings": "settings stand on the ground alone",
    "optim": "the optimizer needs torch alone",
    **dict.fromkeys(TOOLS.split(), "data, model, parallel and hardware do not know each other, nor what uses them"),
    **dict.fromkeys(RECORDS.split(), "run and tasks do not know each other, nor the rooms above"),
    **dict.fromkeys(ROOMS.split(), "training, planning and reporting do not know each other, nor any command"),
    **dict.fromkeys(COMMANDS.split(), "a command uses the rooms, never another command or a benchmark"),
    "bench": "a benchmark may use everything of bert_lamb",
    "data_prep": "preparing data knows the store's format and the settings alone",
}


LEVELS = ("commands", "store", "shards", "text", "reading", "world")  # of data_prep: each uses those to its right


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, imports inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


def part_of(path: Path) -> str:
    """The room of bert_lamb, or its module at the root, that a file belongs to; "data_prep" for all of that package."""
    package, first = path.relative_to(ROOT).parts[:2]
    return first.removesuffix(".py") if package == "bert_lamb" else package


def forbidden(part: str, names: Iterator[str]) -> set[str]:
    """Parts of bert_lamb among these names that `part` may not import."""
    own = {n.split(".")[1] for n in names if n.startswith("bert_lamb.")}
    return own - set(MAY[part].split()) - ({part} - set(COMMANDS.split()))


def level_of(path: Path) -> str:
    """The room of data_prep that a file stands in; its root holds the commands."""
    parts = path.relative_to(ROOT / "data_prep").parts
    return parts[0] if len(parts) > 1 else "commands"


def against_the_levels(level: str, names: Iterator[str]) -> set[str]:
    """Rooms of data_prep among these names that `level` may not import. A command is imported by nobody."""
    used = {parts[1] if parts[1] in LEVELS else "commands" for n in names if (parts := n.split("."))[0] == "data_prep"}
    allowed = LEVELS[LEVELS.index(level) :]
    return {room for room in used if room not in allowed or room == "commands"}


@pytest.mark.parametrize("path", sources("data_prep"), ids=relative)
def test_rooms_of_data_prep_use_what_stands_to_their_right(path: Path) -> None:
    level = level_of(path)
    wrong = sorted(against_the_levels(level, imported(path)))
    assert not wrong, f"{relative(path)} imports {', '.join(wrong)}: the order is {' -> '.join(LEVELS)}"


def test_an_import_to_the_left_would_be_seen() -> None:
    assert against_the_levels("text", iter(["data_prep.store.pool.run_slices", "data_prep.reading.slices"])) == {
        "store"
    }
    assert against_the_levels("commands", iter(["data_prep.prepare.prepare"])) == {"commands"}
    assert not against_the_levels("store", iter(["data_prep.world.world", "bert_lamb.files"]))


@pytest.mark.parametrize("path", [p for f in PACKAGES for p in sources(f)], ids=relative)
def test_imports_flow_down(path: Path) -> None:
    part = part_of(path)
    names = list(imported(path))
    if part != "__init__":
        wrong = sorted(forbidden(part, iter(names)))
        assert not wrong, f"{relative(path)} imports {', '.join(wrong)}: {RULES[part]}"
    if part not in ("sweep", "data_prep", "bench"):
        assert not [n for n in names if n.startswith("data_prep")], "training knows of prepared data only"
    if part not in ("data_prep", "__init__"):
        assert not [n for n in names if n.startswith("tests")]


def test_the_table_names_every_part() -> None:
    parts = {part_of(p) for f in PACKAGES for p in sources(f)} - {"__init__"}
    assert parts <= MAY.keys(), "a new part needs its line in the table"
    assert MAY.keys() == RULES.keys()


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    guilty = tmp_path / "guilty.py"
    guilty.write_text("def f():\n    from bert_lamb.model import build_bert\n    import bert_lamb.bench.x\n")
    assert forbidden("data", imported(guilty)) == {"model", "bench"}
    assert forbidden("pretrain", iter(["bert_lamb.finetune.main"])) == {"finetune"}
    assert forbidden("reporting", iter(["bert_lamb.planning.cost"])) == {"planning"}
    assert forbidden("optim", iter(["bert_lamb.settings"])) == {"settings"}


def test_no_file_is_long() -> None:
    lines = {relative(p): len(p.read_text().splitlines()) for f in PACKAGES for p in sources(f)}
    assert not {path: n for path, n in lines.items() if n > LONGEST}


def test_nothing_runs_code_from_data() -> None:
    found = {relative(p): dangers(p.read_text()) for f in (*PACKAGES, "tests") for p in sources(f)}
    assert not {path: what for path, what in found.items() if what}


@pytest.mark.parametrize("path", [p for f in PACKAGES for p in sources(f)], ids=relative)
def test_files_are_parsed_where_nesting_without_end_is_seen(path: Path) -> None:
    """Python's own readers end with RecursionError, which nobody expects of a file."""
    called = {ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)}
    wrong = called & {"json.load", "json.loads", "OmegaConf.load", "yaml.safe_load"}
    assert not wrong or relative(path) == "bert_lamb/jsonfiles.py", "use jsonfiles.parse_json, settings.load_yaml"


def dangers(source: str) -> list[str]:
    """Calls and imports that read code out of files or hand strings to a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            found += [
                n for n in names if re.fullmatch(r"(c?[Pp]ickle|dill|cloudpickle|joblib|shelve|marshal)(\..*)?", n)
            ]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if called in ("yaml.load", "yaml.unsafe_load", "os.system", "os.popen", "eval", "exec"):
            found.append(called)
        if called in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            found.append("np.load with pickles")
        if given.get("shell", "False") != "False":
            found.append("shell=True")
        if "trust_remote_code" in given:
            found.append("trust_remote_code")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "torch.load(f)", "yaml.load(f)",
        "torch.load(f, weights_only=False)",
        "os.system('ls')", "subprocess.run('ls', shell=True)", "from_pretrained(p, trust_remote_code=False)",
        "np.load(f, allow_pickle=True)",
    ],
)  # fmt: skip
def test_a_danger_would_be_seen(source: str) -> None:
    assert dangers(source)
