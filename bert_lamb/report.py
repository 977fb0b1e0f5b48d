"""The report stage: `python -m bert_lamb.report [overrides]`, or `... FOLDER...` for any run folders.

Reads the run folder only and writes report.md and figures into its report/; a copy gives the same bytes.
"""

import sys
from pathlib import Path

from bert_lamb.files import write_whole
from bert_lamb.report_figures import draw_figures
from bert_lamb.report_run import ReportError, leaves, plain, read_run
from bert_lamb.report_text import number, report_text, table, verdict
from bert_lamb.run import locate_run
from bert_lamb.settings import RECIPE_PARTS, Settings, command


def report(s: Settings) -> None:
    """The report of the run that these settings name."""
    print(write_report(locate_run(s).path))


def report_folders(paths: list[Path]) -> None:
    """The report of each folder, and a table over all where there are several."""
    for path in paths:
        print(write_report(path))
    if len(paths) > 1:
        print(summary(paths))


def write_report(path: Path) -> str:
    """Writes report.md and figures; returns one line with both F1s and where the report is."""
    run = read_run(path)
    folder = path / "report"
    folder.mkdir(exist_ok=True)
    figures = draw_figures(run, folder)
    write_whole(folder / "report.md", report_text(run, figures).encode())
    return f"{verdict(run)}: {folder / 'report.md'}"


def summary(paths: list[Path]) -> str:
    """A table over runs: what differs between their settings, last and held-out MLM loss, F1 and EM."""
    runs, parts = [read_run(path) for path in paths], (*RECIPE_PARTS, "data", "finetune")
    settings = [dict(leaves({part: plain(run.settings)[part] for part in parts})) for run in runs]
    keys = dict.fromkeys(key for values in settings for key in values)
    differing = [key for key in keys if len({str(values.get(key)) for values in settings}) > 1]
    rows = []
    for path, run, values in zip(paths, runs, settings, strict=True):
        last = run.phases[2] if run.phases[2].lines else run.phases[1]
        losses = [number(last.last(key), 3) for key in ("mlm_loss", "heldout_mlm_loss")]
        arm = run.arm("pretrained") or run.arm("scratch")
        scores = [number(arm.result[key] if arm else None, 2) for key in ("f1", "em")]
        rows.append([path.resolve().name, *(values.get(key) for key in differing), *losses, *scores])
    return "\n".join(
        table(" | ".join(["run", *differing, "MLM loss", "held-out MLM loss", "F1", "EM"]), rows)
    )


def main() -> None:
    """Folders on the command line are reported on as they are; anything else is for Hydra."""
    paths = [Path(argument) for argument in sys.argv[1:]]
    if not paths or not all(path.is_dir() for path in paths):
        command(report)()
        return
    try:
        report_folders(paths)
    except ReportError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
