"""The `bert-lamb` command: `bert-lamb pretrain seed=1` is the same as `python -m bert_lamb.pretrain seed=1`."""

import difflib
import runpy
import sys

from bert_lamb.errors import EXIT_USAGE

STAGES = {  # name: module, what it does
    "fetch": ("data_prep.fetch", "downloads the corpus that data.hub or data.dataset names"),
    "prepare": ("data_prep.prepare", "turns raw text into a token store"),
    "inspect": ("data_prep.inspect", "shows a prepared sequence, its mask, and the batch of a step"),
    "report-data": ("bert_lamb.report_data", "writes figures of a prepared store"),
    "plan": ("bert_lamb.plan", "prints steps, tokens, FLOPs and hours of a recipe, and the source of each setting"),
    "rehearse": ("bert_lamb.rehearse", "runs a recipe's whole chain, made small, in about a minute"),
    "pretrain": ("bert_lamb.pretrain", "trains both phases on a token store"),
    "finetune": ("bert_lamb.finetune", "fine-tunes a pretrained run on SQuAD and computes F1"),
    "evaluate": ("bert_lamb.evaluate", "scores a run's predictions again"),
    "report": ("bert_lamb.report", "writes tables and figures of a run"),
    "verify": ("bert_lamb.verify", "checks the hashes of a token store and a run"),
    "sweep": ("bert_lamb.sweep", "runs the chain for each combination of settings"),
}


def main() -> None:
    """Runs the stage that the first argument names; the others are its settings, as key=value."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    stage, *settings = arguments
    if stage not in STAGES:
        sys.exit(_unknown(stage))
    module = STAGES[stage][0]
    sys.argv = [f"bert-lamb {stage}", *settings]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def usage() -> str:
    """The stages, one a line, in the order of the chain."""
    width = max(map(len, STAGES))
    lines = [f"  {name:{width}}  {words}" for name, (_, words) in STAGES.items()]
    example = "bert-lamb pretrain experiment=sample phase1.peak_lr=0.008"
    return "\n".join(["usage: bert-lamb STAGE [key=value ...], for example:", f"  {example}", "", "stages:", *lines])


def _unknown(stage: str) -> int:
    near = difflib.get_close_matches(stage, STAGES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(STAGES)}"
    print(f"error: unknown stage {stage!r}; {hint}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    main()
