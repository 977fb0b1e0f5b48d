from bert_lamb.model.attention import takes_varlen
from bert_lamb.model.build import (
    WeightsError,
    bert_config,
    build_bert,
    load_parameters,
    load_weights,
    misfits,
    named_tensors,
    save_tensors,
    save_weights,
    tensor_shapes,
)
from bert_lamb.model.flops import batch_flops, training_flops
from bert_lamb.model.memory import STATIC, activation_bytes, parameter_count
from bert_lamb.model.pretraining import encode, pretraining_losses

__all__ = [
    "STATIC",
    "WeightsError",
    "activation_bytes",
    "batch_flops",
    "bert_config",
    "build_bert",
    "encode",
    "load_parameters",
    "load_weights",
    "misfits",
    "named_tensors",
    "parameter_count",
    "pretraining_losses",
    "save_tensors",
    "save_weights",
    "takes_varlen",
    "tensor_shapes",
    "training_flops",
]
