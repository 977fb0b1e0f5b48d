"""Imports flow one way, files stay short, and nothing loads what could run code (design, section 8)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bert_lamb", "data_prep")
LONGEST = 320  # lines of a file

STAGES = {"pretrain", "finetune", "evaluate", "report", "plan", "sweep"}
PARTS = "settings batch files machine hashing repeatable data model optim parallel run tasks"
HELPERS = "budget assembly fitting heldout preflight"  # what the stages are put together from
REPORT = "report_parts summary"  # report_*.py and the sweep's table
MAY = {  # part: parts of bert_lamb that it may import, besides itself
    **dict.fromkeys(["files", "batch", "machine", "hashing"], ""),
    "settings": "",
    "repeatable": "hashing",
    "data": "settings batch files hashing",
    "model": "settings batch hashing",
    "optim": "",
    "parallel": "settings",
    "run": "settings batch files parallel optim model",  # checkpoint and metrics receive objects of these
    "tasks": "settings batch files",
    **dict.fromkeys(HELPERS.split(), f"{PARTS} {HELPERS}"),
    **dict.fromkeys(REPORT.split(), f"settings files data optim run tasks {REPORT} budget"),
    **dict.fromkeys(STAGES, f"{PARTS} {HELPERS} {REPORT}"),
    "bench": f"{PARTS} {HELPERS} {REPORT} {' '.join(STAGES)}",
    "data_prep": "data settings files",
}


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
    package, first = path.relative_to(ROOT).parts[:2]
    return _part(first.removesuffix(".py")) if package == "bert_lamb" else package


def _part(name: str) -> str:
    return "report_parts" if name.startswith("report_") else name


def forbidden(part: str, names: Iterator[str]) -> set[str]:
    """Parts of ours among these names that `part` may not import."""
    own = {_part(n.split(".")[1]) for n in names if n.startswith("bert_lamb.")}
    return own - set(MAY[part].split()) - ({part} - STAGES)


@pytest.mark.parametrize("path", [p for f in PACKAGES for p in sources(f)], ids=relative)
def test_imports_flow_down(path: Path) -> None:
    part = part_of(path)
    names = list(imported(path))
    if part != "__init__":
        assert not forbidden(part, iter(names)), f"{part} may not import {sorted(forbidden(part, iter(names)))}"
    if part not in ("sweep", "data_prep", "bench"):
        assert not [n for n in names if n.startswith("data_prep")], "training knows of prepared data only"
    if part not in ("data_prep", "__init__"):
        assert not [n for n in names if n.startswith("tests")]


def test_the_table_names_every_part() -> None:
    parts = {part_of(p) for f in PACKAGES for p in sources(f)} - {"__init__"}
    assert parts <= MAY.keys(), "a new part needs its line in the table"


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    guilty = tmp_path / "guilty.py"
    guilty.write_text("def f():\n    from bert_lamb.model import build_bert\n    import bert_lamb.bench.x\n")
    assert forbidden("data", imported(guilty)) == {"model", "bench"}
    assert forbidden("pretrain", iter(["bert_lamb.finetune.main"])) == {"finetune"}


def test_no_file_is_long() -> None:
    lines = {relative(p): len(p.read_text().splitlines()) for f in PACKAGES for p in sources(f)}
    assert not {path: n for path, n in lines.items() if n > LONGEST}


def test_nothing_runs_code_from_data() -> None:
    found = {relative(p): dangers(p.read_text()) for f in (*PACKAGES, "tests") for p in sources(f)}
    assert not {path: what for path, what in found.items() if what}


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
