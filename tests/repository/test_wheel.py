"""What `pip install` brings: the wheel's parts, its needs, and a command that runs from any folder."""

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from tools import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as pip does."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site")
    return out / "site"


def test_torch_is_all_that_the_base_needs(site: Path) -> None:
    (metadata,) = site.glob("*.dist-info/METADATA")
    needs = Parser().parsestr(metadata.read_text()).get_all("Requires-Dist", [])
    assert [need for need in needs if "extra ==" not in need] == ["torch>=2.11"]


def test_every_source_and_setting_is_in_it(site: Path) -> None:
    for folder, inside in (("bert_lamb", "bert_lamb"), ("data_prep", "data_prep"), ("conf", "bert_lamb/conf")):
        here = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".typed")]
        assert here
        missing = [path for path in here if not (site / inside / path.relative_to(ROOT / folder)).is_file()]
        assert not missing


def test_commands_run_from_any_folder(site: Path, tmp_path: Path) -> None:
    def printed(*command: str) -> str:
        env = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert printed("-c", "import bert_lamb; print(bert_lamb.__path__)").strip() == f"{[str(site / 'bert_lamb')]}"
    assert "bert-lamb pretrain [key=value ...]" in printed("-m", "bert_lamb.pretrain", "--help")
    assert "65,536" in printed("-m", "bert_lamb.plan", "experiment=bert_large_64k_32k")
