"""Templates of a page to what a reader sees of them: known ones by the table, any other a gap with its name.

Each template is read once, and those nested deeper than DEEPEST are gaps, so time grows with the page alone.
"""

import re

from data_prep.text.template_table import Shown, TemplateTable, normal
from data_prep.text.template_values import Values, computed, number

GAP = "\x01"  # where something stood that no reader of the sentence needs; no XML holds it
FIRST_HOLE, LAST_HOLE = 0xF0000, 0xFFFFD  # private characters: where a text is missing, one for each name on a page
HOLE = re.compile(f"[{chr(FIRST_HOLE)}-{chr(LAST_HOLE)}]")
DEEPEST = 20  # templates in templates; deeper ones are gaps
LONGEST_NAME = 60  # characters that are kept of a name, for counts

HEAD = re.compile(r"[^|{}]*")
MARK = re.compile(r"\[\[|\]\]|\||=")
FUNCTION = re.compile(
    r"\s*(#\w+|formatnum|lc|uc|lcfirst|ucfirst|plural|grammar|gender|int|padleft|padright|ns)\s*:", re.I
)
PARAMETER = re.compile(r"\{([^{}]*)\}")
TITLES = ("pagename", "fullpagename", "basepagename", "subpagename")  # of articles they are all the title
SILENT = ("#tag", "#invoke:citation", "#invoke:cite", "#lst", "#section", "#seo", "#related", "#babel")
Template = tuple[int, int, int]  # where it begins, where it ends, braces on each side


class Holes:
    """What left a gap on one page, by name; the gap's character tells which."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def hole(self, name: str) -> str:
        """The character of a gap of this name."""
        name = "".join(c for c in name if c.isprintable())[:LONGEST_NAME] or "(a name made by another template)"
        index = self._numbers.setdefault(name, len(self._numbers))
        if index > LAST_HOLE - FIRST_HOLE:
            return GAP
        if index == len(self.names):
            self.names.append(name)
        return chr(FIRST_HOLE + index)


class Expander:
    """The templates of one page."""

    def __init__(self, text: str, templates: list[Template], table: TemplateTable, title: str, holes: Holes) -> None:
        self._text, self._table, self._title, self._hole = text, table, title, holes.hole
        self._templates = sorted(templates, key=lambda t: (t[0], -t[1]))

    def text(self) -> str:
        """The page with its templates replaced."""
        parts, end, i = [], 0, 0
        while i < len(self._templates):
            start, stop, _ = self._templates[i]
            if start < end:  # in what was left open and dropped
                i += 1
                continue
            shown, i = self._shown(i, 0)
            parts += [self._text[end:start], shown]
            end = stop
        return "".join(parts) + self._text[end:]

    def _shown(self, i: int, depth: int) -> tuple[str, int]:
        """What stands for template i, and the number of the first one behind it."""
        start, stop, braces = self._templates[i]
        behind = i + 1
        while behind < len(self._templates) and self._templates[behind][0] < stop:
            behind += 1
        if braces not in (2, 3) or depth >= DEEPEST:
            return GAP, behind
        match = HEAD.match(self._text, start + braces, stop - braces)
        assert match
        head = match[0]
        if braces == 3:  # a parameter of no template has its default
            values = self._values(i, behind, depth)
            return (values.get("1", "") or GAP), behind
        if function := FUNCTION.match(head):
            return self._function(function[1].lower(), head[function.end() :], i, behind, depth), behind
        name = normal(head)
        if name in TITLES and self._title:
            return self._title, behind
        entry = self._table.find(name)
        if entry is None:
            # over several lines it is a box beside the text, not a part of a sentence
            return (GAP if "\n|" in self._text[start:stop] else self._hole(name)), behind
        if not entry.patterns and not entry.computed:
            return GAP, behind
        shown = self._filled(entry, self._values(i, behind, depth))
        return (self._hole(name) if shown is None else shown), behind

    def _filled(self, entry: Shown, values: Values) -> str | None:
        """The text of an entry; None where what it needs is not given."""
        if entry.computed:
            return computed(entry.computed, {key: text.strip() for key, text in values.items()}, self._table)
        given = [values[str(n)] for n in range(1, len(values) + 1) if values.get(str(n), "").strip()]
        for pattern in entry.patterns:
            keys = PARAMETER.findall(pattern)
            if all(given if key.startswith("*") else values.get(key, "").strip() for key in keys):
                text = PARAMETER.sub(lambda m: m[1][1:].join(given) if m[1].startswith("*") else values[m[1]], pattern)
                return f"\n\n{text.strip()}\n\n" if entry.paragraph else text
        return None

    def _function(self, name: str, rest: str, i: int, behind: int, depth: int) -> str:
        """Parser functions: those of letters and numbers, and conditions whose outcome the page tells."""
        if name.startswith(SILENT):
            return GAP
        values = self._values(i, behind, depth, named=name == "#switch")
        first = values.get("0", "").partition(":")[2].strip()
        if name == "formatnum":
            return number({"1": first, "2": values.get("1", "")}, self._table) or GAP
        if name in ("lc", "uc", "lcfirst", "ucfirst"):
            head, tail = (first, "") if len(name) == 2 else (first[:1], first[1:])
            return (head.lower() if name.startswith("lc") else head.upper()) + tail
        if name == "#if":
            return values.get("1" if first.strip(GAP) else "2", "").strip()
        if name == "#ifeq":
            return values.get("2" if first == values.get("1", "").strip() else "3", "").strip()
        if name == "#switch":
            return values.get(first, values.get("#default", values.get("1", ""))).strip()
        if name in ("#dateformat", "#formatdate"):
            return first
        module = f":{rest.strip()}" if name == "#invoke" else ""
        return self._hole(name + module.lower())

    def _values(self, i: int, behind: int, depth: int, named: bool = True) -> Values:
        """The parameters by name; "0" is what stands before the first bar. Templates in them are replaced."""
        start, stop, braces = self._templates[i]
        parameters = Parameters(named)
        position, child = start + braces, i + 1
        while child < behind:
            begin, end, _ = self._templates[child]
            parameters.read(self._text, position, begin)
            shown, child = self._shown(child, depth + 1)
            parameters.parts.append(shown)
            position = end
        parameters.read(self._text, position, stop - braces)
        parameters.end()
        return parameters.values


class Parameters:
    """The parameters of one template, read piece by piece: what another template shows never parts them."""

    def __init__(self, named: bool) -> None:
        self.values: Values = {}
        self.parts: list[str] = []  # of the one that is being read
        self._named = named  # does "=" part a name from its text?
        self._name: str | None = None
        self._number = 0  # of the next one without a name
        self._links = 0  # that are open: their bars and signs are their own

    def read(self, text: str, begin: int, end: int) -> None:
        """Takes text[begin:end], in which no template stands."""
        for mark in MARK.finditer(text, begin, end):
            self.parts.append(text[begin : mark.start()])
            begin = mark.end()
            if mark[0] == "[[":
                self._links += 1
            elif mark[0] == "]]":
                self._links = max(0, self._links - 1)
            elif mark[0] == "|" and not self._links:
                self.end()
                continue
            elif mark[0] == "=" and not self._links and self._takes_name():
                continue
            self.parts.append(mark[0])
        self.parts.append(text[begin:end])

    def end(self) -> None:
        """A parameter ends here."""
        text = "".join(self.parts)
        self.parts.clear()
        if self._name is not None:
            self.values[self._name] = text.strip()
        else:
            self.values[str(self._number)] = text
            self._number += 1
        self._name = None

    def _takes_name(self) -> bool:
        """Was what stands before a "=" the name of the parameter? In a tag or an address it is not."""
        name = "".join(self.parts).strip()
        if not self._named or not self._number or self._name is not None or "<" in name or "[" in name:
            return False
        self._name = name
        self.parts.clear()
        return True
