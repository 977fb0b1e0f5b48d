"""WordPiece vocabularies: vocab.txt, one entry a line, its number is the id; and the tokenizer of one."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from bert_lamb.data.store import StoreError

VOCABULARY = "vocab.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4 in a vocabulary trained here
CONTINUATION = "##"  # marks a piece that continues a word
UNKNOWN = "[UNK]"
LONGEST_WORD = 100  # characters; a longer word is [UNK], as in BERT


def read_vocabulary(path: Path) -> list[str]:
    """The entries of a vocab.txt in the order of their ids; StoreError where it is no such file."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise StoreError(f"{path} does not exist: name a vocab.txt, or train one with data.vocab=null") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read as a vocabulary, one entry a line in UTF-8 ({error})") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def vocabulary_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def special_ids(vocabulary: list[str]) -> dict[str, int]:
    """{"[PAD]": id, ...}; StoreError where one is missing."""
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise StoreError(
            f"the vocabulary lacks {', '.join(missing)}: it is no BERT vocabulary; choose another data.vocab"
        )
    return {token: vocabulary.index(token) for token in SPECIAL_TOKENS}


def continuation_pieces(vocabulary: list[str]) -> np.ndarray:
    """[vocabulary] bool: entries that continue a word."""
    return np.array([entry.startswith(CONTINUATION) and len(entry) > len(CONTINUATION) for entry in vocabulary])


def make_tokenizer(vocabulary: list[str], lower_case: bool, strip_accents: bool | None = None) -> Tokenizer:
    """BERT's tokenizer. Text that spells "[SEP]" stays text: special tokens are put in by ids alone.

    `strip_accents`: None for as `lower_case`.
    """
    ids = {entry: i for i, entry in enumerate(vocabulary)}
    model = models.WordPiece(
        ids, unk_token=UNKNOWN, max_input_chars_per_word=LONGEST_WORD, continuing_subword_prefix=CONTINUATION
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = bert_normalizer(lower_case, strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return tokenizer


def bert_normalizer(lower_case: bool, strip_accents: bool | None = None) -> normalizers.BertNormalizer:
    """BERT's: drops control characters, parts Chinese ones, folds case and strips accents where asked."""
    strips = lower_case if strip_accents is None else strip_accents
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strips, lowercase=lower_case
    )


def strips_accents(about: dict[str, Any]) -> bool:
    """Whether accents are stripped, of a manifest's "tokenizer"; stores without the entry did as BERT does."""
    return bool(about.get("strip_accents", about["lower_case"]))


def load_tokenizer(folder: Path, manifest: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a token store; StoreError where its vocabulary is not the manifest's."""
    about = manifest["tokenizer"]
    path = folder / VOCABULARY
    vocabulary = read_vocabulary(path)
    if vocabulary_sha256(path) != about["sha256"]:
        raise StoreError(f"{path} does not match its SHA-256 in the manifest: restore it, or run `make prepare` again")
    return make_tokenizer(vocabulary, about["lower_case"], strips_accents(about))
