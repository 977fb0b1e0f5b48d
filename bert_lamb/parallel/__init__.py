from bert_lamb.parallel.launch import start_ranks
from bert_lamb.parallel.rank import held_by_rank, is_rank, run_rank
from bert_lamb.parallel.strategy import Ddp, Single, device_count, open_strategy, run_device, use_cuda

__all__ = [
    "Ddp",
    "Single",
    "device_count",
    "held_by_rank",
    "is_rank",
    "open_strategy",
    "run_device",
    "run_rank",
    "start_ranks",
    "use_cuda",
]
