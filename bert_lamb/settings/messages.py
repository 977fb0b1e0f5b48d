"""Hydra's and OmegaConf's errors in our words: the key, the value that was met, the nearest valid one last."""

import dataclasses
import difflib
import re
from collections.abc import Sequence

from bert_lamb.settings.schema import Settings

GROUP_FOLDERS = {"phase1": "phase (phase@phase1=...)", "phase2": "phase (phase@phase2=...)"}
KEY_OF_GROUP = {"phase": "phase@phase1 or phase@phase2"}  # what the command line calls a group, where not its folder
GROUPS = [f.name for f in dataclasses.fields(Settings) if dataclasses.is_dataclass(f.type)]
GROUPS_WITH_FILES = ("model", "data", "optimizer", "phase1", "phase2", "finetune", "hardware")
NOISE = re.compile(r"full_key: |object_type=|reference_type=|provider=|Config search path|$")  # of Hydra's messages
OPTIONS = {  # of Hydra
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--run", "-r",
    "--multirun", "-m", "--shell-completion", "-sc", "--config-dir", "-cd", "--info", "-i",
}  # fmt: skip
OTHER_RECIPES = "choose a recipe with experiment=..., from a folder of your own with --config-dir=FOLDER experiment=..."
REFUSED = {  # options of Hydra that would leave the settings' schema, or unpickle a file
    **dict.fromkeys(("--config-path", "-cp", "--config-name", "-cn"), OTHER_RECIPES),
    "--experimental-rerun": "to continue a run, give its command again, or run.name",
    **dict.fromkeys(("--package", "-p"), "--cfg job prints all settings"),
}


def compose_message(error: Exception) -> str:
    """Hydra's and OmegaConf's errors as: key, value, nearest valid key. One line, whatever the error is."""
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    unreadable = getattr(error, "override", None)
    for answer in (
        _about_a_key(text),
        _about_a_group(text),
        _about_a_value(text),
        unreadable and _about_the_form(unreadable, text),
    ):
        if answer:
            return answer
    return " ".join(line.strip() for line in text.split("\nSee ")[0].splitlines() if not NOISE.match(line.strip()))


def argument_problem(arguments: Sequence[str]) -> str | None:
    """What is wrong with the form of a command line that Hydra would answer with its usage or a traceback."""
    for argument in arguments:
        option, _, value = argument.partition("=")
        if option in REFUSED:
            return f"{argument}: this option of Hydra is not used here; {REFUSED[option]}"
        if argument.startswith("-") and option not in OPTIONS:
            written = f"{option.lstrip('-')}={value or '...'}"
            return f"{argument}: no such option; write settings without dashes, as {written}; --help lists the groups"
        if not argument.strip():
            return f"{argument!r} is empty; write a setting as key=value"
        if argument.startswith("="):
            return f"{argument}: the key is missing; write a setting as key=value"
    return None


def _about_a_key(text: str) -> str | None:
    """A key that does not exist, or that `+` or `~` cannot add or take out."""
    override, full = re.search(r"Could not override '([^'@]+)'", text), _full_key(text)
    if found := re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", text):
        named = override.group(1) if override else full or found.group(1)
        return unknown_key_message(named.lstrip("+~"))
    if found := re.search(r"An item is already at '([^']+)'", text):
        return f"+{found.group(1)}: this setting exists already; write it without the +"
    return None


def _about_a_group(text: str) -> str | None:
    """A group, or a file of one, that does not exist or is named in the wrong way."""
    if found := re.search(r"Could not (?:find|load) '([^']+)'", text):
        return missing_file_message(found.group(1), text)
    if found := re.search(r"Could not override '([^']+@[^']+)'.\s+Did you mean to override (?:one of )?(.*)", text):
        return f"{found.group(1)}: no such group; did you mean {' or '.join(found.group(2).rstrip('?').split(', '))}?"
    if found := re.search(r"Multiple values for (\S+)\. To override", text):
        return f"{found.group(1)} has a choice already; to make another, write {found.group(1)}=... without the +"
    if found := re.search(r"In '([^']+)': ValidationError [\s\S]*Cannot convert '\w+Config' to string", text):
        return f"{found.group(1)}.yaml: its first line must be `# @package _global_`, its others settings, as `seed: 1`"
    if "maximum recursion depth" in text:
        return "its defaults lead back to itself"
    if "Config group override must be a string" in text:
        return "a group of settings is set to the name of a file, as in model=large; --help lists groups and files"
    key = _full_key(text)
    if key in GROUPS and re.search(r"is not a subclass of \w+Settings", text):
        folder = GROUP_FOLDERS.get(key, key)
        return f"{key} is a group of settings: choose a file of conf/{folder}, or set {key}.<key>=value"
    return None


def _about_a_value(text: str) -> str | None:
    """A value of the wrong type, none where one is needed, or several where one is."""
    if found := re.search(r"Ambiguous value for argument '([^'=]+)=([^']*)'", text):
        return several_message(*found.groups())
    key = _full_key(text)
    if key is None:
        return None
    if found := re.search(r"Value '(.*?)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)", text):
        return f"{key}={found.group(1)}: a value of type {found.group(2).lower()} is expected"
    if re.search(r"field '[\w.]+' is not Optional", text):
        return f"{key}=null: a value is needed here"
    if found := re.search(r"Interpolation key '([^']+)' not found", text):
        return f"{key} refers to ${{{found.group(1)}}}, but there is no such setting"
    if re.search(r"\w+ is not a ListConfig", text):
        return f"{key}: a list is expected; write {key}=[first,second]"
    return None


def lacking_message(group: str, keys: Sequence[str]) -> str:
    """Settings of a group without a value: taken out with ~, set to ???, or in none of the files."""
    if group == "experiment":
        return "experiment has no value: the file of an experiment says its own name, as `experiment: my_recipe`"
    if group not in GROUPS:
        return f"{group} has no value: a setting cannot be removed; give it a value, as {group}=..."
    folder = GROUP_FOLDERS.get(group, group)
    choose = f"choose a file of conf/{folder}, or set" if group in GROUPS_WITH_FILES else "set"
    example = keys[0] if "." in keys[0] else f"{group}.<key>"
    return f"{group} lacks values: {choose} each missing one, as {example}=value"


def removal_message(key: str) -> str:
    """A setting that ~ was to take out."""
    if key not in {*_all_keys(), *GROUPS}:
        return unknown_key_message(key)
    return f"~{key}: a setting cannot be removed; give it a value (null, if that means none)"


def several_message(key: str, values: str) -> str:
    """Several values where one is expected."""
    return (
        f"{key}={values}: several values are for `bert-lamb sweep` (make sweep), which runs the chain for each; "
        f"write a list as {key}=[{values}]"
    )


def _about_the_form(override: str, text: str) -> str:
    """An argument that is no key=value."""
    if "missing EQUAL" in text:
        return f"{override}: no value; write a setting as {override}=value, without blanks around the ="
    why = text.splitlines()[0]
    why = f" ({why})" if not why.startswith(("LexerNoViableAlt", "Error parsing override")) else ""
    return (
        f"{override} cannot be read as key=value{why}; put values with blanks or "
        """special characters in quotes: 'data.paths=["/my texts"]'"""
    )


def _full_key(text: str) -> str | None:
    found = re.search(r"full_key: (\S+)", text)
    return found.group(1) if found else None


def missing_file_message(wanted: str, text: str) -> str:
    """Names the group, what was asked for and what there is; the nearest choice comes last."""
    listed = re.search(r"Available options in '([^']*)':\n((?:\t\S+\n?)+)", text)
    if not listed:
        return f"{wanted}: no such file in conf/; --help lists the groups and their choices"
    group, name = listed.group(1), wanted.removeprefix(listed.group(1) + "/")
    choices = [choice for choice in listed.group(2).split() if not choice.startswith("_")]  # _base: a part of others
    near = [choice for choice in choices if name and name in choice]
    near += difflib.get_close_matches(name, choices, n=1)
    asked, hint = f"{KEY_OF_GROUP.get(group, group)}={name}", f"; did you mean {near[0]}?" if near else ""
    return f"{asked}: there is no such file in conf/{group}. Choose from {', '.join(choices)}{hint}"


def unknown_key_message(key: str) -> str:
    """Names the key and the valid ones nearest to it."""
    keys = _all_keys()
    if key in keys:
        return f"{key}: a value of another form is expected; `--cfg job` shows it"
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
