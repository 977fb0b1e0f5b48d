"""The `bert-lamb` command: `bert-lamb pretrain seed=1` is the same as `python -m bert_lamb.pretrain seed=1`."""

import difflib
import runpy
import sys

from bert_lamb.errors import EXIT_USAGE
from bert_lamb.settings.help import STAGES


def main() -> None:
    """Runs the stage that the first argument names; the others are its settings, as key=value."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["help"]:
        print(usage())
        return
    stage, *settings = arguments if arguments[0] != "help" else [arguments[1], "--help"]
    if stage not in STAGES:
        sys.exit(_unknown(stage))
    module = STAGES[stage].module
    sys.argv = [f"bert-lamb {stage}", *settings]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def usage() -> str:
    """The stages, one a line, in the order of the chain."""
    width = max(map(len, STAGES))
    lines = [f"  {name:{width}}  {stage.does}" for name, stage in STAGES.items()]
    examples = [
        f"  bert-lamb {name} {settings}\n    {purpose}"
        for name, number in (("prepare", 1), ("plan", 1), ("rehearse", 1), ("pretrain", 1), ("sweep", 0))
        for settings, purpose in [STAGES[name].examples[number]]
    ]
    more = "`bert-lamb STAGE --help` says what a stage reads and writes, and which settings decide."
    return "\n".join(
        ["usage: bert-lamb STAGE [key=value ...]", "", "stages, in the order of the chain:", *lines, "", "examples:",
         *examples, "", more]
    )  # fmt: skip


def _unknown(stage: str) -> int:
    near = difflib.get_close_matches(stage, STAGES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(STAGES)}"
    print(f"error: unknown stage {stage!r}; {hint}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    main()
