"""Hydra's and OmegaConf's errors in our words: the key, the value that was met, the nearest valid one last."""

import dataclasses
import difflib
import re

from bert_lamb.settings.schema import Settings

GROUP_FOLDERS = {"phase1": "phase (phase@phase1=...)", "phase2": "phase (phase@phase2=...)"}


def compose_message(error: Exception) -> str:
    """Hydra's and OmegaConf's errors as: key, value, nearest valid key."""
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", text)
    override = re.search(r"Could not override '([^']+)'", text)
    full = re.search(r"full_key: (\S+)", text)
    if unknown:
        named = override or full or unknown
        return unknown_key_message(named.group(1).lstrip("+~"))
    if missing := re.search(r"Could not (?:find|load) '([^']+)'", text):
        return missing_file_message(missing.group(1), text)
    if deleted := re.search(r"Error merging override (~\S+)", text):
        return f"{deleted.group(1)}: a setting cannot be taken out; give it a value (null where that means none)"
    if swept := re.search(r"Ambiguous value for argument '([^'=]+)=([^']*)'", text):
        key, values = swept.groups()
        return (
            f"{key}={values}: several values are for `bert-lamb sweep` (make sweep), which runs the chain for each; a "
            f"list is written {key}=[{values}]"
        )
    value = re.search(r"Value '(.+?)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)", text)
    if value and full:
        return f"{full.group(1)}={value.group(1)}: a value of type {value.group(2).lower()} is expected"
    if full and re.search(r"\w+ is not a ListConfig", text):
        return f"{full.group(1)}: a list is expected; write {full.group(1)}=[first,second]"
    if full and re.search(r"is not a subclass of \w+Settings", text):
        key = full.group(1)
        folder = GROUP_FOLDERS.get(key, key)
        return f"{key} is a group of settings: choose a file of conf/{folder}, or set {key}.<key>=value"
    unreadable = getattr(error, "override", None)
    if unreadable:
        return (
            f"{unreadable} cannot be read as key=value ({text.splitlines()[0]}); values with blanks or other signs "
            """stand in quotes of their own: 'data.paths=["/my texts"]'"""
        )
    return text.split("\nSee ")[0]


def missing_file_message(wanted: str, text: str) -> str:
    """Names the group, what was asked for and what there is; the nearest choice comes last."""
    group, _, name = wanted.rpartition("/")
    listed = re.search(r"Available options in '[^']*':\n((?:\t\S+\n?)+)", text)
    choices = listed.group(1).split() if listed else []
    if not choices:
        return f"{wanted}: no such file in conf/; --help lists the groups and their choices"
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    hint = f"; did you mean {group}={near[0]}?" if near else ""
    return f"{group}={name}: there is no such file in conf/{group}. There are {', '.join(choices)}{hint}"


def unknown_key_message(key: str) -> str:
    """Names the key and the valid ones nearest to it."""
    keys = _all_keys()
    groups = sorted({k.rpartition(".")[0] for k in keys if "." in k})
    same_group = [k for k in keys if k.rpartition(".")[0] == key.rpartition(".")[0]]
    near = [k for k in same_group if "." in key and k.endswith(key.rpartition(".")[2])]
    near += [k for k in difflib.get_close_matches(key, keys + groups, n=3, cutoff=0.6) if k not in near]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "`--cfg job` lists every key"
    return f"unknown setting {key!r}; {hint}"


def _all_keys(schema: type = Settings, prefix: str = "") -> list[str]:
    """Every dotted key of a dataclass tree."""
    keys = []
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(f.type):
            keys += _all_keys(f.type, f"{prefix}{f.name}.")  # type: ignore[arg-type]
        else:
            keys.append(prefix + f.name)
    return keys
