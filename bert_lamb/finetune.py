"""The fine-tuning stage: `python -m bert_lamb.finetune [overrides]`. SQuAD v1.1, one arm after the other.

An arm with a result.json is skipped; one that was cut starts again.
"""

import logging

from bert_lamb.hardware import wait_passively_if_busy
from bert_lamb.parallel import is_rank, run_device
from bert_lamb.run import ArmFolder, RunFolderError, held_run, machine_precision, verify_checkpoint
from bert_lamb.settings import Settings, command
from bert_lamb.signals import StopRequest
from bert_lamb.tasks.squad_data import missing_files
from bert_lamb.training.finetuning import arm_folder, load_squad, run_arm

log = logging.getLogger(__name__)


def check(s: Settings) -> list[str]:
    """Problems that can be told before a file is read."""
    problems = missing_files(s.finetune)
    if is_rank():
        problems.append("fine-tuning is one process on one device: start it without a launcher")
    return problems


def finetune(s: Settings) -> None:
    """Says what will run, and trains the arms that have no result yet."""
    with held_run(s) as (folder, _):
        waiting = [arm for arm in s.finetune.arms if not is_done(arm, arm_folder(s, folder, arm))]
        if not waiting:
            return
        if "pretrained" in waiting:
            verify_checkpoint(folder.weights())  # before anything is spent on another arm
        stop = StopRequest()  # from here on: reading the questions takes its time
        precision = machine_precision(s, folder, run_device(s.hardware)).name
        squad = load_squad(s, folder)
        for arm in waiting:
            run_arm(s, folder, arm, arm_folder(s, folder, arm), squad, precision, stop)


def is_done(arm: str, place: ArmFolder) -> bool:
    """Whether an arm has its result; RunFolderError where its files are not those that were written."""
    if place.result() is None:
        return False
    if damaged := place.damaged():
        raise RunFolderError(f"{place.path}: {'; '.join(damaged)}: remove the folder to fine-tune again")
    log.info("squad %s is done already: %s", arm, place.path)
    return True


main = command(finetune, check=check)

if __name__ == "__main__":
    wait_passively_if_busy()
    main()
