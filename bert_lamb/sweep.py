"""Sweeps: `python -m bert_lamb.sweep optimizer=lamb,adamw seed=0,1`. One run folder a trial, the data shared.

A trial is the chain of stage commands with the trial's own overrides, each in its own process, so that it may own
several ranks and so that one that fails does not end the others. When the command is run again, finished stages are
skipped. On Ctrl-C or SIGTERM the running stage saves, and the sweep ends with exit code 75.
"""

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from bert_lamb.files import write_whole
from bert_lamb.jsonfiles import read_object
from bert_lamb.reporting.summary import summary
from bert_lamb.run import locate_run
from bert_lamb.run.stages import STAGES, first_failure
from bert_lamb.settings import Settings, command, given_arguments

log = logging.getLogger(__name__)


@command(checked=False, multirun=True)  # each stage checks: a trial that cannot run does not end the others
def trial(s: Settings) -> None:
    """One trial: its stages in order, then its record for the summary."""
    hydra = HydraConfig.get()
    overrides, number = list(hydra.overrides.task), int(hydra.job.num)
    log.info("trial %d: %s", number, " ".join(overrides))
    failed, reason = first_failure(given_arguments())
    if failed:
        log.error("trial %d: %s failed; the other trials are run", number, failed)
    folder = None if failed == STAGES[0] else str(locate_run(s).path)
    record = {"overrides": overrides, "folder": folder, "failed": failed, "reason": reason}
    folder_of_sweep = Path(hydra.sweep.dir)
    folder_of_sweep.mkdir(parents=True, exist_ok=True)
    write_whole(folder_of_sweep / f"trial-{number:03d}.json", (json.dumps(record, indent=1) + "\n").encode())


def is_trial(value: dict[str, Any]) -> bool:
    """Whether an object is the record of a trial."""
    overrides, rest = value.get("overrides"), [value.get(key) for key in ("folder", "failed", "reason")]
    return (
        isinstance(overrides, list)
        and all(isinstance(one, str) for one in overrides)
        and all(one is None or isinstance(one, str) for one in rest)
    )


def main() -> None:
    """All trials by Hydra's launcher, then one table over them."""
    overrides = [a for a in sys.argv[1:] if a not in ("-m", "--multirun")]
    if not any(a.startswith("hydra.sweep.dir=") for a in overrides):
        name = hashlib.sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:10]
        overrides.append(f"hydra.sweep.dir=runs/sweeps/{name}")
    folder = Path(next(a for a in overrides if a.startswith("hydra.sweep.dir=")).partition("=")[2])
    for old in folder.glob("trial-*.json"):
        old.unlink()
    sys.argv = [sys.argv[0], "--multirun", *overrides]
    trial()
    records = [read_object(path, is_trial) for path in sorted(folder.glob("trial-*.json"))]
    if not records:  # --cfg, --help
        return
    trials = [record for record, _ in records if record]
    table = summary([Path(t["folder"]) for t in trials if t["folder"]])
    failures = "".join(
        f"\nfailed in {t['failed']}: {' '.join(t['overrides'])}\n  {t['reason']}" for t in trials if t["failed"]
    )
    failures += "".join(f"\n{problem}: run the same command again" for _, problem in records if problem)
    write_whole(folder / "summary.md", (table + failures + "\n").encode())
    print(f"{table}{failures}\n\n{folder / 'summary.md'}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
