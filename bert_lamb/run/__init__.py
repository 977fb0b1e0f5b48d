from bert_lamb.run.checkpoint import (
    CheckpointError,
    damage,
    load_checkpoint,
    newest_whole,
    restart_bias_correction,
    save_checkpoint,
    trained_parameters,
    verify_checkpoint,
)
from bert_lamb.run.folder import ArmFolder, RunFolder, RunFolderError, data_folder, locate_run, open_run, origin_of
from bert_lamb.run.metrics import Dashboard, MetricsLog, StepTotals, TrainingStoppedError, last_line
from bert_lamb.run.origin import Origin, OriginError, find_origin, run_of
from bert_lamb.run.progress import Progress, read_progress
from bert_lamb.run.retention import (
    checkpoint_name,
    keep_aside,
    list_checkpoints,
    newest_quiet,
    rollback_target,
    step_of,
)
from bert_lamb.run.signals import StopRequest

__all__ = [
    "ArmFolder",
    "CheckpointError",
    "Dashboard",
    "MetricsLog",
    "Origin",
    "OriginError",
    "Progress",
    "RunFolder",
    "RunFolderError",
    "StepTotals",
    "StopRequest",
    "TrainingStoppedError",
    "checkpoint_name",
    "damage",
    "data_folder",
    "find_origin",
    "keep_aside",
    "last_line",
    "list_checkpoints",
    "load_checkpoint",
    "locate_run",
    "newest_quiet",
    "newest_whole",
    "open_run",
    "origin_of",
    "read_progress",
    "restart_bias_correction",
    "rollback_target",
    "run_of",
    "save_checkpoint",
    "step_of",
    "trained_parameters",
    "verify_checkpoint",
]
