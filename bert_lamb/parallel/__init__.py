from bert_lamb.parallel.launch import inside_torchrun, start_ranks
from bert_lamb.parallel.strategy import Ddp, Single, device_count, open_strategy, run_device, use_cuda

__all__ = ["Ddp", "Single", "device_count", "inside_torchrun", "open_strategy", "run_device", "start_ranks", "use_cuda"]
