"""LAMB's family in numpy float64, from the papers' formulas and nothing of the torch code; tensors that hurt.

Each function does one step of one algorithm on one tensor. x: weights, g: gradient, m, v: moments, t: step, from 1.
`o` holds the switches; see bert_lamb.optim.Rule. They return x, m, v.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

PAPER = dict(
    b1=0.9, b2=0.999, eps=1e-6, decay=0.01, adapt=True, correction="moments", averaging=True, norm=2, phi=None,
    bounds=None, maximize=False,
)  # fmt: skip

NAMES = {  # as Lamb's settings call them
    "eps": "eps", "weight_decay": "decay", "adapt": "adapt", "bias_correction": "correction", "norm": "norm",
    "grad_averaging": "averaging", "phi_bounds": "phi", "ratio_bounds": "bounds", "maximize": "maximize",
}  # fmt: skip


def switches_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The switches that some of Lamb's settings mean."""
    return dict(zip(("b1", "b2"), settings.get("betas", ()), strict=False)) | {
        ours: settings[theirs] for theirs, ours in NAMES.items() if theirs in settings
    }


def switches(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**(PAPER | changes))


def norm_of(a: np.ndarray, kind: float) -> float:
    a = np.abs(np.atleast_1d(a)).ravel()
    if kind == 1:
        return a.sum()
    return np.sqrt((a * a).sum()) if kind == 2 else a.max()


def ratio_of(x: np.ndarray, u: np.ndarray, o: SimpleNamespace) -> float:
    """phi(|x|) / |u|; 1 where it would be 0 / |u| or phi / 0."""
    if not o.adapt:
        return 1.0
    z, w = norm_of(x, o.norm), norm_of(u, o.norm)
    if o.phi is not None:
        z = min(max(z, o.phi[0]), o.phi[1])
    ratio = z / w if z > 0 and w > 0 else 1.0
    return ratio if o.bounds is None else min(max(ratio, o.bounds[0]), o.bounds[1])


def moments(g: np.ndarray, m: np.ndarray, v: np.ndarray, o: SimpleNamespace) -> tuple[np.ndarray, ...]:
    g = -g if o.maximize else g
    return g, o.b1 * m + (1 - o.b1 if o.averaging else 1) * g, o.b2 * v + (1 - o.b2) * g**2


def lamb(x, g, m, v, t, lr, o):
    """Algorithm 2 of arXiv 1904.00962."""
    g, m, v = moments(g, m, v, o)
    if o.correction == "moments":
        r = (m / (1 - o.b1**t)) / (np.sqrt(v / (1 - o.b2**t)) + o.eps)
    else:
        r = m / (np.sqrt(v) + o.eps)
    if o.correction == "learning_rate":
        lr = lr * np.sqrt(1 - o.b2**t) / (1 - o.b1**t)
    u = r + o.decay * x
    return x - lr * ratio_of(x, u, o) * u, m, v


def nlamb(x, g, m, v, t, lr, o):
    """N-LAMB: m' = b1 m_t / (1 - b1^(t+1)) + (1 - b1) g_t / (1 - b1^t); v' as LAMB's."""
    g, m, v = moments(g, m, v, o)
    own = (1 - o.b1 if o.averaging else 1) * g
    corrects = o.correction == "moments"
    ahead = o.b1 * m / (1 - o.b1 ** (t + 1)) + own / (1 - o.b1**t) if corrects else o.b1 * m + own
    u = ahead / (np.sqrt(v / (1 - o.b2**t) if corrects else v) + o.eps) + o.decay * x
    return x - lr * ratio_of(x, u, o) * u, m, v


def nnlamb(x, g, m, v, t, lr, o):
    """NN-LAMB: also v' = b2 v_t / (1 - b2^(t+1)) + (1 - b2) g_t^2 / (1 - b2^t)."""
    g, m, v = moments(g, m, v, o)
    own, own_sq = (1 - o.b1 if o.averaging else 1) * g, (1 - o.b2) * g**2
    if o.correction == "moments":
        ahead = o.b1 * m / (1 - o.b1 ** (t + 1)) + own / (1 - o.b1**t)
        ahead_sq = o.b2 * v / (1 - o.b2 ** (t + 1)) + own_sq / (1 - o.b2**t)
    else:
        ahead, ahead_sq = o.b1 * m + own, o.b2 * v + own_sq
    u = ahead / (np.sqrt(ahead_sq) + o.eps) + o.decay * x
    return x - lr * ratio_of(x, u, o) * u, m, v


def lans(x, g, m, v, t, lr, o):
    """arXiv 2006.13484: normalised gradient, then a step along r and a step along c."""
    length = norm_of(g, 2)
    g, m, v = moments(g / length if length > 0 else g, m, v, o)
    c1, c2 = (1 - o.b1**t, 1 - o.b2**t) if o.correction == "moments" else (1, 1)
    root = np.sqrt(v / c2) + o.eps
    a, b = m / c1 / root + o.decay * x, g / root + o.decay * x
    return x - lr * (o.b1 * ratio_of(x, a, o) * a + (1 - o.b1) * ratio_of(x, b, o) * b), m, v


def lars(x, g, m, v, t, lr, o):
    """Algorithm 1 of arXiv 1904.00962: decay inside the momentum."""
    m = o.b1 * m + (1 - o.b1) * ((-g if o.maximize else g) + o.decay * x)
    return x - lr * ratio_of(x, m, o) * m, m, v


ALGORITHMS = {"lamb": lamb, "nlamb": nlamb, "nnlamb": nnlamb, "lans": lans, "lars": lars}


def clip_scale(gradients: list[np.ndarray], limit: float | None) -> float:
    """What all gradients are multiplied by so that their norm together is at most `limit`."""
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    return 1.0 if limit is None or norm <= limit else limit / norm


def awkward(wide: bool) -> dict[str, np.ndarray]:
    """Weights by name; `wide`: also of norms that only float64 can square."""
    rng = np.random.default_rng(7)
    tensors = {
        "matrix": rng.normal(size=(5, 7)),
        "zero norm": np.zeros((3, 2)),
        "zero gradient": rng.normal(size=5),
        "all zero": np.zeros(3),
        "scalar": np.array(1.7),
        "one element": np.array([-0.3]),
        "odd length": rng.normal(size=1031),
        "rows never touched": rng.normal(size=(6, 3)),
        "norm above 10": rng.normal(size=(9, 11)) * 4,
        "tiny norm": rng.normal(size=(3, 3)) * 1e-9,
        "tiny gradient": rng.normal(size=(2, 2)),
        "cube": rng.normal(size=(2, 3, 5)) * 0.02,
        "every other step": rng.normal(size=4),
        "several rows": rng.normal(size=(3, 3000)) * 0.1,  # of plain.ROW numbers, and a rest
    }
    if wide:
        tensors |= {"huge": rng.normal(size=(3, 3)) * 1e100, "minute": rng.normal(size=(3, 3)) * 1e-100}
    return tensors


def gradient(name: str, shape: tuple[int, ...], step: int, wide: bool) -> np.ndarray | None:
    """Of step 1, 2, ...; None: the tensor has none. All together they exceed a norm of 1 at some steps only."""
    rng = np.random.default_rng([step, *name.encode()])
    g = rng.normal(size=shape) * (0.3 if step % 3 else 0.003)
    if name in ("zero gradient", "all zero"):
        return np.zeros(shape)
    if name == "rows never touched":
        g[2:] = 0
    if name == "every other step" and step % 2:
        return None
    return g * (1e-90 if wide else 1e-9) if name == "tiny gradient" else g
