"""The evaluation stage: `python -m bert_lamb.evaluate [overrides]`. Scores a run's fine-tuned arms again.

Where finetune.dev_file is the file that an arm was scored on, its predictions.json is scored again and must
agree with its result.json. With any other file the arm's saved weights answer it anew.
"""

import logging
from pathlib import Path
from typing import Any

from bert_lamb.data.vocabulary import load_tokenizer
from bert_lamb.errors import UserError
from bert_lamb.files import file_sha256, write_json
from bert_lamb.jsonfiles import read_object
from bert_lamb.parallel import run_device
from bert_lamb.run import ArmFolder, RunFolder, is_arm_result, locate_run
from bert_lamb.settings import Settings, command, read_settings
from bert_lamb.squadfiles import Question, read_squad
from bert_lamb.tasks.squad_data import cut_windows
from bert_lamb.tasks.squad_metrics import score
from bert_lamb.tasks.squad_model import load_span_model
from bert_lamb.tasks.squad_predict import answer

log = logging.getLogger(__name__)


class EvaluateError(UserError):
    """Nothing to evaluate, or results that do not repeat."""


def evaluate(s: Settings) -> None:
    """Prints questions, F1 and EM of every arm; EvaluateError where a result does not repeat."""
    folder, dev_file = locate_run(s), Path(s.finetune.dev_file)
    arms = folder.finished_arms()
    if not arms:
        raise EvaluateError(f"{folder.path} has no fine-tuned arm; run `python -m bert_lamb.finetune` first")
    dev, digest = read_squad(dev_file), file_sha256(dev_file)
    width = max(len(arm.path.name) for arm in arms)
    log.info("%s\n%-*s  questions      F1      EM", dev_file, width, "arm")
    changed = []
    for arm in arms:
        result, problem = read_object(arm.result_file, is_arm_result)
        saved, problem_of_saved = read_object(arm.predictions_file, _are_answers)
        damaged = arm.damaged() or [found for found in (problem, problem_of_saved) if found]
        if damaged or result is None or saved is None:
            changed.append(f"{arm.path}: {'; '.join(damaged)}")
            continue
        again = result.get("dev_sha256") == digest
        predictions = saved if again else predict(s, folder, arm, dev, result["precision"])
        scores = score(dev, predictions)
        log.info(
            "%-*s  %9d  %6.2f  %6.2f%s", width, arm.path.name, scores.questions, scores.f1, scores.em,
            "" if again else "  (another file than it was scored on: answered anew)",
        )  # fmt: skip
        if again and (abs(scores.f1 - result["f1"]) > 1e-9 or abs(scores.em - result["em"]) > 1e-9):
            scored = f"F1 {result['f1']:.2f}, EM {result['em']:.2f}"
            changed.append(f"{arm.path}: predictions.json does not give what result.json says ({scored})")
    if changed:
        raise EvaluateError(
            "files of fine-tuned arms were changed or damaged: remove the folder and fine-tune again\n- "
            + "\n- ".join(changed)
        )


def _are_answers(value: dict[str, Any]) -> bool:
    return all(isinstance(text, str) for text in value.values())


def predict(s: Settings, folder: RunFolder, arm: ArmFolder, dev: list[Question], precision: str) -> dict[str, str]:
    """An arm's answers to other questions, kept beside it under the questions' checksum."""
    f = read_settings(arm.settings_file).finetune
    model = load_span_model(arm.path, run_device(s.hardware))
    windows = cut_windows(dev, load_tokenizer(arm.path, folder.manifest()), f)
    answers = answer(model, dev, windows, f, s.hardware, precision)
    digest = file_sha256(Path(s.finetune.dev_file))[:10]
    write_json(arm.path / f"predictions-{digest}.json", answers)
    return answers


def check(s: Settings) -> list[str]:
    """Problems that can be told before a file is read."""
    if Path(s.finetune.dev_file).is_file():
        return []
    return [f"finetune.dev_file={s.finetune.dev_file}: no such file; name a SQuAD v1.1 JSON file (also .zst)"]


main = command(evaluate, check=check)

if __name__ == "__main__":
    main()
