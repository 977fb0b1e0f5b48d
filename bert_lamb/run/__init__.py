from bert_lamb.run.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    restart_bias_correction,
    rollback_target,
    save_checkpoint,
    set_aside,
    trained_parameters,
    verify_checkpoint,
)
from bert_lamb.run.folder import ArmFolder, RunFolder, RunFolderError, data_folder, locate_run, open_run
from bert_lamb.run.metrics import Dashboard, MetricsLog, StepTotals, TrainingStoppedError, last_line
from bert_lamb.run.precision import keep_precision, precision_here, run_precision
from bert_lamb.run.progress import Progress
from bert_lamb.run.signals import StopRequest

__all__ = [
    "ArmFolder",
    "CheckpointError",
    "Dashboard",
    "MetricsLog",
    "Progress",
    "RunFolder",
    "RunFolderError",
    "StepTotals",
    "StopRequest",
    "TrainingStoppedError",
    "data_folder",
    "keep_precision",
    "last_line",
    "list_checkpoints",
    "load_checkpoint",
    "locate_run",
    "open_run",
    "precision_here",
    "restart_bias_correction",
    "rollback_target",
    "run_precision",
    "save_checkpoint",
    "set_aside",
    "trained_parameters",
    "verify_checkpoint",
]
