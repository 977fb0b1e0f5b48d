"""`hardware.precision=auto`: decided by timing, once, by the command; the same for all ranks and for a resumed run."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks.pretrain import pretrain_for
from tools import environment, tiny, tiny_overrides

from bert_lamb import plan as plan_stage
from bert_lamb import pretrain as stage
from bert_lamb.hardware import Precision, choose_precision, precision
from bert_lamb.run import RunFolderError, keep_precision, open_run, run_precision
from bert_lamb.settings import ModelSettings, SettingsError, compose_settings, recipe_hash, settings_yaml

CPU = torch.device("cpu")
SHAPE = ModelSettings("tiny", 2, 128, 2, 512, 64, 0.1, 0.1, 0.02)
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch):
    """Sets how long products take, (fp32, bf16) in seconds; None: timing them fails the test."""

    def take(seconds: tuple[float, float] | None) -> None:
        monkeypatch.setattr(precision, "product_seconds", lambda *shape: seconds or pytest.fail("timed again"))

    return take


@pytest.mark.parametrize(
    ("fp32_s", "bf16_s", "name", "words"),
    [
        (2.0, 1.0, "bf16", "bf16 products are 2.0 times as fast as fp32 ones here"),
        (1.1, 1.0, "fp32", "bf16 products are 1.1 times as fast as fp32 ones here"),
        (1.0, 12.0, "fp32", "bf16 products take 12.0 times as long as fp32 ones here"),
    ],
)
def test_bf16_must_be_clearly_faster(products, fp32_s: float, bf16_s: float, name: str, words: str) -> None:
    products((fp32_s, bf16_s))
    chosen = choose_precision("auto", CPU, SHAPE)
    assert (chosen.name, chosen.why) == (name, words)
    for asked in ("bf16", "fp32", "fp64"):
        assert choose_precision(asked, CPU, SHAPE).name == asked


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the mask is for x86")
def test_a_processor_without_bf16_products_gets_fp32() -> None:
    """Real products, with this processor's newer instructions masked from oneDNN."""
    code = (
        "import torch; from bert_lamb.hardware import choose_precision; from bert_lamb.settings import ModelSettings\n"
        "shape = ModelSettings('tiny', 2, 128, 2, 512, 64, 0.1, 0.1, 0.02)\n"
        "print(choose_precision('auto', torch.device('cpu'), shape).name, torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(**AVX2, OMP_NUM_THREADS="2"), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["fp32", "2"], "and the number of threads is as before"


@pytest.mark.parametrize(("supported", "name"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_is_asked(monkeypatch: pytest.MonkeyPatch, products, supported: bool, name: str) -> None:
    """Emulated products do not count."""
    products(None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or supported
    )
    assert choose_precision("auto", torch.device("cuda"), SHAPE).name == name


def test_a_gpu_elsewhere_is_assumed_to_have_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    chosen = choose_precision("auto", torch.device("cuda"), SHAPE)
    assert chosen.name == "bf16"
    assert "no GPU here" in chosen.why


def test_it_is_the_default_and_no_part_of_the_recipe() -> None:
    sample, fp32 = compose_settings([]), compose_settings(["hardware.precision=fp32"])
    assert sample.hardware.precision == "auto"
    assert compose_settings(["hardware=cpu"]).hardware.precision == "fp32"
    from bert_lamb.settings import recipe

    assert recipe_hash(recipe(sample, "digest")) == recipe_hash(recipe(fp32, "digest"))


def test_a_run_keeps_what_it_chose(place: Path, products) -> None:
    """On the same machine nothing is timed again. Another one decides anew: no step was computed yet (test_starts)."""
    s = tiny(place, "run.name=kept", "hardware.precision=auto")
    folder = open_run(s)
    with pytest.raises(RunFolderError, match=r"hardware\.precision=auto is not decided"):
        run_precision(s, folder)
    products((1.0, 12.0))
    assert keep_precision(s, folder, CPU).name == run_precision(s, folder) == "fp32"
    products(None)
    assert keep_precision(s, folder, CPU).name == "fp32"
    folder.precision_file.write_text(json.dumps(Precision("fp32", "another CPU", "slow in bf16").record()))
    products((2.0, 1.0))
    assert keep_precision(s, folder, CPU).name == run_precision(s, folder) == "bf16"


@pytest.mark.parametrize(("seconds", "name"), [((1.0, 9.0), "fp32"), ((9.0, 1.0), "bf16")])
def test_every_record_tells_the_one_that_was_used(
    place: Path, products, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds, name: str
) -> None:
    """The command decides, prints it, and the run trains in it; the settings stay as they were given."""
    products(seconds)
    given = [*tiny_overrides(place), "hardware.precision=auto", f"run.name=told-{name}"]
    monkeypatch.setattr(sys, "argv", ["pretrain", *given])
    stage.main()
    folder = open_run(compose_settings(given))
    assert f"precision: {name} (bf16 products" in capsys.readouterr().err
    assert folder.settings().hardware.precision == "auto"
    assert json.loads(folder.plan_file.read_text())["precision"]["name"] == name
    assert json.loads(folder.machine_file.read_text())["precision"] == name
    assert {folder.phase_result(n)["precision"] for n in (1, 2)} == {name}  # type: ignore[index]
    products(None)
    monkeypatch.setattr(sys, "argv", ["plan", *given])
    plan_stage.main()
    assert f"precision: {name} (as in this run's steps so far)" in capsys.readouterr().out


def test_the_precision_reaches_the_products(place: Path) -> None:
    """Losses of the first step: those of the explicit setting, to the bit."""
    losses = {}
    for asked, kept in (("auto", "bf16"), ("auto", "fp32"), ("bf16", None), ("fp32", None)):
        s = tiny(place, f"run.name=reaches-{asked}-{kept}", f"hardware.precision={asked}")
        folder = open_run(s)
        if kept:
            folder.precision_file.write_text(json.dumps(Precision(kept, "a CPU", "").record()))
        pretrain_for(folder, 1)
        losses[kept or asked, asked] = json.loads(folder.metrics_file(1).read_text().splitlines()[0])["loss"]
    assert losses["bf16", "auto"] == losses["bf16", "bf16"] != losses["fp32", "fp32"] == losses["fp32", "auto"]


def test_apples_gpu_is_not_used_and_that_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"hardware.device=mps: choose one of auto, cpu, cuda \(Apple's GPUs are"):
        compose_settings(["hardware.device=mps"])
    s = tiny(place, "hardware.device=auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert stage.unused_devices(s) == []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    (told,) = stage.unused_devices(s)
    assert told.startswith("this machine's Apple GPU (mps) is not used")
    assert "precision: fp32" in settings_yaml(s)
