"""How a store that is begun or finished is recognised as the one asked for."""

from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from bert_lamb.data.store import manifest_bytes
from bert_lamb.data.vocabulary import read_vocabulary, vocabulary_sha256
from bert_lamb.errors import UserError
from bert_lamb.files import write_whole
from bert_lamb.jsonfiles import read_object
from bert_lamb.settings import DataSettings, difference
from data_prep.reading.slices import Plan
from data_prep.shards.folder import StoreFolder
from data_prep.shards.tokenizer import Vocabulary
from data_prep.text.squad_overlap import squad_sha256
from data_prep.text.template_table import table_sha256

DECIDE_NOTHING = ("name", "root", "paths", "hub", "processes", "part", "parts", "max_reject_share")  # change no byte
LIBRARIES = ("sentencex", "tokenizers", "numpy", "pyarrow")  # another version may give other bytes
LIBRARIES_OF = {"wikipedia_dump": ("mwparserfromhell",)}  # by source
# rules that are off decide nothing: a store made before there were these is still the one asked for
OFF: dict[str, Any] = {
    "templates": None,
    "deduplicate": False,
    "min_characters": 0,
    "languages": [],
    "squad": None,
    "leave_out_squad": False,
    "mix": {},
    "strip_accents": None,
    "gaps": "keep",
}
OFF |= {"encoding": "utf-8", "dataset": None, "subset": None, "split": "train"}


class PrepareError(UserError):
    """The store cannot be made as asked; the message names the way out."""


def deciding_settings(data: DataSettings, given: Vocabulary | None) -> dict[str, Any]:
    """The settings that decide the store's bytes. Vocabulary and SQuAD file count by content, not by path."""
    settings = {k: v for k, v in asdict(data).items() if k not in DECIDE_NOTHING and OFF.get(k, ...) != v}
    if data.strip_accents == data.lower_case:  # the same as null
        settings.pop("strip_accents")
    if data.mix:
        settings["mix"] = {name: {"sentences_per_document": m.sentences_per_document, "share": m.share}
                           for name, m in data.mix.items()}  # fmt: skip
    if data.squad:
        settings["squad"] = f"sha256:{squad_sha256(data.squad)}"
    if data.source == "wikipedia_dump":  # also the built-in table alone: earlier stores were cleaned without one
        settings["templates"] = f"sha256:{table_sha256(data.templates)}"
    if given:
        settings |= {"vocab": f"sha256:{given.sha256}", "vocab_size": len(given.entries)}
    return settings


def libraries(data: DataSettings) -> dict[str, str]:
    """Versions of what decides the store's bytes besides settings and input."""
    names = (*LIBRARIES, *LIBRARIES_OF.get(data.source, ()), *(("py3langid",) if data.languages else ()))
    return {name: version(name) for name in names}


def asked_for(data: DataSettings, settings: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What decides the store's bytes: settings, input, versions of libraries."""
    return {"settings": settings, "sources": plan.sources, "libraries": libraries(data)}


def earlier_begun(folder: StoreFolder, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What a run before wrote when it began; PrepareError where that is another store."""
    begun, problem = read_object(folder.begun_file, _is_begun)
    if problem:
        raise PrepareError(
            f"{problem}, so no one knows which store this is: delete {folder.path} or choose another data.name"
        )
    if begun is None:
        return None
    refuse_other(folder, begun, asked)
    return begun


def _is_begun(value: dict[str, Any]) -> bool:
    """Whether an object says all that tells one begun store from another."""
    sources, vocabulary = value.get("sources"), value.get("vocabulary")
    return (
        isinstance(value.get("settings"), dict)
        and isinstance(value.get("libraries", {}), dict)
        and isinstance(sources, list)
        and all(isinstance(s, dict) and isinstance(s.get("name"), str) and type(s.get("bytes")) is int for s in sources)
        and isinstance(vocabulary, dict)
        and isinstance(vocabulary.get("sha256"), str)
        and isinstance(vocabulary.get("trained"), bool)
    )


def begin(
    folder: StoreFolder, asked: dict[str, Any], begun: dict[str, Any] | None, make: Callable[[], Vocabulary]
) -> Vocabulary:
    """The vocabulary of this store: as a run before left it, else made now and written."""
    path = folder.vocabulary_file
    if begun and path.is_file() and vocabulary_sha256(path) == begun["vocabulary"]["sha256"]:
        settings, trained = asked["settings"], begun["vocabulary"]["trained"]
        lower_case, strip_accents = settings["lower_case"], settings.get("strip_accents")
        return Vocabulary(read_vocabulary(path), path.read_bytes(), lower_case, trained, strip_accents)
    vocabulary = make()
    if begun and vocabulary.sha256 != begun["vocabulary"]["sha256"]:
        raise PrepareError(
            f"{path} is gone, and training it again gives another one: delete {folder.path} to prepare anew"
        )
    write_whole(path, vocabulary.content)
    about = {"sha256": vocabulary.sha256, "trained": vocabulary.trained}
    write_whole(folder.begun_file, manifest_bytes(asked | {"vocabulary": about}))
    return vocabulary


def refuse_other(folder: StoreFolder, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """PrepareError with every difference where the store is not the one asked for."""
    lines = difference(there["settings"], asked["settings"], "data.")
    lines += source_differences(there["sources"], asked["sources"])
    lines += difference(there.get("libraries", {}), asked["libraries"], "library ") if "libraries" in asked else []
    if lines:
        kind = "was prepared" if folder.manifest_file.is_file() else "was begun"
        raise PrepareError(
            f"{folder.path} {kind} with other settings:\n"
            + "\n".join(f"- {line}" for line in lines)
            + f"\nGive the new data another name (data.name=...), or delete {folder.path} first."
        )


def source_differences(there: list[dict[str, Any]], asked: list[dict[str, Any]]) -> list[str]:
    """Lines about inputs that came, went or changed. Only what both sides know of a file is compared."""
    lines = []
    old, new = keyed(there), keyed(asked)
    for key in sorted(old.keys() | new.keys()):
        name = key[0]
        if key not in new:
            lines.append(f"input {name}: was read before, but is not among data.paths now")
        elif key not in old:
            lines.append(f"input {name}: is among data.paths now, but was not read before")
        else:
            changed = [k for k in old[key].keys() & new[key].keys() if old[key][k] != new[key][k]]
            lines += [f"input {name}: {k} {old[key][k]} -> {new[key][k]}" for k in sorted(changed)]
    return lines


def keyed(sources: list[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Sources by name, and by number among those of one name."""
    seen: dict[str, int] = {}
    result = {}
    for source in sorted(sources, key=lambda s: (s["name"], s.get("sha256", ""), s["bytes"])):
        number = seen[source["name"]] = seen.get(source["name"], -1) + 1
        result[source["name"], number] = source
    return result
