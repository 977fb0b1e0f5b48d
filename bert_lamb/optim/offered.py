"""What `optimizer.preset` may name in a run, and what each keeps of a tensor."""

from collections.abc import Sequence

from bert_lamb.optim.lamb import Lamb
from bert_lamb.optim.lars import LARS, Lars
from bert_lamb.optim.layerwise import Layerwise
from bert_lamb.optim.muon import BUFFER, MUON, MuonAdamW, is_hidden_matrix
from bert_lamb.optim.rule import PRESETS

RunOptimizer = Layerwise | MuonAdamW
OFFERED = PRESETS | {"lars": LARS, "muon": MUON}


def kept_of(preset: str, name: str, shape: Sequence[int]) -> tuple[str, ...]:
    """Names of a parameter's state in a preset's optimizer: "step" is a number, others have its shape."""
    if preset == "muon" and is_hidden_matrix(name, shape):
        return (BUFFER,)
    return (*(Lars if preset == "lars" else Lamb).MOMENTS, "step")
