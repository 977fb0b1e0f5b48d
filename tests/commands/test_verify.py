"""The verify command: rot is found in every file of store, checkpoints and arms, whatever the stamps and times say."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from ranks.pretrain import pretrain_for
from tools import make_store, tiny

from bert_lamb import verify as stage
from bert_lamb.checksums import write_sums
from bert_lamb.data.manifest import read_manifest, verify_store
from bert_lamb.files import write_json
from bert_lamb.run import ARM_FILES, RunFolder, open_run
from bert_lamb.settings import Settings
from bert_lamb.verify import VerifyError, verify, verify_folders

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a run that was stopped in phase 2, and an arm's files."""
    folder = tmp_path_factory.mktemp("made")
    make_store(folder / "data" / "made")
    run = open_run(tiny(folder))
    pretrain_for(run, 8)
    arm = run.arm("scratch-0123456789-seed0")
    arm.path.mkdir(parents=True)
    for name in ARM_FILES:
        (arm.path / name).write_text(f"content of {name}")
    result = {"arm": "scratch", "unmatched": []} | dict.fromkeys(
        ("f1", "em", "questions", "train_questions", "steps", "skipped", "loss", "seconds"), 1
    )
    write_json(arm.result_file, result)
    write_sums(arm.path, [*ARM_FILES, "result.json"])
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """Moved as a whole, with the path of its data."""
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    for file in folder.glob("runs/*/settings.yaml"):
        file.write_text(file.read_text().replace(str(made), str(folder)))
    return folder


def settings(copy: Path) -> Settings:
    return tiny(copy)


def only_run(folder: Path) -> RunFolder:
    (path,) = (folder / "runs").iterdir()
    return RunFolder(path)


def test_what_is_whole_is_said_in_a_line_a_part(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    verify(settings(copy))
    lines = capsys.readouterr().out.splitlines()
    parts = ["data/made", "runs/sample-", "step-000003", "step-000006", "step-000002", "squad/scratch-"]
    assert len(lines) == len(parts)
    for line, part in zip(lines, parts, strict=True):
        assert part in line
        assert line.endswith(("unchanged", "readable and of one recipe"))
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before, "nothing is changed"


def test_every_file_with_a_checksum_is_looked_at(copy: Path) -> None:
    """A bit flips and the time of the file stays."""
    store, run = copy / "data" / "made", only_run(copy)
    verify_store(store, read_manifest(store))  # leaves stamps
    files = [store / name for name in [*read_manifest(store)["files"]][::4]]
    files += [p for p in run.path.glob("phase*/checkpoints/*/*") if p.is_file()]
    files += [p for p in run.path.glob("squad/*/*") if p.is_file()]
    assert len(files) > 25
    for path in files:
        content, status = path.read_bytes(), path.stat()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(VerifyError) as found:
            verify(settings(copy))
        assert path.parent.name in str(found.value)
        assert path.name in str(found.value) or path.name == "SHA256SUMS"
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    verify(settings(copy))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("machine.json", "[", "machine.json is damaged"),
        ("events.jsonl", "nonsense\n", "events.jsonl: 1 line cannot be read"),
        ("phase1/metrics.jsonl", '{"step": "x"}\n', "metrics.jsonl: 1 line cannot be read"),
        ("phase1/result.json", "{}", "result.json is damaged"),
        ("phase1/result.json", '{"checkpoint": "checkpoints/step-000009"}', "step-000009 is missing"),
        ("phase1/result.json", '{"checkpoint": "../../elsewhere"}', "result.json is damaged"),
        ("data_manifest.json", "{}", "not the manifest of the data that the run used"),
        ("recipe.json", '{"seed": 7}', "not the recipe that the folder is named after"),
        ("../../data/made/manifest.json", "{", "manifest.json is not JSON"),
    ],
)
def test_records_that_cannot_be_right(copy: Path, name: str, content: str, words: str) -> None:
    s = settings(copy)
    run = only_run(copy).path
    (run / name).write_text(content)
    with pytest.raises(VerifyError, match=words):
        verify_folders([run])
    if name == "recipe.json":
        with pytest.raises(VerifyError):
            verify(s)


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd"])
def test_a_name_that_leads_outside_is_not_followed(copy: Path, name: str) -> None:
    store = copy / "data" / "made"
    manifest = read_manifest(store)
    manifest["files"][name] = {"sha256": "0" * 64}
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VerifyError, match=f"'files' names '{name}', which no file of a store is called"):
        verify_folders([only_run(copy).path])


def test_it_is_a_command(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code and list, by settings and by folder."""
    run = only_run(copy)
    by_folder = ["verify", str(run.path)]
    by_settings = ["verify", f"data.root={copy / 'data'}", "data.name=made", f"run.root={copy / 'runs'}",
                   f"run.name={run.path.name}"]  # fmt: skip
    for argv in (by_folder, by_settings):
        monkeypatch.setattr(sys, "argv", argv)
        stage.main()
    weights = next(run.path.glob("phase1/checkpoints/*/model.safetensors"))
    weights.write_bytes(b"")
    for argv in (by_folder, by_settings):
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            stage.main()
        assert ended.value.code not in (0, None)
        said = f"{ended.value.code}{capsys.readouterr().err}"
        assert f"1 file is damaged or missing:\n- {weights} does not match SHA256SUMS" in said


def test_a_store_without_a_run(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "runs")
    verify(settings(copy))
    assert "no run there yet" in capsys.readouterr().out
