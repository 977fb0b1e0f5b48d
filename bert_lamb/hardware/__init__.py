"""What this machine is good at, found out by trying it.

May import settings and the ground; never data, model or parallel.
"""

from bert_lamb.hardware.precision import Precision, choose_precision

__all__ = ["Precision", "choose_precision"]
