"""Planted mistakes: each is put into a copy of the optimizer, and the conformance kit must turn red.

python tests/optim/mutants.py [NAME ...]     all of them, or those named; exit status 1 where one survives
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TRITON = ROOT / "build/triton"  # where the Makefile puts it; else the environment's own
KITS = {  # for mistakes in a file; all others have the first
    "plain.py": ("test_optim_conformance.py", "test_optim_others.py", "test_lamb.py"),
    "foreach.py": ("test_optim_random.py",),
    "tensors.py": ("test_optim_random.py", "test_sharded_optim.py"),
    "rows.py": ("test_optim_random.py", "test_fast_paths.py"),
    "fused.py": ("test_triton.py",),
    "sharded.py": ("test_sharded_optim.py",),
}
TIMEOUT_S = 1200  # of one run of a kit


class Mutant(NamedTuple):
    file: str  # below bert_lamb/optim
    right: str  # occurs once in the file
    wrong: str


MUTANTS = {
    "ascends": Mutant("plain.py", "new = new - move * u", "new = new + move * u"),
    "root left out": Mutant("plain.py", "root = v_hat.sqrt() + eps", "root = v_hat + eps"),
    "eps inside the root": Mutant("plain.py", "root = v_hat.sqrt() + eps", "root = (v_hat + eps).sqrt()"),
    "decay outside the update": Mutant("plain.py", "decay = rule.weight_decay * x", "decay = 0 * x"),
    "decay subtracted": Mutant("plain.py", "decay = rule.weight_decay * x", "decay = -rule.weight_decay * x"),
    "ratio inverted": Mutant("plain.py", "phi / u_norm, 1.0", "u_norm / phi, 1.0"),
    "ratio 0 at zero norm": Mutant("plain.py", "phi / u_norm, 1.0)", "phi / u_norm, 0.0)"),
    "ratio of the moments alone": Mutant(
        "plain.py", "for z in (x, *directions)", "for z in (x, *(u - batch.rule.weight_decay * x for u in directions))"
    ),
    "norm of the first row": Mutant(
        "plain.py",
        "return norm_of(row_norms(flat, norm, dtype), norm) if",
        "return norm_of(row_norms(flat, norm, dtype)[:1], norm) if",
    ),
    "norms of rows in L1": Mutant(
        "plain.py",
        "found = row_norm(flat[:whole].view(-1, ROW), norm, dtype)",
        "found = row_norm(flat[:whole].view(-1, ROW), 1, dtype)",
    ),
    "what fills no row": Mutant("plain.py", "return found if whole == len(flat) else", "return found if True else"),
    "always the L2 norm": Mutant("plain.py", "[norm_of(z, batch.rule.norm) for", "[norm_of(z, 2) for"),
    "correction one step late": Mutant(
        "plain.py", "for at in (t, t + 1) for beta", "for at in (t + 1, t + 2) for beta"
    ),
    "correction of m left out": Mutant("plain.py", "m_hat, v_hat = m * c1, v * c2", "m_hat, v_hat = m, v * c2"),
    "correction without its minus": Mutant("plain.py", "return -1 / torch.expm1(", "return 1 / torch.expm1("),
    "corrected rate inverted": Mutant("plain.py", "batch.lr * c1 / c2.sqrt()", "batch.lr * c2.sqrt() / c1"),
    "betas exchanged": Mutant(
        "plain.py", "beta1, beta2 = rule.betas\n    return", "beta2, beta1 = rule.betas\n    return"
    ),
    "second moment of the moment": Mutant(
        "plain.py", "beta2 * v + (1 - beta2) * g * g\n\n\ndef", "beta2 * v + (1 - beta2) * m * m\n\n\ndef"
    ),
    "gradient averaged twice": Mutant(
        "plain.py", "beta1 * m + taken(rule) * g, ", "beta1 * m + taken(rule) ** 2 * g, "
    ),
    "phi not clipped below": Mutant(
        "plain.py", "x_norm.clamp(*rule.phi_bounds)", "x_norm.clamp(max=rule.phi_bounds[1])"
    ),
    "look-ahead one step behind": Mutant("plain.py", "m_hat = beta1 * m * next1", "m_hat = beta1 * m * c1"),
    "LANS parts exchanged": Mutant(
        "plain.py", "return (rule.betas[0], 1 - rule.betas[0]) if", "return (1 - rule.betas[0], rule.betas[0]) if"
    ),
    "LANS without normalising": Mutant("plain.py", "torch.where(norms > 0, 1 / norms, factor)", "factor"),
    "descends where it should ascend": Mutant("plain.py", "factor = -factor", "factor = +factor"),
    "apex adapts everything": Mutant("rule.py", "self.weight_decay != 0 if", "True if"),
    "clips every gradient": Mutant("layerwise.py", ".clamp(max=1.0)", ""),
    "the scale is forgotten": Mutant("plain.py", "ones if scale is None else ones * scale.to(batch.wide)", "ones"),
    "writes what is not finite": Mutant("plain.py", "new if finite is None else torch.where(finite, new, old)", "new"),
    "goes on where it is not finite": Mutant("update.py", "    if finite:\n", "    if True:\n"),
    "norm of a rank's part": Mutant("sharded.py", "in alike.items()", "in ()"),
    "parts' norms added": Mutant("sharded.py", "mine = norms**norm if adds", "mine = norms if adds"),
    "rounds by a rank's own size": Mutant(
        "tensors.py", "return [-(-p.numel() // ranks) for p in self.params]", "return [x.numel() for x in self.weights]"
    ),
    "LARS decays outside": Mutant("lars.py", "(g + decay * x)", "g"),
    "foreach: eps not in its unit": Mutant(
        "foreach.py", "eps, keep, applied = rule.eps / s", "eps, keep, applied = rule.eps * s"
    ),
    "foreach: decay not in its unit": Mutant(
        "foreach.py", "(rule.weight_decay / units(numbers, rule))", "(rule.weight_decay * units(numbers, rule))"
    ),
    "foreach: norms without their unit": Mutant("foreach.py", "whole[:, 1:] * kept.units", "whole[:, 1:]"),
    "foreach: moves without their unit": Mutant("foreach.py", "    moves = moves * kept.units\n", ""),
    "foreach: ascends": Mutant("foreach.py", "[move[i] for i in places], -1)", "[move[i] for i in places], 1)"),
    "foreach: scalars of a neighbour": Mutant(
        "foreach.py", "return [each[i] for i in places]", "return [each[i] for i in places[::-1]]"
    ),
    "foreach: norm of the last piece": Mutant(
        "foreach.py", "torch.cat(list(norms)) if len(norms) > 1 else norms[0]", "norms[-1]"
    ),
    "foreach: moments that are not finite": Mutant(
        "foreach.py",
        "keep = torch.where(finite, beta1 * one, one)",
        "keep = torch.where(finite, beta1 * one, beta1 * one)",
    ),
    "foreach: bits kept": Mutant("foreach.py", "for z in g], s.applied)", "for z in g], s.applied * 0 + 1)"),
    "foreach: factor forgotten": Mutant(
        "foreach.py", "return g if s.factor is None else torch._foreach_mul(g, s.factor)", "return g"
    ),
    "foreach: look-ahead without the gradient": Mutant(
        "foreach.py", "        torch._foreach_addcmul_(u, g, s.ahead[1])\n", ""
    ),
    "copies not put back": Mutant("tensors.py", "view.copy_(vector.view(view.shape))", "pass"),
    "rows: norms of rows added": Mutant(
        "rows.py",
        "torch.stack([norm_of(z, batch.rule.norm) for z in of_rows])",
        "torch.stack([z.sum() for z in of_rows])",
    ),
    "rows: L1 taken for Linf": Mutant("rows.py", "1 if norm == 1 else", 'float("inf") if norm == 1 else'),
    "rows: norms without their unit": Mutant("rows.py", "found[1:] * own[place]", "found[1:]"),
    "rows: numbers of a neighbour": Mutant("rows.py", "scalars.some(places)", "scalars.some(places[::-1])"),
    "rows: moves of a neighbour": Mutant(
        "rows.py", "of_update[i] for i in group.places]", "of_update[i] for i in group.places[::-1]]"
    ),
    "rows: weights that are not finite": Mutant(
        "rows.py", "torch.where(finite, moves * kept.units, 0.0)", "moves * kept.units"
    ),
    "Triton: norm of the first chunk": Mutant("fused.py", "total = partials.sum(dim=1)", "total = partials[:, 0]"),
    "Triton: square of the norm": Mutant("fused.py", "total.sqrt() if rule.norm == 2 else total", "total"),
    "Triton: decay outside the update": Mutant("fused.py", "u = m_hat / root + DECAY * x", "u = m_hat / root"),
    "Triton: eps inside the root": Mutant("fused.py", "tl.sqrt(v_hat) + EPS", "tl.sqrt(v_hat + EPS)"),
    "Triton: corrections exchanged": Mutant("fused.py", "m * c1, v * c2", "m * c2, v * c1"),
    "Triton: LANS parts exchanged": Mutant(
        "fused.py",
        "tl.load(moves + owner * 2) * u + tl.load(moves + owner * 2 + 1) * w",
        "tl.load(moves + owner * 2 + 1) * u + tl.load(moves + owner * 2) * w",
    ),
    "Triton: weights that are not finite": Mutant(
        "fused.py",
        "tl.store(xs + at, x.to(PARAM), mask=inside & finite)",
        "tl.store(xs + at, x.to(PARAM), mask=inside)",
    ),
    "Triton: moments that are not finite": Mutant(
        "fused.py", "tl.store(ms + at, m, mask=inside & finite)", "tl.store(ms + at, m, mask=inside)"
    ),
    "Triton: every chunk from the start": Mutant("fused.py", "tl.load(starts + tl.program_id(0)), tl", "0, tl"),
}


def planted(mutant: Mutant) -> str:
    """The file's text with the mistake. Raises ValueError where the right line is gone or stands twice."""
    text = (ROOT / "bert_lamb/optim" / mutant.file).read_text()
    if text.count(mutant.right) != 1:
        raise ValueError(f"{mutant.file} holds {mutant.right!r} {text.count(mutant.right)} times: change tests/mutants")
    return text.replace(mutant.right, mutant.wrong)


def turns_red(file: str, mutant: Mutant | None = None) -> bool:
    """Whether a file's kit fails in a copy of the project with this mistake, or none. Raises where it does not run."""
    kit = KITS.get(file, KITS["plain.py"])
    triton = {"TRITON_INTERPRET": "1"} if file == "fused.py" else {}
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in ("bert_lamb", "tests", "data_prep", "conf", "pyproject.toml"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        if mutant is not None:
            (copy / "bert_lamb/optim" / file).write_text(planted(mutant))
        path = os.pathsep.join([str(copy), *([str(TRITON)] if triton else [])])
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
             "--deselect", "tests/optim/test_lamb.py::test_optim_needs_torch_only",
             *(f"tests/optim/{part}" for part in kit)],
            cwd=copy, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | triton,
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    if done.returncode not in (0, 1):  # of pytest: all passed; some failed
        raise RuntimeError(f"the kit did not run:\n{done.stdout}{done.stderr}")
    return done.returncode == 1


def main(names: list[str]) -> int:
    names = names or list(MUTANTS)
    for file in {MUTANTS[name].file if MUTANTS[name].file in KITS else "plain.py" for name in names}:
        if turns_red(file):
            print(f"the kit of {file} is red without any planted mistake: run it by itself")
            return 1
    survivors = []
    for name in names:
        red = turns_red(MUTANTS[name].file, MUTANTS[name])
        print(f"{'red     ' if red else 'SURVIVES'}  {name}", flush=True)
        survivors += [] if red else [name]
    print(f"{len(names) - len(survivors)} of {len(names)} planted mistakes turn their kit red")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
