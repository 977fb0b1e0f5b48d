"""Equal documents: the first stays. Decided over the whole input, from signatures, before anything is written.

A first pass over the slices leaves a file of signatures each, 8 bytes a document, in the order of their documents.
A killed run goes on with the slices that have none. Which documents are duplicates follows from all files together.
"""

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bert_lamb.data.store import manifest_bytes
from bert_lamb.files import write_whole
from bert_lamb.settings import DataSettings
from bert_lamb.words import counted
from data_prep.reading.slices import Plan, Slice
from data_prep.shards.folder import StoreFolder
from data_prep.store.pool import ProgressBar, Work, run_slices
from data_prep.text.records import cleaned_texts
from data_prep.text.sentences import signature

log = logging.getLogger(__name__)
SIGNATURE = np.dtype("<u8")
SHARES = 16  # of the signatures, by their first bits: sorted one by one, so that sorting needs little memory


def mark_duplicates(data: DataSettings, asked: dict[str, Any], folder: StoreFolder, plan: Plan) -> None:
    """Tells every slice which of its documents have a text that came earlier in the input (by slice, then place)."""
    key = hashlib.sha256(manifest_bytes(asked)).hexdigest()[:16]
    place = folder.signatures(key)  # a run that was cut may have left some of other settings or input
    place.mkdir(parents=True, exist_ok=True)
    todo = [part for part in plan.slices if not signature_path(place, part.number).is_file()]
    log.info("duplicates: making signatures of %d of %s", len(todo), counted(len(plan.slices), "slice"))
    progress = ProgressBar(plan.size, plan.size - sum(part.size for part in todo), "signatures")
    sizes = {part.number: part.size for part in plan.slices}
    run_slices(StoreFolder(place), data, todo, lambda number: progress.add(sizes[number]), signer)
    progress.end()
    paths = [signature_path(place, part.number) for part in plan.slices]
    lengths = [path.stat().st_size // SIGNATURE.itemsize for path in paths]
    signatures = np.empty(sum(lengths), SIGNATURE)
    for path, part_of_all in zip(paths, np.split(signatures, np.cumsum(lengths)[:-1]), strict=True):
        part_of_all[:] = np.fromfile(path, SIGNATURE)
    for part, places in zip(plan.slices, later_ones(signatures, lengths), strict=True):
        part.duplicates = places


def signature_path(place: Path, number: int) -> Path:
    return place / f"{number:05d}.u8"


def signer(place: StoreFolder, data: DataSettings) -> Work:
    """The work of the first pass."""
    return partial(sign, place.path, data)


def sign(place: Path, data: DataSettings, part: Slice, texts: list[bytes | None]) -> int:
    """Writes the signatures of a slice's documents; returns its number."""
    found = np.fromiter((signature(text) for text in cleaned_texts(part, texts, data)), SIGNATURE)
    write_whole(signature_path(place, part.number), found.tobytes())
    return part.number


def later_ones(signatures: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    """Places of each slice, rising, whose value stands before, in the slice or in an earlier one; uint32.

    `signatures` are those of all slices, end to end.
    """
    first_bits = signatures.view(np.uint8)[SIGNATURE.itemsize - 1 :: SIGNATURE.itemsize] // (256 // SHARES)
    later = []
    for number in range(SHARES):
        at = np.flatnonzero(first_bits == number)
        order = at[np.argsort(signatures[at], kind="stable")]  # equal ones stay in the order of the input
        values = signatures[order]
        later.append(order[1:][values[1:] == values[:-1]])
    found = np.sort(np.concatenate(later))
    starts = np.cumsum([0, *lengths])
    borders = np.searchsorted(found, starts)
    return [(found[borders[i] : borders[i + 1]] - starts[i]).astype(np.uint32) for i in range(len(lengths))]
