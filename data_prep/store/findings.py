"""What is wrong with a finished store for training: pairs that teach nothing, text that the vocabulary cannot spell."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from bert_lamb.data.vocabulary import LONGEST_WORD, UNKNOWN
from bert_lamb.settings import DataSettings
from bert_lamb.words import counted
from data_prep.shards.make import ShardRecord
from data_prep.shards.tokenizer import LARGEST_ALPHABET
from data_prep.text.document import most_frequent

RANDOM_NEXT = (0.35, 0.65)  # shares of pairs with a random B beyond which the manifest warns; BERT's is about a half
LEAST_PAIRS = 20  # of fewer, any share is chance
MOST_UNKNOWN = 0.01  # share of tokens
NAMED = 10  # characters and words that a warning lists
OFTEN = 0.2  # share of documents or sentences from which something is a cause


def random_next_shares(instances: dict[str, Any], records: list[ShardRecord]) -> dict[str, dict[str, float]]:
    """Share of pairs with a random B by table (all passes), and of a mix by source: {"train": {"128": 0.5}, ...}."""
    shares: dict[str, dict[str, float]] = {}
    for split, lengths in instances.items():
        for length, passes in lengths.items():
            pairs = sum(p["instances"] for p in passes)
            if pairs:
                shares.setdefault(split, {})[length] = round(sum(p["random_next"] for p in passes) / pairs, 6)
    for source, lengths in source_pairs(records).items():
        found = {length: round(random / pairs, 6) for length, (pairs, random) in lengths.items() if pairs}
        shares |= {f"train, {source}": found} if found else {}
    return shares


def source_pairs(records: list[ShardRecord]) -> dict[str, dict[str, tuple[int, int]]]:
    """Of a mix: pairs and those with a random B, by source and length."""
    total: dict[str, dict[str, tuple[int, int]]] = {}
    for record in records:
        for length, sources in record.source_pairs.items():
            for source, (pairs, random) in sources.items():
                before = total.setdefault(source, {}).get(length, (0, 0))
                total[source][length] = (before[0] + pairs, before[1] + random)
    return dict(sorted(total.items()))


def warnings(data: DataSettings, manifest: dict[str, Any], records: list[ShardRecord]) -> list[str]:
    """Whole sentences, each with the cause and the way out; none where all is well."""
    return [*_pairs(data, manifest, records), *_unknown(manifest, records)]


def _pairs(data: DataSettings, manifest: dict[str, Any], records: list[ShardRecord]) -> Iterator[str]:
    for length, passes in manifest["instances"]["train"].items():
        pairs = sum(p["instances"] for p in passes)
        share = manifest["random_next_share"].get("train", {}).get(length, 0.5)
        if pairs >= LEAST_PAIRS and not RANDOM_NEXT[0] <= share <= RANDOM_NEXT[1]:
            yield (
                f"{share:.1%} of the {pairs:,} training pairs of length {length} have a random B, where about a half "
                f"is meant, so that they teach little about the next sentence: {_cause(data, length, share, records)}"
            )
    for source, lengths in source_pairs(records).items():
        for length, (pairs, random) in lengths.items():
            if pairs >= LEAST_PAIRS and not RANDOM_NEXT[0] <= random / pairs <= RANDOM_NEXT[1]:
                yield (
                    f"{random / pairs:.1%} of the {pairs:,} training pairs of length {length} whose A is from {source} "
                    f"have a random B, where about a half is meant: look at the documents of data.mix.{source}."
                )


def _cause(data: DataSettings, length: str, share: float, records: list[ShardRecord]) -> str:
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.counts)
    documents, sentences = counts["train_documents"], counts["train_sentences"]
    if share < RANDOM_NEXT[0]:
        alone = sum("train" in r.pairless for r in records)
        return (
            f"{alone} of {counted(len(records), 'shard')} of train have fewer than two documents, and a random B comes "
            f"from another document of the shard. Raise data.shard_mib (now {data.shard_mib}), or divide the text into "
            "smaller documents (data.txt_document, data.sentences_per_document)."
        )
    one = counts["train_one_sentence_documents"]
    full = counts[f"train_sentences_of_{length}"]
    causes = []
    if one >= OFTEN * documents:
        causes.append(f"{one:,} of {counted(documents, 'document')} have one sentence")
    if full >= OFTEN * sentences:
        causes.append(f"{full:,} of {counted(sentences, 'sentence')} alone fill a sequence of {length} tokens")
    if not causes:
        causes.append(f"a document has {sentences / max(1, documents):.1f} sentences on average")
    return (
        " and ".join(causes)
        + ". B is the next sentence of the same document: give whole documents, let data.sentences_per_document join "
        "consecutive records, or check data.language if sentences are not split."
    )


def _unknown(manifest: dict[str, Any], records: list[ShardRecord]) -> Iterator[str]:
    counts = manifest["counts"]
    shares = {
        "of the training tokens": counts["unknown_tokens"] / max(1, counts["tokens"]),
        "of the held-out tokens": counts["heldout_unknown_tokens"] / max(1, counts["heldout_tokens"]),
    }
    high = [f"{share:.1%} {of}" for of, share in shares.items() if share > MOST_UNKNOWN]
    if not high:
        return
    characters, words = Counter[str](), Counter[str]()
    for record in records:
        characters.update(record.unknown_characters)
        words.update(record.unknown_words)
    too_long = sum(r.unknown_too_long for r in records)
    causes = [
        (too_long, _too_long(too_long)),
        (characters.total(), _characters(characters, manifest)),
        (
            words.total(),
            f"words that its pieces cannot spell ({_listed(words)}): train a vocabulary on this text (data.vocab=null)",
        ),
    ]
    worst = [text for number, text in sorted(causes, reverse=True) if number]
    yield f"{' and '.join(high)} are {UNKNOWN}, text that the vocabulary cannot spell. Most often: {'; '.join(worst)}."


def _too_long(number: int) -> str:
    return (
        f"words of more than {LONGEST_WORD} characters ({number:,} in a sample), as where a script has no blanks: put "
        "blanks between words (a word splitter of that language) before the text is prepared"
    )


def _characters(characters: Counter[str], manifest: dict[str, Any]) -> str:
    way_out = (
        f"a trained vocabulary has the {LARGEST_ALPHABET:,} most frequent characters, so give one that has these, as "
        "data.vocab"
        if manifest["tokenizer"]["trained"]
        else "train a vocabulary on this text (data.vocab=null), or give one of its language"
    )
    return f"characters without an entry ({_listed(characters)}): {way_out}"


def _listed(found: Counter[str]) -> str:
    """The most frequent ones; what cannot be printed by its number."""
    named = most_frequent(found, NAMED).items()
    return ", ".join(f"{text if text.isprintable() else ascii(text)[1:-1]} {number:,}" for text, number in named)
