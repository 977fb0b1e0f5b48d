"""Characters that are shown as they are, whatever markup they would be.

They wait in a private area of Unicode until the text around them is plain, so that no other pass sees markup in them.
"""

import re

FIRST = 0x100000  # character c waits as chr(FIRST + ord(c)), if it is one of the 65,534 first ones
WAITING = re.compile(f"[{chr(FIRST)}-{chr(0x10FFFF)}]")
HIGHEST = 0xFFFD
MARKUP = re.compile(r"[\[\](){}|'<>&*#:;=_!-]")
ENTITY_OR_MARKUP = re.compile(rf"&#?\w+;|{MARKUP.pattern}")


def kept(text: str) -> str:
    """The text with all its characters waiting, letters and digits too."""
    return "".join(chr(FIRST + ord(c)) if ord(c) <= HIGHEST and not c.isspace() else c for c in text)


def kept_markup(text: str) -> str:
    """The text with its markup waiting, but for entities, which MediaWiki decodes anywhere."""
    return ENTITY_OR_MARKUP.sub(lambda found: found[0] if len(found[0]) > 1 else kept(found[0]), text)


def restored(text: str) -> str:
    """The text with every character in its own place again."""
    return text if text.isascii() else WAITING.sub(lambda c: chr(ord(c[0]) - FIRST), text)
