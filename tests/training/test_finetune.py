"""Fine-tuning and evaluation as commands run them: a tiny model, a tiny language, files in, files out."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tools import make_store, tiny
from transformers import BertForQuestionAnswering, BertTokenizerFast

from bert_lamb.data.store import StoreError
from bert_lamb.data.vocabulary import load_tokenizer
from bert_lamb.evaluate import EvaluateError, evaluate
from bert_lamb.files import file_sha256
from bert_lamb.finetune import check, finetune
from bert_lamb.model import bert_config, build_bert
from bert_lamb.optim import Lamb
from bert_lamb.reporting.read_run import read_run
from bert_lamb.run import Progress, Retention, RunFolder, RunFolderError, open_run, save_checkpoint
from bert_lamb.settings import Settings, settings_yaml
from bert_lamb.squadfiles import read_squad
from bert_lamb.tasks.squad_data import cut_windows, make_batch
from bert_lamb.tasks.squad_model import build_span_model, span_logits
from bert_lamb.training.finetuning import FinetuneLog, load_squad


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small are slower on several threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_questions(path: Path, count: int, seed: int, unmatched: int = 0) -> Path:
    """A word asks for the two after it; the last `unmatched` answers are not where they should be."""
    dice, articles = random.Random(seed), []
    for i in range(count):
        words = [f"w{n}" for n in dice.sample([n for n in range(5, 120) if n % 3], 8)]
        at = dice.randrange(6)
        context = " ".join(words) + "."
        text = " ".join(words[at + 1 : at + 3])
        answer = {"text": text, "answer_start": context.index(text) + (i >= count - unmatched)}
        qa = {"id": f"{seed}-{i}", "question": f"{words[at]}", "answers": [answer]}
        articles.append({"title": "t", "paragraphs": [{"context": context, "qas": [qa]}]})
    path.write_text(json.dumps({"data": articles, "version": "1.1"}))
    return path


def settings(tmp_path: Path, *overrides: str) -> Settings:
    """A prepared store, questions, and settings for both arms."""
    if not (tmp_path / "data").exists():
        make_store(tmp_path / "data/made")
        write_questions(tmp_path / "train.json", 24, seed=1, unmatched=2)
        write_questions(tmp_path / "dev.json", 8, seed=2)
    return tiny(
        tmp_path,
        f"finetune.train_file={tmp_path / 'train.json'}", f"finetune.dev_file={tmp_path / 'dev.json'}",
        "finetune.arms=[pretrained,scratch]", "finetune.batch=8", "finetune.epochs=2", "finetune.dropout=0.1",
        *overrides,
    )  # fmt: skip


def pretrained(s: Settings) -> RunFolder:
    """A run folder as pretraining leaves it, with weights unlike the ones that fine-tuning would draw."""
    folder = open_run(s)
    bert = build_bert(s.model, folder.manifest()["tokenizer"]["size"], 0, seed=123)
    path = save_checkpoint(folder.phase(2) / "checkpoints", bert, Lamb(bert.parameters()), Progress(2, 4), Retention(1))
    folder.finish_phase(2, {"checkpoint": f"checkpoints/{path.name}"})
    return folder


def arm(folder: RunFolder, name: str) -> Path:
    return next((folder.path / "squad").glob(f"{name}-*-seed0"))


def losses(folder: RunFolder, name: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (arm(folder, name) / "metrics.jsonl").read_text().splitlines()]


def test_two_arms_their_files_and_equal_results_when_run_twice(tmp_path, caplog):
    folders = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        s = settings(tmp_path / name)
        folders.append(pretrained(s))
        with caplog.at_level("INFO"):
            finetune(s)
    for name in ("pretrained", "scratch"):
        paths = [arm(folder, name) for folder in folders]
        for file in ("predictions.json", "model.safetensors", "config.json", "vocab.txt"):
            assert (paths[0] / file).read_bytes() == (paths[1] / file).read_bytes()
        assert losses(folders[0], name) == losses(folders[1], name)
        result = json.loads((paths[0] / "result.json").read_text())
        assert (result["questions"], result["unanswered"], result["train_questions"]) == (8, 0, 22)
        assert result["unmatched"] == ["1-22", "1-23"]
        assert result["steps"] == len(losses(folders[0], name)) == 2 * 3
        assert (paths[0] / "settings.yaml").read_text() == settings_yaml(settings(tmp_path / "one"))
    assert losses(folders[0], "pretrained") != losses(folders[0], "scratch")
    assert "2 questions left out" in caplog.text
    assert "22 questions to learn from (22 windows), 8 to answer (8 windows)" in caplog.text


def test_arms_differ_in_the_encoder_alone(tmp_path):
    s = settings(tmp_path, "finetune.lr=1e-30")  # no step moves anything
    folder = pretrained(s)
    finetune(s)
    weights = {name: load_file(arm(folder, name) / "model.safetensors") for name in ("pretrained", "scratch")}
    source = load_file(folder.weights() / "model.safetensors")
    for name, tensor in weights["pretrained"].items():
        if name.startswith("bert."):
            torch.testing.assert_close(tensor, source[name], rtol=0, atol=1e-25)
        else:
            torch.testing.assert_close(tensor, weights["scratch"][name], rtol=0, atol=1e-25)
    assert not torch.equal(source["bert.embeddings.word_embeddings.weight"],
                           weights["scratch"]["bert.embeddings.word_embeddings.weight"])  # fmt: skip


def test_done_arms_are_skipped_and_cut_ones_start_again(tmp_path, caplog):
    s = settings(tmp_path)
    folder = pretrained(s)
    finetune(s)
    done, cut = arm(folder, "pretrained"), arm(folder, "scratch")
    before = {path: path.stat().st_mtime_ns for path in done.iterdir()}
    expected, expected_losses = (cut / "predictions.json").read_bytes(), losses(folder, "scratch")
    (cut / "result.json").unlink()  # a cut leaves everything but this, and half of the lines
    (cut / "metrics.jsonl").write_text((cut / "metrics.jsonl").read_text()[:200])
    with caplog.at_level("INFO"):
        finetune(s)
    assert f"squad pretrained is done already: {done}" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in done.iterdir()} == before
    assert (cut / "predictions.json").read_bytes() == expected
    assert losses(folder, "scratch") == expected_losses
    assert len(list((folder.path / "squad").iterdir())) == 2


def test_asked_to_stop_it_says_so_and_leaves_no_result(tmp_path, monkeypatch, caplog):
    class StopsAfterTwo(FinetuneLog):
        def finish_step(self, *numbers):
            super().finish_step(*numbers)
            if self.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    s = settings(tmp_path, "finetune.arms=[scratch]")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr("bert_lamb.training.finetuning.FinetuneLog", StopsAfterTwo)
    try:
        with caplog.at_level("INFO"), pytest.raises(SystemExit, match="75"):
            finetune(s)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "stopped as asked" in caplog.text
    assert len(losses(open_run(s), "scratch")) == 2
    assert not list((open_run(s).path / "squad").glob("*/result.json"))


def test_a_request_while_files_are_read_is_one_too(tmp_path, monkeypatch):
    s = settings(tmp_path, "finetune.arms=[scratch]")
    before = signal.getsignal(signal.SIGTERM)

    def load(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return load_squad(*arguments)

    monkeypatch.setattr("bert_lamb.finetune.load_squad", load)
    signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody has asked for the signal yet"))
    try:
        with pytest.raises(SystemExit, match="75"):
            finetune(s)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list((open_run(s).path / "squad").glob("*/result.json"))


def test_questions_count_by_content_and_settings_by_value(tmp_path):
    s = settings(tmp_path, "finetune.arms=[scratch]", "finetune.epochs=1")
    finetune(s)
    moved = (tmp_path / "dev.json").rename(tmp_path / "moved.json")
    finetune(settings(tmp_path, "finetune.arms=[scratch]", "finetune.epochs=1", f"finetune.dev_file={moved}"))
    squad = open_run(s).path / "squad"
    assert len(list(squad.iterdir())) == 1
    write_questions(moved, 8, seed=5)
    finetune(settings(tmp_path, "finetune.arms=[scratch]", "finetune.epochs=1", f"finetune.dev_file={moved}"))
    assert len(list(squad.iterdir())) == 2


def test_transformers_opens_the_arm_and_gives_its_answers(tmp_path):
    s = settings(tmp_path, "finetune.arms=[scratch]")
    finetune(s)
    path = arm(open_run(s), "scratch")
    model = BertForQuestionAnswering.from_pretrained(path).eval()
    tokenizer = BertTokenizerFast.from_pretrained(path)
    predictions = json.loads((path / "predictions.json").read_text())
    for question in read_squad(tmp_path / "dev.json"):
        text = tokenizer(question.text, question.context, return_offsets_mapping=True, return_tensors="pt")
        offsets = text.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            out = model(**text)
        context = [k for k, kind in enumerate(text["token_type_ids"][0].tolist()) if kind][:-1]
        spans = [
            (float(out.start_logits[0, i] + out.end_logits[0, j]), i, j) for i in context for j in context if i <= j
        ]
        _, first, last = max(spans)
        assert predictions[question.id] == question.context[offsets[first][0] : offsets[last][1]]


def test_questions_can_be_learnt(tmp_path):
    """Labels, windows, loss and prediction agree: what was trained on is answered."""
    s = settings(
        tmp_path, "finetune.arms=[scratch]", f"finetune.dev_file={tmp_path / 'train.json'}",
        "finetune.epochs=60", "finetune.lr=5e-3", "finetune.dropout=0", "finetune.batch=12",
        "model.initializer_range=0.1",
    )  # fmt: skip
    finetune(s)
    result = json.loads((arm(open_run(s), "scratch") / "result.json").read_text())
    assert result["em"] >= 100 * 22 / 24
    assert result["loss"] < 0.1


def test_micro_batches_do_not_move_the_result(tmp_path):
    weights = []
    for number, tokens in enumerate((64, 4096)):
        (tmp_path / str(number)).mkdir()
        s = settings(
            tmp_path / str(number), "hardware.precision=fp64", f"hardware.micro_batch_tokens={tokens}",
            "finetune.arms=[scratch]", "finetune.dropout=0", "finetune.lr=1e-3",
        )  # fmt: skip
        finetune(s)
        weights.append(load_file(arm(open_run(s), "scratch") / "model.safetensors"))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=1e-10)


def test_padding_does_not_move_the_logits(tmp_path):
    s = settings(tmp_path)
    manifest = make_store(tmp_path / "data/other")
    questions = read_squad(tmp_path / "dev.json")
    questions[1].context = questions[1].context[:10]
    windows = cut_windows(questions, load_tokenizer(tmp_path / "data/other", manifest), s.finetune)
    model = build_span_model(bert_config(s.model, 120, 0), 0.1, seed=0).double().eval()
    long, short = windows.lengths[0], windows.lengths[1]
    assert short < long
    batch = make_batch(windows, torch.arange(2).numpy())
    together = span_logits(model, batch)
    direct = model(batch.input_ids, batch.attention_mask, batch.token_type_ids).start_logits
    torch.testing.assert_close(together[0][0], direct[0])
    alone = span_logits(model, make_batch(windows, torch.arange(1, 2).numpy()))
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1, :short], one[0], rtol=0, atol=1e-12)
        assert bool(torch.isneginf(both[1, short:]).all())


# refusals


def test_a_vocabulary_that_is_not_the_runs_is_refused(tmp_path):
    s = settings(tmp_path)
    pretrained(s)
    path = tmp_path / "data/made/vocab.txt"
    path.write_text(path.read_text().replace("w7\n", "w777\n"))
    with pytest.raises(StoreError, match=r"vocab\.txt does not match"):
        finetune(s)


def test_pretrained_without_pretraining_is_refused_before_anything_is_spent(tmp_path):
    s = settings(tmp_path, "finetune.arms=[scratch,pretrained]")
    with pytest.raises(RunFolderError, match="no finished pretraining"):
        finetune(s)
    assert not (open_run(s).path / "squad").exists()


def test_missing_files_are_named_together(tmp_path):
    s = settings(tmp_path, "finetune.dev_file=/nowhere/dev.json", "finetune.train_file=/nowhere/train.json")
    assert [p.split(":")[0] for p in check(s)] == [
        "finetune.train_file=/nowhere/train.json", "finetune.dev_file=/nowhere/dev.json",
    ]  # fmt: skip


# evaluation


def test_evaluation_repeats_and_notices_changes(tmp_path, caplog):
    s = settings(tmp_path, "finetune.arms=[scratch]")
    with pytest.raises(EvaluateError, match="no fine-tuned arm"):
        evaluate(s)
    finetune(s)
    path = arm(open_run(s), "scratch")
    result = json.loads((path / "result.json").read_text())
    with caplog.at_level("INFO"):
        evaluate(s)
    assert f"{path.name}          8  {result['f1']:6.2f}  {result['em']:6.2f}" in caplog.text

    answers = {q.id: q.answers[0] for q in read_squad(tmp_path / "dev.json")}
    (path / "predictions.json").write_text(json.dumps(answers))
    with pytest.raises(EvaluateError, match=r"predictions\.json does not match SHA256SUMS"):
        evaluate(s)
    (path / "SHA256SUMS").unlink()  # as an older version's arm
    with pytest.raises(EvaluateError, match=r"does not give what result\.json says"):
        evaluate(s)
    (path / "predictions.json").write_text("{")
    with pytest.raises(EvaluateError, match=r"predictions\.json is damaged"):
        evaluate(s)


ARM = ("settings.yaml", "machine.json", "metrics.jsonl", "predictions.json", "config.json", "model.safetensors",
       "vocab.txt", "result.json")  # fmt: skip


def test_an_arms_files_have_checksums(tmp_path):
    """Each is missed where it is read back: by finetune, evaluate and verify all of them, by a report what it reads."""
    s = settings(tmp_path, "finetune.arms=[scratch]", "finetune.epochs=1")
    finetune(s)
    path = arm(open_run(s), "scratch")
    lines = (path / "SHA256SUMS").read_text().splitlines()
    assert [line[66:] for line in lines] == sorted(ARM)
    assert all(line[:64] == file_sha256(path / line[66:]) for line in lines)
    finetune(s)
    for name in ARM:
        content = (path / name).read_bytes()
        (path / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(EvaluateError, match=rf"{name} does not match SHA256SUMS"):
            evaluate(s)
        if name != "result.json":
            with pytest.raises(RunFolderError, match=rf"{name} does not match SHA256SUMS: remove the folder"):
                finetune(s)
        record, read = read_run(path.parents[1]), ("settings.yaml", "machine.json", "result.json")
        assert len(record.problems) == (name in read), name
        assert len(record.arms) == (name not in ("settings.yaml", "result.json")), name
        (path / name).write_bytes(content)
    evaluate(s)
    assert read_run(path.parents[1]).problems == []


def test_a_damaged_result_starts_the_arm_again(tmp_path, caplog):
    s = settings(tmp_path, "finetune.arms=[scratch]", "finetune.epochs=1")
    finetune(s)
    path = arm(open_run(s), "scratch")
    before = json.loads((path / "result.json").read_text())
    (path / "result.json").write_bytes(b"\xff{")
    finetune(s)
    assert "damaged-result.json" in caplog.text
    assert (path / "damaged-result.json").read_bytes() == b"\xff{"
    again = json.loads((path / "result.json").read_text())
    assert again | {"seconds": 0} == before | {"seconds": 0}
    evaluate(s)


def test_evaluation_answers_other_questions_from_the_saved_weights(tmp_path, caplog):
    s = settings(tmp_path, "finetune.arms=[scratch]", "seed=1")  # weights of no default seed
    finetune(s)
    path = next((open_run(s).path / "squad").iterdir())
    document = json.loads((tmp_path / "dev.json").read_text())
    (tmp_path / "same.json").write_text(json.dumps(document, indent=1))  # other bytes, same questions
    with caplog.at_level("INFO"):
        evaluate(settings(tmp_path, "seed=1", f"finetune.dev_file={tmp_path / 'same.json'}"))
    assert "answered anew" in caplog.text
    anew = next(path.glob("predictions-*.json"))
    assert anew.read_bytes() == (path / "predictions.json").read_bytes()
