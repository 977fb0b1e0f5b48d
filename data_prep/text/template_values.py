"""What a pattern cannot say of a template: numbers with units, dates, ships. None stands for nothing to show.

`values` are the parameters by name; those without a name are called "1", "2" and so on.
"""

import re

from data_prep.text.as_written import kept
from data_prep.text.formulas import plain_formula
from data_prep.text.template_table import TemplateTable

Values = dict[str, str]

ITALIC = re.compile("'{2,}")
NUMBER = re.compile(r"[-+−–]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)
QUANTITY = re.compile(r"[-+−–]?(?:\d[\d,.]*(?:e[-+]?\d+)?|\.\d+)?(?:[-+]?\d+/{1,2}\d+)?", re.IGNORECASE)
PLAIN = re.compile(r"([-−–]?)(\d+)(\.\d+)?")
SECOND_UNITS = ("in", "oz", "lb", "ft", "yd", "ch", "chain", "lk", "furlong")  # of 5 ft 6 in
POWERS = {"e3": "thousand ", "e6": "million ", "e9": "billion ", "e12": "trillion "}
POWER = re.compile(r"(e3|e6|e9|e12)(?=\D)")
ISO_DATE = re.compile(r"(-?\d{1,4})-(\d{1,2})-(\d{1,2})")
DAY_FIRST = ("y", "yes", "dmy", "true", "1")


def computed(rule: str, values: Values, table: TemplateTable) -> str | None:
    """The text of a template of section [computed]."""
    if rule == "quantity":
        return quantity(values, table)
    if rule == "value":
        return value(values)
    if rule == "number":
        return number(values, table)
    if rule == "ordinal":
        return ordinal(values)
    if rule == "as of":
        return as_of(values, table)
    if rule == "date":
        return date(values, table, values.get("df", "").lower() in DAY_FIRST)
    if rule == "formula":
        plain = plain_formula(ITALIC.sub("", values.get("1", "")), table.formulas)
        return None if plain is None else kept(plain)
    return ship(values, rule.removeprefix("ship").strip())


def unnamed(values: Values) -> list[str]:
    """The parameters without a name, in order, up to the first that is missing."""
    found: list[str] = []
    while (text := values.get(str(len(found) + 1))) is not None:
        found.append(text.strip())
    return found


def grouped(text: str, mark: str) -> str:
    """12345.6 as 12,345.6, with a true minus; text that is no plain number stays as it is."""
    match = PLAIN.fullmatch(text)
    if not match:
        return text
    whole = f"{match[2]:0>1}"
    digits = [whole[max(0, end - 3) : end] for end in range(len(whole), 0, -3)]
    return ("−" if match[1] else "") + mark.join(reversed(digits)) + (match[3] or "")


def number(values: Values, table: TemplateTable) -> str | None:
    """{{formatnum:12345}} as 12,345; with R or NOSEP the digits stay as they are."""
    text = values.get("1", "").strip()
    if values.get("2", "").strip().upper() in ("R", "NOSEP"):
        return text or None
    return grouped(text, table.thousands) or None


def quantity(values: Values, table: TemplateTable) -> str | None:
    """{{convert|10|to|20|km|mi}} as "10 to 20 km": the number as it was given, with the symbol of its unit.

    Neither is the second unit worked out nor a unit spelled as a word: "324 m", where Wikipedia may show "324 metres
    (1,063 ft)". None where only the second one would be shown.
    """
    if values.get("disp", "").strip().lower() in ("out", "output only", "output number only", "number"):
        return None
    given = unnamed(values)
    mark = "" if values.get("comma", "").strip() in ("off", "gaps") else table.thousands
    if not given or not given[0]:
        return None
    parts, place = [amount(given[0], mark)], 1
    while place + 1 < len(given) and given[place] in table.ranges and given[place + 1]:
        parts += [table.ranges[given[place]], amount(given[place + 1], mark)]
        place += 2
    if place < len(given) and given[place]:
        parts.append(unit(given[place], table))
        place += 1
        while place + 1 < len(given) and QUANTITY.fullmatch(given[place]) and given[place + 1] in SECOND_UNITS:
            parts += [" ", amount(given[place], mark), unit(given[place + 1], table)]
            place += 2
    return "".join(parts)


def amount(text: str, mark: str) -> str:
    """A number of {{convert}}: 1500 as 1,500, 1+1/2 and 1//2 with single signs."""
    whole, plus, share = text.partition("+")
    if plus and "/" in share:
        return f"{grouped(whole, mark)} {share.replace('//', '/')}".strip()
    return grouped(text.replace("//", "/"), mark)


def unit(name: str, table: TemplateTable) -> str:
    """A unit with what stands before it: a blank, but none before a sign of degrees."""
    power = POWER.match(name)
    before = " " + POWERS[power[1]] if power else " "
    name = name[power.end() :] if power else name
    shown = table.units.get(name, name)
    return shown if shown == "°" else before + shown


def value(values: Values) -> str | None:
    """{{val|1.5|0.2|e=6|u=km}} as "1.5±0.2×10^6 km"."""
    given = unnamed(values)
    if not given or not given[0]:
        return None
    text = values.get("p", "").strip() + "±".join(g for g in given[:2] if g)
    if power := values.get("e", "").strip():
        text += f"×10^{power}"
    text += values.get("s", "").strip()
    units = next((values[key].strip() for key in ("u", "ul", "upl") if values.get(key, "").strip()), "")
    return f"{text} {units}" if units else text


def ordinal(values: Values) -> str | None:
    """{{ordinal|3}} as 3rd, {{ord|3|rd}} as it says."""
    text, end = values.get("1", "").strip(), values.get("2", "").strip()
    if end.isalpha() or not text.isdecimal():
        return text + end or None
    teen = text[-2:-1] == "1"
    return text + ("th" if teen else {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th"))


def as_of(values: Values, table: TemplateTable) -> str | None:
    """{{As of|2020|5}} as "As of May 2020"; lc=y, since=y, bare=y, alt=, pre= and post= as there."""
    if alternative := values.get("alt", "").strip():
        return alternative
    day = date(values, table, values.get("df", "").strip().lower() not in ("us", "mdy"))
    if day is None:
        return None
    words = "since" if values.get("since", "").strip() else "as of"
    if not values.get("lc", "").strip():
        words = words.capitalize()
    if pre := values.get("pre", "").strip():
        words += f" {pre}"
    return (day if values.get("bare", "").strip() else f"{words} {day}") + values.get("post", "").strip()


def date(values: Values, table: TemplateTable, day_first: bool) -> str | None:
    """Year, month and day of the first three parameters: "May 4, 2020", "4 May 2020", "May 2020" or "2020".

    Ages are left out. A date in words stays as it is.
    """
    given = unnamed(values)
    if given and (iso := ISO_DATE.fullmatch(given[0])):
        day_first = day_first or (len(given) > 1 and given[1].lower() in ("", "dmy"))
        given = list(iso.groups())
    given = given[:3]
    if not given or not given[0]:
        return None
    year, month, day = [*given, "", ""][:3]
    if not (month.isdecimal() and len(month) <= 2 and 1 <= int(month) <= 12):
        return f"{month} {year}" if month.isalpha() and len(month) > 2 and year.isdecimal() else year
    if not table.months:
        return "-".join([year, f"{month:0>2}", *([f"{day:0>2}"] if day.isdecimal() else [])])
    name = table.months[int(month) - 1]
    if not day.isdecimal():
        return f"{name} {year}"
    day = day.lstrip("0") or day
    return f"{day} {name} {year}" if day_first else f"{name} {day}, {year}"


def ship(values: Values, prefix: str) -> str | None:
    """{{HMS|Victory|1765}} as "HMS Victory (1765)", {{ship|HMS|Victory}} as "HMS Victory".

    The number behind the identification (or `up=`) says what is shown: 2 without it, 3 and 6 the name alone.
    """
    given = unnamed(values)
    if not prefix and given:
        prefix, given = given[0], given[1:]
    name, number, how = [*given, "", "", ""][:3]
    if not name:
        return None
    if how in ("3", "6"):
        return name
    full = f"{prefix} {name}".strip()
    return full if how == "2" or not number else f"{full} ({number})"
