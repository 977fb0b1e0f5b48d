"""Formulas that a sentence can hold as text: a letter, a number, n = 3. Any other one is a gap."""

import re
from collections.abc import Mapping
from html import unescape

COMMAND = re.compile(r"\\(?:[A-Za-z]+(?:\{[A-Za-z]\})?|.)", re.DOTALL)  # \alpha, \mathbb{R}, a backslash and a sign
PLAIN = re.compile(r"[^\W_]|[-+=<>≤≥≠≈±×÷⋅∈∞→←↔⇒∼,.;:!?()\[\]|/*'′−–… ]")
CHEMICAL = re.compile(r"[A-Za-z0-9()\[\]. +]+")  # H2O, Ca(OH)2
ODD = re.compile(r"[^\W\d_]{4}|\[\[|\]\]|''")  # words, and what looks like markup
TAG = re.compile(r"</?[A-Za-z]+[^<>]*>")  # of {{math|x<sup>2</sup>}}
LONGEST = 60  # characters


def plain_formula(source: str, symbols: Mapping[str, str], chemical: bool = False) -> str | None:
    """The text of a formula without powers, indices, fractions and unknown commands; None for any other one.

    `symbols`: what is shown of commands of TeX (section [formulas] of the table of templates). `chemical`: in the
    notation of <chem>, where no command is known.
    """
    if len(source) > LONGEST or TAG.search(source):
        return None
    text = unescape(source)
    if chemical:
        text = text.strip()
        return text if CHEMICAL.fullmatch(text) else None
    text = " ".join(COMMAND.sub(lambda c: symbols.get(c[0], c[0]), text).split())
    return text if not PLAIN.sub("", text) and any(c.isalnum() for c in text) and not ODD.search(text) else None
