"""Numbers go to metrics.jsonl always, to the console for people, and to W&B as a mirror that may fail."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

CONSOLE_EVERY_S = 10.0  # a line that often, so that a log file stays readable


class Dashboard:
    """W&B, or nothing: training never stops for it."""

    def __init__(self, mode: str, project: str, run_name: str, folder: Path, settings: dict[str, Any]) -> None:
        self._run = None
        if mode == "disabled":
            return
        if mode == "auto":
            mode = "online" if _has_key() else "offline"
        try:
            import wandb

            self._run = wandb.init(
                project=project, name=run_name, id=run_name, resume="allow", mode=mode, dir=str(folder),  # type: ignore[arg-type]
                config=settings, settings=wandb.Settings(silent=True),
            )  # fmt: skip
        except Exception as error:  # whatever W&B meets, the run goes on
            log.warning("W&B is off (%s): numbers are in metrics.jsonl all the same; run.wandb=disabled hides this", error)

    def log(self, phase: int, numbers: dict[str, Any]) -> None:
        if self._run is None:
            return
        flat = {f"phase{phase}/{k}": v for k, v in numbers.items() if not isinstance(v, dict)}
        for name, ratio in numbers.get("trust_ratios", {}).items():
            flat[f"phase{phase}/trust_ratio/{name}"] = ratio
        try:
            self._run.log(flat)
        except Exception as error:
            log.warning("W&B stopped taking numbers (%s); metrics.jsonl has them all", error)
            self._run = None

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


class MetricsLog:
    """One phase's metrics.jsonl and its console lines, with the time left."""

    def __init__(self, folder: Path, phase: int, steps: int, first_step: int, dashboard: Dashboard) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.jsonl").open("a")
        self._phase, self._steps, self._first = phase, steps, first_step
        self._dashboard = dashboard
        self._started_s = time.monotonic()
        self._last_line_s = -CONSOLE_EVERY_S

    def write(self, step: int, numbers: dict[str, Any]) -> None:
        """A line for `step` steps done."""
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        self._dashboard.log(self._phase, {"step": step, **numbers})
        now_s = time.monotonic()
        if now_s - self._last_line_s >= CONSOLE_EVERY_S or step == self._steps:
            self._last_line_s = now_s
            left_s = (now_s - self._started_s) / max(1, step - self._first) * (self._steps - step)
            log.info(
                "phase %d  step %d/%d  loss %.3f  mlm %.3f  acc %.3f  lr %.2e  %.0f tokens/s  %s left",
                self._phase, step, self._steps, numbers["loss"], numbers["mlm_loss"], numbers["mlm_accuracy"],
                numbers["learning_rate"], numbers["tokens"] / numbers["seconds"], duration(left_s),
            )  # fmt: skip

    def close(self) -> None:
        self._file.close()


def duration(seconds: float) -> str:
    """"1 h 05 min", "3 min 20 s", "7 s"."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 60} min {s % 60:02d} s" if s >= 60 else f"{s} s"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(errors="replace")
