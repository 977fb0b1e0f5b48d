"""The report stage: `python -m bert_lamb.report [overrides]`, or `... FOLDER...` for any run folders.

Reads the run folder only and writes report.md and figures into its report/; a copy gives the same bytes.
"""

import sys
from pathlib import Path

from bert_lamb.errors import EXIT_USAGE, message_for_people
from bert_lamb.files import write_whole
from bert_lamb.reporting.figures import draw_figures
from bert_lamb.reporting.read_run import read_run
from bert_lamb.reporting.summary import summary
from bert_lamb.reporting.text import report_text, verdict
from bert_lamb.run import RunFolder, locate_run
from bert_lamb.settings import Settings, command


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
    folder = RunFolder(path).report
    folder.mkdir(exist_ok=True)
    figures = draw_figures(run, folder)
    write_whole(folder / "report.md", report_text(run, figures).encode())
    return f"{verdict(run)}: {folder / 'report.md'}"


def main() -> None:
    """Folders on the command line are reported on as they are; anything else is for Hydra."""
    paths = [Path(argument) for argument in sys.argv[1:]]
    if not paths or not all(path.is_dir() for path in paths):
        command(report)()
        return
    try:
        report_folders(paths)
    except Exception as error:
        message = message_for_people(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()
