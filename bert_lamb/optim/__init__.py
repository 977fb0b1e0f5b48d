from bert_lamb.optim.groups import decay_groups
from bert_lamb.optim.lamb import PRESETS, Lamb
from bert_lamb.optim.schedules import Schedule, linear_epoch_warmup, set_lr, square_root_scaled

__all__ = ["PRESETS", "Lamb", "Schedule", "decay_groups", "linear_epoch_warmup", "set_lr", "square_root_scaled"]
