"""The pretraining stage: `python -m bert_lamb.pretrain [overrides]`. Both phases, nothing manual between.

`main` composes the settings once, opens the run folder and starts one process a device. Every process runs `pretrain`,
which reads that folder and composes nothing.
"""

import logging
import sys
import time
from pathlib import Path

from bert_lamb.errors import EXIT_STOPPED
from bert_lamb.files import write_json
from bert_lamb.hardware import wait_passively_if_busy
from bert_lamb.optim import set_lr
from bert_lamb.parallel import device_count, held_by_rank, is_rank, open_strategy, run_device, run_rank, start_ranks
from bert_lamb.planning.cost import budget, budget_text, vocabulary_size
from bert_lamb.planning.preflight import memory_warnings, preflight_problems, unused_devices
from bert_lamb.planning.rates import measured_rates
from bert_lamb.run import RunFolder, StepTotals, held_run, keep_precision
from bert_lamb.run.schedule import schedule
from bert_lamb.settings import Settings, command, given_overrides
from bert_lamb.signals import StopRequest
from bert_lamb.training.assembly import Assembly
from bert_lamb.training.fitting import explain_memory
from bert_lamb.training.heldout import heldout_due, heldout_numbers
from bert_lamb.training.phase_data import steps_left
from bert_lamb.training.repeatable import seed_dropout

log = logging.getLogger(__name__)


@command(check=preflight_problems)
def main(s: Settings) -> None:
    """Opens the run folder, tells the plan and runs `pretrain` on every device."""
    with held_run(s) as (folder, lock):
        if folder.phase_result(2):
            log.info("pretraining is done already: %s", folder.path)
            return
        stop = StopRequest()  # from here on: measuring, meeting and building take their time
        devices = tell_plan(s, folder)
        if not stop and devices == 1:
            pretrain(folder)
        elif not stop and (code := start_ranks("bert_lamb.pretrain", folder.path, devices, lock)):
            sys.exit(code)
        if not folder.phase_result(2):
            log.info("stopped as asked; the same command goes on from the last checkpoint")
            sys.exit(EXIT_STOPPED)


def tell_plan(s: Settings, folder: RunFolder) -> int:
    """Measures this machine, prints what the run will cost here and keeps it; returns the number of processes."""
    manifest, device, devices = folder.manifest(), run_device(s.hardware), device_count(s.hardware)
    precision = keep_precision(s, folder, device)
    size = vocabulary_size(s, manifest)
    rates = measured_rates(s, devices, device, precision.name, size, folder.rates_file)
    plan = budget(s, devices, precision, manifest, rates)
    log.info("%s\n  run folder: %s", budget_text(s, plan), folder.path)
    for warning in [*unused_devices(s), *memory_warnings(s, plan)]:
        log.warning("  warning: %s", warning)
    write_json(folder.plan_file, plan.record() | {"overrides": given_overrides()})
    return devices


@explain_memory
def pretrain(folder: RunFolder) -> None:
    """Every rank's program: both phases, step by step, from settings.yaml to result.json."""
    s, stop = folder.settings(), StopRequest()
    strategy = open_strategy(s.hardware, folder.stacks)
    run = Assembly(s, folder, strategy)
    origin = folder.origin()  # phases before that of another run's checkpoint are not this run's to do
    left = [n for n in (1, 2) if n >= (origin.phase if origin else 1) and not folder.phase_result(n)]
    strategy.barrier()  # every rank has looked before one that has no step left to do finishes a phase
    for number in left:
        learning_rate = schedule(s, number)
        checkpoints = run.checkpoints(number)
        progress = checkpoints.restore()
        data, metrics = run.data(number), run.metrics(progress)
        for step in steps_left(data, progress, s.phase(number).steps):
            started_s, totals = time.perf_counter(), StepTotals()
            for index, batch in enumerate(step.batches):
                seed_dropout(s.seed, number, step.number, index, strategy.rank)
                losses = run.losses(batch.to(strategy.device))
                (losses.mlm / step.denominators.masked + losses.nsp / step.denominators.sequences).backward()
                totals.add(losses, batch)
            strategy.reduce_gradients(run.parameters)
            set_lr(run.optimizer, learning_rate(step.number))
            run.optimizer.step()
            run.optimizer.zero_grad()

            totals.reduce(strategy, stop)
            progress.finish_step(totals.loss(step.denominators), bool(run.optimizer.step_was_finite), s.recovery)
            seconds = time.perf_counter() - started_s
            heldout = heldout_numbers(run, number) if heldout_due(s, progress) else {}
            metrics.step(progress, step.denominators, totals, run.optimizer, seconds, heldout)
            if trouble := progress.trouble(s.recovery):
                checkpoints.recover(progress, trouble)
            elif checkpoints.due(progress) or totals.stop:
                checkpoints.save(progress)
            if totals.stop:
                checkpoints.stopped(progress)
                return run.close()
        metrics.close()
        checkpoints.finish(progress)
    run.close()


def rank(folder: RunFolder) -> None:
    """A rank's whole program, whoever launched it."""
    with held_by_rank(folder.path):
        pretrain(folder)


if __name__ == "__main__":
    if is_rank():
        run_rank(lambda: rank(RunFolder(Path(sys.argv[1]))))
    else:
        wait_passively_if_busy()
        main()
