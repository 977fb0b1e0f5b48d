"""One table over several run folders: what differs between them, and what came out."""

from pathlib import Path

from bert_lamb.reporting.read_run import plain, read_run
from bert_lamb.reporting.text import number, table
from bert_lamb.run import RunFolder
from bert_lamb.settings import RECIPE_PARTS, leaves

PARTS = (*RECIPE_PARTS, "data", "finetune")  # settings that decide a result; hardware and run do not
RESULTS = "MLM loss | held-out MLM loss | F1 | EM | precision"


def summary(paths: list[Path]) -> str:
    """A Markdown table: name, settings that differ, last and held-out MLM loss in nats, F1 and EM in percent, and the
    precision of pretraining.

    A folder without settings.yaml, of a trial that never began, has a row of its own and nothing in it.
    """
    runs = {path: read_run(path) for path in paths if RunFolder(path).settings_file.is_file()}
    settings = {
        p: dict(leaves({k: v for k, v in plain(run.settings).items() if k in PARTS})) for p, run in runs.items()
    }
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    differing = [key for key in keys if len({str(values.get(key)) for values in settings.values()}) > 1]
    rows = []
    for path in paths:
        if path not in runs:
            rows.append([path.resolve().name, *["-"] * (len(differing) + 5)])
            continue
        run = runs[path]
        last = run.phases[2] if run.phases[2].lines else run.phases[1]
        losses = [number(last.last(key), 3) for key in ("mlm_loss", "heldout_mlm_loss")]
        arm = run.arm("pretrained") or run.arm("scratch")
        scores = [number(arm.result[key] if arm else None, 2) for key in ("f1", "em")]
        values = [str(settings[path].get(key)) for key in differing]
        rows.append([path.resolve().name, *values, *losses, *scores, run.precision])
    return "\n".join(table(" | ".join(["run", *differing, RESULTS]), rows))
