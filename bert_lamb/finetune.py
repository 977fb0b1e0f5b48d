"""The fine-tuning stage: `python -m bert_lamb.finetune [overrides]`. SQuAD v1.1, one arm after the other.

An arm with a result.json is skipped; one that was cut starts again.
"""

import logging

from bert_lamb.parallel import inside_torchrun, run_device
from bert_lamb.run import RunFolderError, StopRequest, keep_precision, open_run, verify_checkpoint
from bert_lamb.settings import Settings, command
from bert_lamb.tasks.squad_data import missing_files
from bert_lamb.training.finetuning import arm_folder, load_squad, run_arm

log = logging.getLogger(__name__)


def check(s: Settings) -> list[str]:
    """Problems that can be told before a file is read."""
    problems = missing_files(s.finetune)
    if inside_torchrun():
        problems.append("fine-tuning is one process on one device: start it without torchrun")
    return problems


def finetune(s: Settings) -> None:
    """Says what will run, and trains the arms that have no result yet."""
    folder, stop = open_run(s), StopRequest()
    waiting = []
    for arm in s.finetune.arms:
        place = arm_folder(s, folder, arm)
        if place.result() is not None:
            if damaged := place.damaged():
                raise RunFolderError(f"{place.path}: {'; '.join(damaged)}: remove the folder to fine-tune again")
            log.info("squad %s is done already: %s", arm, place.path)
            continue
        if arm == "pretrained":
            verify_checkpoint(folder.weights())  # before anything is spent on another arm
        waiting.append((arm, place))
    if waiting:
        keep_precision(s, folder, run_device(s.hardware))
        squad = load_squad(s, folder)
        for arm, place in waiting:
            run_arm(s, folder, arm, place, squad, stop)


main = command(finetune, check=check)

if __name__ == "__main__":
    main()
