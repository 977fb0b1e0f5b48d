"""The table of templates: what a reader sees of each, by its name (templates.toml, and a file of the user's)."""

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bert_lamb.errors import UserError

BUILT_IN = Path(__file__).with_name("templates.toml")
NAMESPACE = re.compile(r"^(?::|template *:|subst *:|safesubst *:)+ *", re.IGNORECASE)
PARAMETER = re.compile(r"\{([^{}]*)\}")
BLANKS = re.compile(r"[\s_]+")
REMEMBERED = 10_000  # names; a page may hold any number
COMPUTED = ("quantity", "value", "number", "ordinal", "as of", "date", "formula", "ship")  # by template_values.py
TEXTS = {"aliases": str, "computed": str, "units": str, "ranges": str, "thousands": str, "months": list}
TEXTS |= {"formulas": str, "conjunctions": list}
SECTIONS = ("text", "paragraph", "dropped", *TEXTS)


class TemplateError(UserError):
    """A table of templates that cannot be used; the message names the setting and the entry."""


@dataclass(frozen=True)
class Shown:
    """What becomes of a template: `patterns` filled in, or a value `computed` by rule; neither: it is dropped."""

    patterns: tuple[str, ...] = ()
    computed: str = ""
    paragraph: bool = False  # it stands as a paragraph of its own


DROPPED = Shown()


@dataclass
class TemplateTable:
    """All entries that hold for one wiki."""

    language: str = "en"  # ISO code
    shown: dict[str, Shown] = field(default_factory=dict)  # by normal name, aliases included
    wildcards: list[tuple[str, str, Shown]] = field(default_factory=list)  # beginning, end, entry; longest first
    units: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)
    months: list[str] = field(default_factory=list)  # of the language; [] where nobody has written them down
    thousands: str = ""
    formulas: dict[str, str] = field(default_factory=dict)  # a command of TeX: what is shown of it
    conjunctions: list[str] = field(default_factory=list)  # of the language: words as "and"
    _searched: dict[str, Shown | None] = field(default_factory=dict)  # what the wildcards gave, since there are many

    def find(self, name: str) -> Shown | None:
        """The entry of a normal name: its own, else the longest wildcard's; None where there is none."""
        if name not in self.shown and name not in self._searched:
            if len(self._searched) >= REMEMBERED:
                self._searched.clear()
            self._searched[name] = next((e for begin, end, e in self.wildcards if fits(name, begin, end)), None)
        return self.shown[name] if name in self.shown else self._searched[name]


def fits(name: str, begin: str, end: str) -> bool:
    """Is this a name that begins and ends so, with no character counted for both?"""
    return name.startswith(begin) and name.endswith(end) and len(name) >= len(begin) + len(end)


def normal(name: str) -> str:
    """A template's name without its namespace, in lower case, with single blanks."""
    return BLANKS.sub(" ", NAMESPACE.sub("", name.strip())).strip().lower()


@lru_cache(maxsize=8)
def template_table(path: str | None = None, language: str = "en") -> TemplateTable:
    """The built-in table, with the entries of the file of data.templates before it; TemplateError where it is wrong."""
    table = TemplateTable(language)
    wildcards: dict[str, Shown] = {}
    sections = read_sections(path)
    for entries in sections:
        add_entries(table.shown, wildcards, entries)
        table.units |= entries.get("units", {})
        table.ranges |= entries.get("ranges", {})
        table.months = entries.get("months", {}).get(language, table.months)
        table.thousands = entries.get("thousands", {}).get(language, table.thousands)
        table.formulas |= entries.get("formulas", {})
        table.conjunctions = entries.get("conjunctions", {}).get(language, table.conjunctions)
    for entries in sections:
        for name, target in entries.get("aliases", {}).items():
            if normal(target) not in table.shown:
                raise TemplateError(f"data.templates={path}: [aliases] {name!r} names {target!r}, which is no template")
            table.shown[normal(name)] = table.shown[normal(target)]
    parted = [(name.partition("*"), shown) for name, shown in wildcards.items()]
    found = [(before, after, shown) for (before, _, after), shown in parted]
    table.wildcards = sorted(found, key=lambda w: (-len(w[0] + w[1]), w[0], w[1]))
    return table


def table_sha256(path: str | None) -> str:
    """Of the entries, not of the bytes of the files: comments and order change no text."""
    return hashlib.sha256(json.dumps(read_sections(path), sort_keys=True).encode()).hexdigest()


def read_sections(path: str | None) -> list[dict[str, Any]]:
    """The checked sections of the built-in table and, after it, of the user's."""
    found = []
    for file in (BUILT_IN, *([Path(path)] if path else [])):
        try:
            sections = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TemplateError(f"data.templates={file} cannot be read as a table of templates: {error}") from error
        if problems := [*wrong_entries(sections)]:
            raise TemplateError("\n- ".join([f"data.templates={file}:", *problems]))
        found.append(sections)
    return found


def wrong_entries(sections: dict[str, Any]) -> list[str]:
    """What is wrong with a table, each in one line."""
    problems = [f"[{name}] is no section; there are {', '.join(SECTIONS)}" for name in sections if name not in SECTIONS]
    for section, entries in sections.items():
        if section in SECTIONS and not isinstance(entries, dict):
            problems.append(f"{section} is a section: [{section}]")
            continue
        for name, value in entries.items() if section in SECTIONS else ():
            values = value if isinstance(value, list) else [value]
            if section in TEXTS and not isinstance(value, TEXTS[section]):
                problems.append(f"[{section}] {name!r} is to be a {TEXTS[section].__name__}, not {value!r}")
            elif not all(isinstance(v, str) for v in values):
                problems.append(f"[{section}] {name!r} holds something that is no text: {value!r}")
            elif section == "months" and len(value) != 12:
                problems.append(f"[months] {name!r} has {len(value)} months, not 12")
            elif section == "computed" and value.split(" ")[0] not in COMPUTED and value not in COMPUTED:
                problems.append(f"[computed] {name!r}: no rule {value!r}; there are {', '.join(COMPUTED)}")
            elif section in ("text", "paragraph"):
                problems += [f"[{section}] {name!r}: {p!r} takes a parameter twice" for p in values if repeats(p)]
            if section in ("text", "paragraph", "computed", "aliases") and name.count("*") > 1:
                problems.append(f"[{section}] {name!r} has more than one *")
    return problems


def repeats(pattern: str) -> bool:
    """Would a parameter be shown twice? Templates in templates could then make a page grow without bound."""
    names = PARAMETER.findall(pattern)
    return len(set(names)) < len(names) or len([n for n in names if n.startswith("*")]) > 1


def add_entries(shown: dict[str, Shown], wildcards: dict[str, Shown], entries: dict[str, Any]) -> None:
    """Adds the entries of one file; those of the same name are replaced."""
    found = dict.fromkeys(entries.get("dropped", {}).get("templates", []), DROPPED)
    for section in ("text", "paragraph"):
        for name, patterns in entries.get(section, {}).items():
            found[name] = Shown(
                tuple([patterns] if isinstance(patterns, str) else patterns), "", section == "paragraph"
            )
    found |= {name: Shown(computed=rule) for name, rule in entries.get("computed", {}).items()}
    for name, entry in found.items():
        is_sign = name.strip("*") == ""  # {{*}} is a template of its own
        (shown if "*" not in name or is_sign else wildcards)[normal(name)] = entry
