"""The prepared data's tokenizer as transformers reads it, saved in every checkpoint."""

from pathlib import Path
from typing import Any

from transformers import BertTokenizer

from bert_lamb.data.vocabulary import VOCABULARY, read_vocabulary, strips_accents


def tokenizer_of(store: Path, manifest: dict[str, Any], max_positions: int) -> BertTokenizer:
    """Splits text into the ids of the prepared data; texts of more than `max_positions` tokens are warned of."""
    about = manifest["tokenizer"]
    return BertTokenizer(
        vocab={entry: i for i, entry in enumerate(read_vocabulary(store / VOCABULARY))},
        do_lower_case=about["lower_case"],
        strip_accents=strips_accents(about),
        model_max_length=max_positions,
    )
