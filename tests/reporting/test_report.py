"""The report, from a run folder alone: numbers, missing stages, roll-backs, equal bytes."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tools import composed

from bert_lamb.optim import PRESETS
from bert_lamb.report import main, write_report
from bert_lamb.reporting.figures import loss_figure, schedule_figure, squad_figure, throughput_figure, trust_figure
from bert_lamb.reporting.read_run import ReportError, read_run
from bert_lamb.reporting.summary import summary
from bert_lamb.reporting.text import report_text
from bert_lamb.settings import recipe, settings_yaml

TENSORS = {
    "bert.embeddings.word_embeddings.weight": 12.0,
    "bert.encoder.layer.0.attention.self.query.weight": 4.0,
    "bert.encoder.layer.1.attention.self.query.weight": 5.0,
    "bert.encoder.layer.0.output.dense.weight": 3.0,
    "bert.encoder.layer.0.output.LayerNorm.weight": 1.0,
}
FIGURES = ("squad", "loss", "schedule", "trust_ratios", "throughput")


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def phase_lines(number: int, steps: int, batch: int = 8) -> list[dict[str, Any]]:
    """Lines as pretraining writes them; step 5 of phase 1 is skipped, its gradient was not finite."""
    lines = []
    for step in range(1, steps + 1):
        mlm = 7.0 - 0.1 * step - 2 * (number - 1)
        bad = number == 1 and step == 5
        line = {
            "step": step, "loss": mlm + 0.6, "mlm_loss": mlm, "nsp_loss": 0.6, "mlm_accuracy": 0.1,
            "learning_rate": 0.001 * step, "grad_norm": None if bad else 2.0,
            "skipped": int(number == 1 and step >= 5), "sequences": batch, "tokens": 100 * batch,
            "padding": 0.02, "seconds": 0.5, "tflops": 0.25,
        }  # fmt: skip
        if step % 5 == 0:
            line["trust_ratios"] = {name: ratio * (1 + step / 100) if ratio != 1 else 1.0
                                    for name, ratio in TENSORS.items()}  # fmt: skip
        if step % 10 == 0:
            line |= {"heldout_mlm_loss": mlm + 0.25, "heldout_mlm_accuracy": 0.2}
        lines.append(line)
    return lines


def make_run(path: Path, *overrides: str, f1: tuple[float, float] | None = (92.514, 17.2)) -> Path:
    """A finished run: 20 and 10 steps."""
    s = composed("phase1.steps=20", "phase2.steps=10", "phase1.warmup_steps=2", "phase2.warmup_steps=1", *overrides)
    path.mkdir(parents=True)
    machine = {
        "host": "node7", "device": "a CPU", "ranks": 1, "threads": 2, "commit": "abcdef0123456789",
        "dirty": True, "versions": {"torch": "2.13.0"}, "precision": "bf16", "compiled": True,
    }  # fmt: skip
    plan = {
        "devices": 1, "flops": 3e12, "hours": 0.01,
        "phases": [
            {"flops": 2e12, "steps": 20, "tflops": 0.1, "tflops_from": "assumed"},
            {"flops": 1e12, "steps": 10, "tflops": 0.1, "tflops_from": "assumed"},
        ],
    }  # fmt: skip
    manifest = {
        "counts": {"documents": 6200}, "tokenizer": {"size": 2000, "sha256": "ab" * 32},
        "rejects": {"empty": 3}, "unigram_entropy_nats": 6.125,
        "notes": ["A document is an article or a book."],
    }  # fmt: skip
    (path / "settings.yaml").write_text(settings_yaml(s))
    (path / "recipe.json").write_text(json.dumps(recipe(s, "digest")))
    for name, value in (("machine", machine), ("plan", plan), ("data_manifest", manifest)):
        (path / f"{name}.json").write_text(json.dumps(value))
    write_lines(path / "events.jsonl", [
        {"time": "2026-01-02T03:04:05+0000", "event": "start", "phase": 1, "ranks": 1},
        {"time": "2026-01-02T03:05:05+0000", "event": "skipped", "phase": 1, "step": 5, "in_row": 1},
        {"time": "2026-01-02T03:06:05+0000", "event": "resume", "phase": 1, "step": 10, "ranks": 1},
        {"time": "2026-01-02T03:07:05+0000", "event": "start", "phase": 2, "ranks": 1},
    ])  # fmt: skip
    for number, steps in ((1, 20), (2, 10)):
        write_lines(path / f"phase{number}/metrics.jsonl", phase_lines(number, steps, s.phase(number).global_batch))
        (path / f"phase{number}/result.json").write_text(json.dumps({"steps": steps}))
    for arm, value in zip(("pretrained", "scratch"), f1 or (), strict=bool(f1)):
        folder = path / "squad" / f"{arm}-0123456789-seed0"
        folder.mkdir(parents=True)
        result = {
            "arm": arm, "f1": value, "em": value - 2, "questions": 400, "unanswered": 0, "steps": 255,
            "skipped": 0, "loss": 0.123, "seconds": 61.0, "train_questions": 1500, "train_windows": 1510,
            "unmatched": ["q7"],
        }  # fmt: skip
        (folder / "settings.yaml").write_text(settings_yaml(s))
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "machine.json").write_text(json.dumps(machine))
    return path


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of the time."""
    monkeypatch.setattr("bert_lamb.report.draw_figures", lambda run, folder: [])


def row(text: str, start: str) -> list[str]:
    """Cells of the one table row that starts so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_whole_report(tmp_path):
    path = make_run(tmp_path / "sample-run", "phase2.global_batch=64", "phase2.seq_len=128", "phase1.peak_lr=0.01")
    line = write_report(path)
    scores = "F1 92.51 with pretraining, 17.20 without (400 questions of the embedded corpus)"
    assert line == f"{scores}: {path / 'report/report.md'}"
    text = (path / "report/report.md").read_text()
    assert row(text, "pretrained-0123456789-seed0")[1:4] == ["400", "92.51", "90.51"]
    assert row(text, "2 | done")[2:] == ["10 of 10", "64", "128", "640", "64,000", "0", "5", "128", "0.250"]
    assert row(text, "1 | 5.600") == ["1", "5.600", "5.000", "0.600", "0.100", "5.250", "0.200"]
    assert "3.00e+12 FLOPs, 36 s on 1 device at 0.1 TFLOP/s per device (assumed)" in text
    assert "Measured: 0.2 TFLOP/s" in text  # 3e12 in 15 s
    assert row(text, "unigram entropy")[1] == "6.125 nats"
    assert row(text, "2026-01-02T03:05:05+0000")[1:] == ["skipped", "phase 1, step 5, in_row 1"]
    assert "03:04:05" not in text  # a first start is nothing that went wrong
    assert row(text, "pretraining")[1:5] == [
        "node7",
        "1 x a CPU",
        "bf16, compiled, threads: 2",
        "abcdef0123, changed",
    ]
    assert row(text, "phase1.peak_lr")[1] == "0.01"
    assert row(text, "optimizer.preset")[2].startswith("arXiv 1904.00962")
    assert row(text, "optimizer.eps")[1:] == ["1e-06", PRESETS["paper"].source]
    assert row(text, "model.init_from")[1:] == ["none", "-"]
    assert str(tmp_path) not in text
    for stem in FIGURES:
        assert f"({stem}.png)" in text
        assert (path / f"report/{stem}.svg").stat().st_size > 1000
        pixels = np.asarray(Image.open(path / f"report/{stem}.png"))
        assert pixels.shape[1] > 600
        assert 0.01 < (pixels[..., :3] < 200).any(axis=2).mean() < 0.8  # something is drawn, on white


def test_a_copied_folder_alone_gives_the_same_bytes(tmp_path):
    path = make_run(tmp_path / "there/run")
    write_report(path)
    copy = tmp_path / "here/other"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("report"))
    first = {file.name: file.read_bytes() for file in (path / "report").iterdir()}
    shutil.rmtree(path)
    write_report(copy)
    assert {file.name: file.read_bytes() for file in (copy / "report").iterdir()} == first
    assert len(first) == 1 + 2 * len(FIGURES)


def test_lines_after_a_resume_replace_those_before(tmp_path):
    path = make_run(tmp_path / "run")
    lines = phase_lines(1, 20)
    again = [line | {"mlm_loss": 9.0} for line in lines[10:15]]  # resumed at 10, and cut again at 15
    write_lines(path / "phase1/metrics.jsonl", lines + again)
    with (path / "phase1/metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "lo')  # a cut while writing
    phase = read_run(path).phases[1]
    assert [line["step"] for line in phase.lines] == list(range(1, 16))
    assert [line["mlm_loss"] for line in phase.lines[8:12]] == [
        lines[8]["mlm_loss"],
        lines[9]["mlm_loss"],
        9.0,
        9.0,
    ]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["squad"], ["Not fine-tuned yet.", "Not fine-tuned yet."]),
        (["squad", "phase2"], ["| 2 | not started | 0 of 10 |"]),
        (["phase2/result.json"], ["| 2 | not finished | 10 of", "| - | not finished | phase 2, step 10 |"]),
        (["squad/pretrained-0123456789-seed0"], ["F1 17.20 without (400 questions of the embedded corpus)"]),
        (["phase1", "phase2", "squad", "plan.json", "machine.json", "data_manifest.json", "events.jsonl"],
         ["| 1 | not started | 0 of 20 |", "Not known yet.", "Nothing: no step was skipped"]),
    ],
)  # fmt: skip
def test_missing_stages_are_said(tmp_path, missing, words, no_figures):
    path = make_run(tmp_path / "run")
    for name in missing:
        shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()
    write_report(path)
    text = (path / "report/report.md").read_text()
    for expected in words:
        assert expected in text


def test_figures_go_with_their_stage(tmp_path):
    path = make_run(tmp_path / "run")
    write_report(path)
    for name in ("squad", "phase2"):
        shutil.rmtree(path / name)
    lines = [line for line in read_run(path).phases[1].lines if line["step"] < 8]
    write_lines(path / "phase1/metrics.jsonl", lines)  # one reading of trust ratios: nothing to draw over steps
    write_report(path)
    assert {f.stem for f in (path / "report").glob("*.png")} == {"loss", "schedule", "throughput"}
    text = (path / "report/report.md").read_text()
    assert "(loss.png)" in text
    assert "(squad.png)" not in text


def test_padding_is_drawn_where_there_was_any(tmp_path):
    run = read_run(make_run(tmp_path / "run"))
    assert len(throughput_figure(run).axes) == 3
    for phase in run.phases.values():
        for line in phase.lines:
            line["padding"] = 0.0
    assert [axes.get_ylabel() for axes in throughput_figure(run).axes] == ["sequences / s", "1000 real\ntokens / s"]


def test_disappointments_are_said(tmp_path, no_figures):
    """Losses of 5.0 are below an entropy of 6.125, and 92.51 is above 17.20."""
    path = make_run(tmp_path / "good", f1=(92.51, 17.2))
    write_report(path)
    assert "learnt but counts" not in (path / "report/report.md").read_text()
    path = make_run(tmp_path / "bad", f1=(17.2, 17.2))
    manifest = json.loads((path / "data_manifest.json").read_text())
    (path / "data_manifest.json").write_text(json.dumps(manifest | {"unigram_entropy_nats": 3.5}))
    write_report(path)
    text = (path / "report/report.md").read_text()
    assert text.count("learnt only word frequencies") == 2
    assert row(text, "- | pretraining gained nothing")[2] == "F1 17.20 with it, 17.20 without"


@pytest.mark.parametrize(("dev_file", "named"), [("/x/dev-v1.1.json", "dev-v1.1.json"), ("/x/own.json", "own.json")])
def test_questions_are_named_by_their_file(tmp_path, no_figures, dev_file, named):
    """400 of them are not SQuAD's development set, whatever the file is called."""
    path = make_run(tmp_path / "run", "data=text", f"finetune.dev_file={dev_file}", "data.seq_lens=[64,128]")
    assert f"(400 questions of {named})" in write_report(path)


def test_folders_of_older_versions_can_be_read(tmp_path, no_figures):
    """A setting that came later is not in their settings.yaml, a part neither, one that went is."""
    path = make_run(tmp_path / "run")
    settings = (path / "settings.yaml").read_text().replace("  stride:", "  bygone:").replace("recovery:", "forgotten:")
    (path / "settings.yaml").write_text(settings)
    write_report(path)
    assert row((path / "report/report.md").read_text(), "finetune.bygone")


def test_trust_ratios_are_grouped_and_tensors_without_one_left_out(tmp_path):
    run = read_run(make_run(tmp_path / "run"))
    axes = trust_figure(run).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "word embeddings",
        "query",
        "feed-forward out",
    ]
    values = axes.collections[0].get_array()
    assert values.shape == (4, 6)  # four adapted tensors, four readings of phase 1 and two of phase 2
    np.testing.assert_allclose(values[:, 0], [12 * 1.05, 4 * 1.05, 5 * 1.05, 3 * 1.05])


def test_the_papers_row_stands_beside_a_run_of_its_batches(tmp_path, no_figures):
    text = {}
    for model in ("large", "tiny"):
        path = make_run(tmp_path / model, "experiment=bert_large_64k_32k", f"model={model}")
        write_report(path)
        text[model] = (path / "report/report.md").read_text()
        paper = row(text[model], "the paper, BERT-Large (arXiv 1904.00962, Table 1)")
        assert paper[1:] == ["65,536 / 32,768", "8,599", "90.584"]
        assert "the recipe has 30 steps; it is scored on 400 questions, not on the dev set's 10,570." in text[model]
    assert "the model is BERT-tiny" in text["tiny"]
    assert "the model is" not in text["large"]


def test_summary_shows_what_differs(tmp_path):
    paths = [make_run(tmp_path / "a", "optimizer=lamb", "phase1.peak_lr=0.01"),
             make_run(tmp_path / "b", "optimizer=adamw", "phase1.peak_lr=0.002", f1=None)]  # fmt: skip
    lines = summary([*paths, tmp_path / "never-began"]).splitlines()
    differing = "optimizer.preset | optimizer.no_adapt | phase1.peak_lr"
    assert lines[0] == f"| run | {differing} | MLM loss | held-out MLM loss | F1 | EM | precision |"
    assert lines[2] == "| a | paper | ['bias', 'norm'] | 0.01 | 4.000 | 4.250 | 92.51 | 90.51 | bf16 |"
    assert lines[3] == "| b | adamw | [] | 0.002 | 4.000 | 4.250 | - | - | bf16 |"
    assert lines[4] == "| never-began | - | - | - | - | - | - | - | - |"
    assert summary([]).splitlines()[0] == "| run | MLM loss | held-out MLM loss | F1 | EM | precision |"


def test_folders_on_the_command_line(tmp_path, monkeypatch, capsys, no_figures):
    paths = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "seed=1")]
    monkeypatch.setattr("sys.argv", ["report", *map(str, paths)])
    main()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("F1 92.51 with pretraining, 17.20 without")
    assert out[2] == "| run | seed | MLM loss | held-out MLM loss | F1 | EM | precision |"
    assert (paths[1] / "report/report.md").is_file()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ReportError, match=r"has no settings\.yaml"):
        write_report(tmp_path)


RECORDS = ("recipe.json", "plan.json", "machine.json", "data_manifest.json", "events.jsonl", "phase1/metrics.jsonl",
           "phase1/result.json", "phase2/metrics.jsonl", "squad/pretrained-0123456789-seed0/result.json",
           "squad/pretrained-0123456789-seed0/machine.json")  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"a": 1}', b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_named_and_stops_no_report(tmp_path, no_figures, name, content):
    path = make_run(tmp_path / "run")
    (path / name).write_bytes(content + b"\n")
    problems = read_run(path).problems
    write_report(path)
    text = (path / "report/report.md").read_text()
    is_log, arm_result = name.endswith("l"), "squad" in name and name.endswith("result.json")
    if (content == b"" and is_log) or (content == b'{"a": 1}' and not (is_log or arm_result or name == "plan.json")):
        assert problems == []  # nothing that a report needs is missing
        return
    (problem,) = problems
    assert name in problem
    assert problem in text
    assert str(tmp_path) not in text
    assert ("F1 17.20 without" in text) == arm_result


def test_a_bad_line_costs_itself_alone(tmp_path, no_figures):
    path = make_run(tmp_path / "run")
    for name in ("phase1/metrics.jsonl", "events.jsonl"):
        lines = (path / name).read_bytes().split(b"\n")
        lines[1:1] = [b'{"step": 2, "loss', b'{"step": "2"}', b'{"step": 2, "loss": "low"}', b"\xff", b"3"]
        (path / name).write_bytes(b"\n".join(lines))
    run = read_run(path)
    assert [line["step"] for line in run.phases[1].lines] == list(range(1, 21))
    assert len(run.events) == 4
    assert run.problems == [f"{name}: 5 lines cannot be read" for name in ("phase1/metrics.jsonl", "events.jsonl")]


@pytest.mark.parametrize("name", RECORDS)
def test_flipped_bits_stop_no_report(tmp_path, name):
    """Whatever a bit turns a record into; figures are drawn too."""
    dice, figures = random.Random(name), (loss_figure, schedule_figure, squad_figure, throughput_figure, trust_figure)
    path = make_run(tmp_path / "run")
    good = (path / name).read_bytes()
    for figure in figures:
        changed = bytearray(good)
        for _ in range(dice.randint(1, 3)):
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        (path / name).write_bytes(bytes(changed))
        run = read_run(path)
        report_text(run, [])
        figure(run)


def test_a_run_that_began_from_another_says_so(tmp_path, no_figures):
    path = make_run(tmp_path / "run")
    origin = {
        "path": "/x/step-000008",
        "sha256": "ab" * 32,
        "phase": 1,
        "step": 8,
        "run": "first",
        "recipe": "0123456789",
    }
    (path / "origin.json").write_text(json.dumps(origin))
    write_report(path)
    text = (path / "report/report.md").read_text()
    assert "Started from step 8 of phase 1 of run `first`, recipe 0123456789" in text
    (path / "origin.json").write_text(json.dumps(origin | {"phase": 2}))
    write_report(path)
    assert row((path / "report/report.md").read_text(), "1 | done by the run that this one started from")
