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
    "ascends": Mutant("plain.py", "x = x - lr * share", "x = x + lr * share"),
    "root left out": Mutant("plain.py", "root = v_hat.sqrt() + eps", "root = v_hat + eps"),
    "eps inside the root": Mutant("plain.py", "root = v_hat.sqrt() + eps", "root = (v_hat + eps).sqrt()"),
    "decay outside the update": Mutant("plain.py", "decay = rule.weight_decay * x", "decay = 0 * x"),
    "decay subtracted": Mutant("plain.py", "decay = rule.weight_decay * x", "decay = -rule.weight_decay * x"),
    "ratio inverted": Mutant("plain.py", "phi / u_norm, 1.0", "u_norm / phi, 1.0"),
    "ratio 0 at zero norm": Mutant("plain.py", "phi / u_norm, 1.0)", "phi / u_norm, 0.0)"),
    "ratio of the moments alone": Mutant("plain.py", "*(u for _, u in shares)",
                                         "*(u - rule.weight_decay * x for _, u in shares)"),
    "norm over the last axis": Mutant("plain.py", "return torch.linalg.vector_norm(z, norm, dtype=dtype)",
                                      "return torch.linalg.vector_norm(z, norm, -1 if z.ndim else None).amax()"),
    "norms of rows in L1": Mutant("plain.py", "view(-1, ROW), norm, dim=1", "view(-1, ROW), 1, dim=1"),
    "what fills no row": Mutant("plain.py", "if whole < len(flat):", "if False:"),
    "always the L2 norm": Mutant("plain.py", "(norm_of(z, rule.norm) for", "(norm_of(z, 2) for"),
    "correction one step late": Mutant("plain.py", "beta ** t.to(", "beta ** (t + 1).to("),
    "correction of m left out": Mutant("plain.py", "m_hat, v_hat = m * c1, v * c2", "m_hat, v_hat = m, v * c2"),
    "corrections in fp32": Mutant("plain.py", "t.to(torch.float64)", "t.to(torch.float32)"),
    "corrected rate inverted": Mutant("plain.py", "lr * c1 / c2.sqrt()", "lr * c2.sqrt() / c1"),
    "betas exchanged": Mutant("plain.py", "beta1, beta2 = rule.betas", "beta2, beta1 = rule.betas"),
    "second moment of the moment": Mutant("plain.py", "v = beta2 * v + (1 - beta2) * g * g",
                                          "v = beta2 * v + (1 - beta2) * m * m"),
    "gradient averaged twice": Mutant("plain.py", "m = beta1 * m + taken(rule) * g",
                                       "m = beta1 * m + taken(rule) ** 2 * g"),
    "phi not clipped below": Mutant("plain.py", "x_norm.clamp(*rule.phi_bounds)",
                                    "x_norm.clamp(max=rule.phi_bounds[1])"),
    "look-ahead one step behind": Mutant("plain.py", "m_hat = beta1 * m * next1", "m_hat = beta1 * m * c1"),
    "LANS parts exchanged": Mutant("plain.py", "[(beta1, m_hat / root + decay), (1 - beta1, g",
                                   "[(1 - beta1, m_hat / root + decay), (beta1, g"),
    "LANS without normalising": Mutant("plain.py", "torch.where(norm > 0, g / norm, g)", "g"),
    "apex adapts everything": Mutant("rule.py", "self.weight_decay != 0 if", "True if"),
    "clips every gradient": Mutant("layerwise.py", ".clamp(max=1.0)", ""),
    "clips after the moments": Mutant("plain.py", "g = grad.to(exp_avg.dtype) * scale.to(exp_avg.dtype)",
                                      "g, lr = grad.to(exp_avg.dtype), lr * scale.to(exp_avg.dtype)"),
    "writes what is not finite": Mutant("plain.py", "old.copy_(torch.where(finite, new, old))", "old.copy_(new)"),
    "norm of a rank's part": Mutant("sharded.py", "in spread.items()", "in ()"),
    "parts' norms added": Mutant("sharded.py", "mine = norms.double() ** norm", "mine = norms.double()"),
    "LARS decays outside": Mutant("lars.py", "(g + rule.weight_decay * x)", "g"),
    "rows: norms of rows added": Mutant("rows.py", "[norm_of(of_rows, rule.norm)[None]", "[of_rows.sum()[None]"),
    "rows: norm of the first row": Mutant("rows.py", "norm_of(of_rows, rule.norm)", "norm_of(of_rows[:1], rule.norm)"),
    "rows: L1 taken for Linf": Mutant("rows.py", "1 if norm == 1 else", "float('inf') if norm == 1 else"),
    "rows: small moments stay": Mutant("rows.py", "zip(tensors, (x, m, v), strict=True)", "zip(tensors[:1], (x,))"),
    "rows: numbers of a neighbour": Mutant("rows.py", "stack.members for stack in group]",
                                           "stack.members for stack in group[::-1]]"),
    "rows: scale forgotten in pass 2": Mutant("rows.py", "new = x.to(m.dtype)\n    g = g.to(m.dtype) * scale",
                                              "new = x.to(m.dtype)\n    g = g.to(m.dtype)"),
    "rows: descends in pass 2": Mutant("rows.py", "g = -g if rule.maximize else g", "g = +g"),
    "rows: moments that are not finite": Mutant("rows.py", "m, v = torch.where(finite, m, old_m), torch.where(",
                                                "m, v = m, torch.where("),
    "rows: counts what is not finite": Mutant("rows.py", "finite.to(steps[0].dtype))", "1)"),
    "rows: rate corrected one step early": Mutant("rows.py", "torch.stack(list(steps)) + 1, rule)",
                                                  "torch.stack(list(steps)), rule)"),
    "Triton: norm of the first chunk": Mutant("fused.py", "total = partials.sum(dim=1)", "total = partials[:, 0]"),
    "Triton: square of the norm": Mutant("fused.py", "total.sqrt() if rule.norm == 2 else total", "total"),
    "Triton: decay outside the update": Mutant("fused.py", "u = m_hat / root + DECAY * x", "u = m_hat / root"),
    "Triton: eps inside the root": Mutant("fused.py", "tl.sqrt(v_hat) + EPS", "tl.sqrt(v_hat + EPS)"),
    "Triton: corrections exchanged": Mutant("fused.py", "m * c1, v * c2", "m * c2, v * c1"),
    "Triton: LANS parts exchanged": Mutant("fused.py", "x -= BETA1 * tl.load(moves + owner * 2) * u + (1 - BETA1)",
                                           "x -= (1 - BETA1) * tl.load(moves + owner * 2) * u + BETA1"),
    "Triton: weights that are not finite": Mutant("fused.py", "tl.store(xs + at, x.to(PARAM), mask=inside & finite)",
                                                  "tl.store(xs + at, x.to(PARAM), mask=inside)"),
    "Triton: moments that are not finite": Mutant("fused.py", "tl.store(ms + at, m, mask=inside & finite)",
                                                  "tl.store(ms + at, m, mask=inside)"),
    "Triton: every chunk from the start": Mutant("fused.py", "tl.load(starts + tl.program_id(0)), tl", "0, tl"),
}  # fmt: skip


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
