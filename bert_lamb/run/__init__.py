from bert_lamb.run.checkpoint import (
    CheckpointError,
    Progress,
    list_checkpoints,
    load_checkpoint,
    restart_bias_correction,
    save_checkpoint,
    trained_parameters,
    verify_checkpoint,
)
from bert_lamb.run.folder import RunFolder, RunFolderError, data_folder, locate_run, open_run
from bert_lamb.run.machine import machine_record
from bert_lamb.run.metrics import Dashboard, MetricsLog, duration
from bert_lamb.run.signals import StopRequest

__all__ = [
    "CheckpointError",
    "Dashboard",
    "MetricsLog",
    "Progress",
    "RunFolder",
    "RunFolderError",
    "StopRequest",
    "data_folder",
    "duration",
    "list_checkpoints",
    "load_checkpoint",
    "locate_run",
    "machine_record",
    "open_run",
    "restart_bias_correction",
    "save_checkpoint",
    "trained_parameters",
    "verify_checkpoint",
]
