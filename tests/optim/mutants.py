"""Planted mistakes in the optimizer: each must turn the conformance kit red.

python tests/optim/mutants.py [NAME ...]     all of them, or those named; exit status 1 where one survives
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from planted import ROOT, Mutant, project_copy, report, turns_red

TRITON = ROOT / "build/triton"  # where the Makefile puts it; else the environment's own
KITS = {  # of a file; all others have the first
    "plain.py": ("test_optim_conformance.py", "test_optim_others.py", "test_lamb.py"),
    "foreach.py": ("test_optim_random.py",),
    "tensors.py": ("test_optim_random.py", "test_sharded_optim.py"),
    "rows.py": ("test_optim_random.py", "test_fast_paths.py"),
    "fused.py": ("test_triton.py",),
    "sharded.py": ("test_sharded_optim.py",),
}


def kit(file: str) -> tuple[str, ...]:
    """The tests of a file of the optimizer, as pytest names them."""
    return tuple(f"optim/{test}" for test in KITS.get(file, KITS["plain.py"]))


def mistake(file: str, right: str, wrong: str) -> Mutant:
    """One in a file below bert_lamb/optim."""
    return Mutant(f"bert_lamb/optim/{file}", right, wrong, kit(file))


MUTANTS = {
    "ascends": mistake("plain.py", "new = new - move * u", "new = new + move * u"),
    "root left out": mistake("plain.py", "root = v_hat.sqrt() + eps", "root = v_hat + eps"),
    "eps inside the root": mistake("plain.py", "root = v_hat.sqrt() + eps", "root = (v_hat + eps).sqrt()"),
    "decay outside the update": mistake("plain.py", "decay = rule.weight_decay * x", "decay = 0 * x"),
    "decay subtracted": mistake("plain.py", "decay = rule.weight_decay * x", "decay = -rule.weight_decay * x"),
    "ratio inverted": mistake("plain.py", "phi / u_norm, 1.0", "u_norm / phi, 1.0"),
    "ratio 0 at zero norm": mistake("plain.py", "phi / u_norm, 1.0)", "phi / u_norm, 0.0)"),
    "ratio of the moments alone": mistake(
        "plain.py", "for z in (x, *directions)", "for z in (x, *(u - batch.rule.weight_decay * x for u in directions))"
    ),
    "norm of the first row": mistake(
        "plain.py",
        "return norm_of(row_norms(flat, norm, dtype), norm) if",
        "return norm_of(row_norms(flat, norm, dtype)[:1], norm) if",
    ),
    "norms of rows in L1": mistake(
        "plain.py",
        "found = row_norm(flat[:whole].view(-1, ROW), norm, dtype)",
        "found = row_norm(flat[:whole].view(-1, ROW), 1, dtype)",
    ),
    "what fills no row": mistake("plain.py", "return found if whole == len(flat) else", "return found if True else"),
    "always the L2 norm": mistake("plain.py", "[norm_of(z, batch.rule.norm) for", "[norm_of(z, 2) for"),
    "correction one step late": mistake(
        "plain.py", "for at in (t, t + 1) for beta", "for at in (t + 1, t + 2) for beta"
    ),
    "correction of m left out": mistake("plain.py", "m_hat, v_hat = m * c1, v * c2", "m_hat, v_hat = m, v * c2"),
    "correction without its minus": mistake("plain.py", "return -1 / torch.expm1(", "return 1 / torch.expm1("),
    "corrected rate inverted": mistake("plain.py", "batch.lr * c1 / c2.sqrt()", "batch.lr * c2.sqrt() / c1"),
    "betas exchanged": mistake(
        "plain.py", "beta1, beta2 = rule.betas\n    return", "beta2, beta1 = rule.betas\n    return"
    ),
    "second moment of the moment": mistake(
        "plain.py", "beta2 * v + (1 - beta2) * g * g\n\n\ndef", "beta2 * v + (1 - beta2) * m * m\n\n\ndef"
    ),
    "gradient averaged twice": mistake(
        "plain.py", "beta1 * m + taken(rule) * g, ", "beta1 * m + taken(rule) ** 2 * g, "
    ),
    "phi not clipped below": mistake(
        "plain.py", "x_norm.clamp(*rule.phi_bounds)", "x_norm.clamp(max=rule.phi_bounds[1])"
    ),
    "look-ahead one step behind": mistake("plain.py", "m_hat = beta1 * m * next1", "m_hat = beta1 * m * c1"),
    "LANS parts exchanged": mistake(
        "plain.py", "return (rule.betas[0], 1 - rule.betas[0]) if", "return (1 - rule.betas[0], rule.betas[0]) if"
    ),
    "LANS without normalising": mistake("plain.py", "torch.where(norms > 0, 1 / norms, factor)", "factor"),
    "descends where it should ascend": mistake("plain.py", "factor = -factor", "factor = +factor"),
    "apex adapts everything": mistake("rule.py", "self.weight_decay != 0 if", "True if"),
    "clips every gradient": mistake("layerwise.py", ".clamp(max=1.0)", ""),
    "the scale is forgotten": mistake("plain.py", "ones if scale is None else ones * scale.to(batch.wide)", "ones"),
    "writes what is not finite": mistake("plain.py", "new if finite is None else torch.where(finite, new, old)", "new"),
    "goes on where it is not finite": mistake("update.py", "    if finite:\n", "    if True:\n"),
    "norm of a rank's part": mistake("sharded.py", "in alike.items()", "in ()"),
    "parts' norms added": mistake("sharded.py", "mine = norms**norm if adds", "mine = norms if adds"),
    "rounds by a rank's own size": mistake(
        "tensors.py", "return [-(-p.numel() // ranks) for p in self.params]", "return [x.numel() for x in self.weights]"
    ),
    "LARS decays outside": mistake("lars.py", "(g + decay * x)", "g"),
    "foreach: eps not in its unit": mistake(
        "foreach.py", "eps, keep, applied = rule.eps / s", "eps, keep, applied = rule.eps * s"
    ),
    "foreach: decay not in its unit": mistake(
        "foreach.py", "(rule.weight_decay / units(numbers, rule))", "(rule.weight_decay * units(numbers, rule))"
    ),
    "foreach: norms without their unit": mistake("foreach.py", "whole[:, 1:] * kept.units", "whole[:, 1:]"),
    "foreach: moves without their unit": mistake("foreach.py", "    moves = moves * kept.units\n", ""),
    "foreach: ascends": mistake("foreach.py", "[move[i] for i in places], -1)", "[move[i] for i in places], 1)"),
    "foreach: scalars of a neighbour": mistake(
        "foreach.py", "return [each[i] for i in places]", "return [each[i] for i in places[::-1]]"
    ),
    "foreach: norm of the last piece": mistake(
        "foreach.py", "torch.cat(list(norms)) if len(norms) > 1 else norms[0]", "norms[-1]"
    ),
    "foreach: moments that are not finite": mistake(
        "foreach.py",
        "keep = torch.where(finite, beta1 * one, one)",
        "keep = torch.where(finite, beta1 * one, beta1 * one)",
    ),
    "foreach: bits kept": mistake("foreach.py", "for z in g], s.applied)", "for z in g], s.applied * 0 + 1)"),
    "foreach: factor forgotten": mistake(
        "foreach.py", "return g if s.factor is None else torch._foreach_mul(g, s.factor)", "return g"
    ),
    "foreach: look-ahead without the gradient": mistake(
        "foreach.py", "        torch._foreach_addcmul_(u, g, s.ahead[1])\n", ""
    ),
    "copies not put back": mistake("tensors.py", "view.copy_(vector.view(view.shape))", "pass"),
    "rows: norms of rows added": mistake(
        "rows.py",
        "torch.stack([norm_of(z, batch.rule.norm) for z in of_rows])",
        "torch.stack([z.sum() for z in of_rows])",
    ),
    "rows: L1 taken for Linf": mistake("rows.py", "1 if norm == 1 else", 'float("inf") if norm == 1 else'),
    "rows: norms without their unit": mistake("rows.py", "found[1:] * own[place]", "found[1:]"),
    "rows: numbers of a neighbour": mistake("rows.py", "scalars.some(places)", "scalars.some(places[::-1])"),
    "rows: moves of a neighbour": mistake(
        "rows.py", "of_update[i] for i in group.places]", "of_update[i] for i in group.places[::-1]]"
    ),
    "rows: weights that are not finite": mistake(
        "rows.py", "torch.where(finite, moves * kept.units, 0.0)", "moves * kept.units"
    ),
    "Triton: norm of the first chunk": mistake("fused.py", "total = partials.sum(dim=1)", "total = partials[:, 0]"),
    "Triton: square of the norm": mistake("fused.py", "total.sqrt() if rule.norm == 2 else total", "total"),
    "Triton: decay outside the update": mistake("fused.py", "u = m_hat / root + DECAY * x", "u = m_hat / root"),
    "Triton: eps inside the root": mistake("fused.py", "tl.sqrt(v_hat) + EPS", "tl.sqrt(v_hat + EPS)"),
    "Triton: corrections exchanged": mistake("fused.py", "m * c1, v * c2", "m * c2, v * c1"),
    "Triton: LANS parts exchanged": mistake(
        "fused.py",
        "tl.load(moves + owner * 2) * u + tl.load(moves + owner * 2 + 1) * w",
        "tl.load(moves + owner * 2 + 1) * u + tl.load(moves + owner * 2) * w",
    ),
    "Triton: weights that are not finite": mistake(
        "fused.py",
        "tl.store(xs + at, x.to(PARAM), mask=inside & finite)",
        "tl.store(xs + at, x.to(PARAM), mask=inside)",
    ),
    "Triton: moments that are not finite": mistake(
        "fused.py", "tl.store(ms + at, m, mask=inside & finite)", "tl.store(ms + at, m, mask=inside)"
    ),
    "Triton: every chunk from the start": mistake("fused.py", "tl.load(starts + tl.program_id(0)), tl", "0, tl"),
}


def environment(file: str) -> dict[str, str]:
    """Of a run of a file's kit: Triton's kernels run in its interpreter."""
    triton = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(TRITON)} if file == "fused.py" else {}
    return {**os.environ, **triton}


def seen(copy: Path, mutant: Mutant | None, file: str) -> bool:
    """Whether a file's kit is red in the copy with this mistake, or with none."""
    return turns_red(copy, kit(file), mutant, environment(file))


def main(names: list[str]) -> int:
    names = names or list(MUTANTS)
    with project_copy() as copy:
        files = {name: Path(MUTANTS[name].file).name for name in names}
        for file in {file if file in KITS else "plain.py" for file in files.values()}:
            if seen(copy, None, file):
                print(f"the kit of {file} is red without any planted mistake: run it by itself")
                return 1
        return report((name, seen(copy, MUTANTS[name], files[name])) for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
