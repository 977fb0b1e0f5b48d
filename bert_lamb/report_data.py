"""What a token store holds, in figures: `python -m bert_lamb.report_data [overrides]`. Reads the store alone.

Writes report.md and its figures into the store's report/.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bert_lamb.data.vocabulary import UNKNOWN
from bert_lamb.files import write_whole
from bert_lamb.reporting.data_figures import SHOWN_REASONS, draw_data_figures
from bert_lamb.reporting.data_numbers import StoreNumbers, read_store, reasons
from bert_lamb.settings import Settings, command
from bert_lamb.words import counted


@command
def main(s: Settings) -> None:
    """Reports on the store that the settings name."""
    folder = Path(s.data.root) / s.data.name
    numbers = read_store(folder)
    (folder / "report").mkdir(exist_ok=True)
    figures = draw_data_figures(numbers, folder / "report")
    write_whole(folder / "report" / "report.md", page(numbers, s.data.name, figures).encode())
    print(folder / "report" / "report.md")


def page(numbers: StoreNumbers, name: str, figures: list[tuple[str, str]]) -> str:
    """The page in markdown."""
    warnings = [line for warning in numbers.manifest.get("warnings", []) for line in (f"**Warning:** {warning}", "")]
    return "\n".join(
        [f"# Data: {name}", "", *warnings, *_counts(numbers), *_table(numbers), *_reasons(numbers), *_images(figures)]
    )


def _counts(numbers: StoreNumbers) -> Iterator[str]:
    counts, total = numbers.manifest["counts"], int(numbers.token_counts.sum())
    unused = int((numbers.token_counts == 0).sum())
    unknown = numbers.vocabulary.index(UNKNOWN)
    median = int(np.median(numbers.document_lengths))
    yield (
        f"{counted(counts['documents'], 'document')} for training, {counted(counts['sentences'], 'sentence')}, "
        f"{counted(total, 'token')}; {counted(counts['heldout_documents'], 'document')} held out. A document has "
        f"{total / max(1, counts['documents']):,.0f} tokens on average (median {median:,}), a sentence "
        f"{total / max(1, counts['sentences']):.1f}."
    )
    yield ""
    yield (
        f"The unigram entropy is {numbers.manifest['unigram_entropy_nats']:.3f} nats: the MLM loss of a model that "
        f"knows only how often each entry occurs. {unused:,} of {len(numbers.vocabulary):,} entries never occur; "
        f"{numbers.token_counts[unknown] / total:.3%} of the tokens are {UNKNOWN}{_unknown_heldout(counts)}."
    )
    yield ""


def _unknown_heldout(counts: dict[str, int]) -> str:
    """Nothing for stores of earlier versions, which did not count it."""
    if "heldout_unknown_tokens" not in counts:
        return ""
    return f", and {counts['heldout_unknown_tokens'] / max(1, counts['heldout_tokens']):.3%} of the held-out ones"


def _table(numbers: StoreNumbers) -> Iterator[str]:
    yield "| length | passes | sequences per pass | tokens per sequence | real tokens if padded | random next |"
    yield "|---|---|---|---|---|---|"
    for length, passes in sorted(numbers.passes.items()):
        instances, tokens = (sum(p[name] for p in passes) for name in ("instances", "tokens"))
        yield (
            f"| {length} | {len(passes)} | {instances / len(passes):,.0f} | "
            f"{tokens / instances:.1f} | {tokens / instances / length:.1%} | "
            f"{sum(p['random_next'] for p in passes) / instances:.1%} |"
        )
    yield ""
    others = {table: of for table, of in numbers.manifest.get("random_next_share", {}).items() if table != "train"}
    for table, shares in others.items():
        listed = ", ".join(f"{share:.1%} of length {length}" for length, share in sorted(shares.items()))
        yield f"B is random in these pairs of {table.replace('train, ', 'training whose A is from ')}: {listed}."
        yield ""


def _reasons(numbers: StoreNumbers) -> Iterator[str]:
    found = reasons(numbers.manifest)
    if not found:
        yield "Nothing was rejected or left out."
    else:
        yield "| not in the store | records | |"
        yield "|---|---|---|"
        yield from (f"| {reason} | {count:,} | {kind} |" for reason, count, kind in found[:SHOWN_REASONS])
        if len(found) > SHOWN_REASONS:
            rest = found[SHOWN_REASONS:]
            yield f"| {counted(len(rest), 'more reason')} | {sum(count for _, count, _ in rest):,} | |"
    yield ""
    yield from (f"- {note}" for note in numbers.manifest["notes"])
    yield ""


def _images(figures: list[tuple[str, str]]) -> Iterator[str]:
    for stem, caption in figures:
        yield f"![{stem}]({stem}.png)"
        yield ""
        yield caption
        yield ""


if __name__ == "__main__":
    main()
