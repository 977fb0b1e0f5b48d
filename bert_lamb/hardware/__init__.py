"""What this machine is good at, found out by trying it.

May import settings and the ground; never data, model or parallel.
"""

from bert_lamb.hardware.compile_cache import cache_by_processor
from bert_lamb.hardware.precision import Precision, choose_precision
from bert_lamb.hardware.waiting import BUSY_CORES, taken_by_others, wait_passively_if_busy

__all__ = [
    "BUSY_CORES",
    "Precision",
    "cache_by_processor",
    "choose_precision",
    "taken_by_others",
    "wait_passively_if_busy",
]
