from bert_lamb.optim.groups import decay_groups
from bert_lamb.optim.lamb import Lamb
from bert_lamb.optim.lars import LARS, Lars
from bert_lamb.optim.layerwise import Layerwise
from bert_lamb.optim.muon import MuonAdamW, hidden_matrices
from bert_lamb.optim.offered import OFFERED, RunOptimizer, kept_of, preset_values
from bert_lamb.optim.rows import has_compiler
from bert_lamb.optim.rule import PRESETS, Preset, Rule
from bert_lamb.optim.schedules import Schedule, linear_epoch_warmup, set_lr, square_root_scaled
from bert_lamb.optim.update import Readings

__all__ = [
    "LARS", "OFFERED", "PRESETS", "Lamb", "Lars", "Layerwise", "MuonAdamW", "Preset", "Readings", "Rule",
    "RunOptimizer", "Schedule", "decay_groups", "has_compiler", "hidden_matrices", "kept_of",
    "linear_epoch_warmup", "preset_values", "set_lr", "square_root_scaled",
]  # fmt: skip
