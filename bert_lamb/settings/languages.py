"""Codes of languages: which ones exist, and which have rules of their own in the sentence splitter."""

import re

# code: name, three-letter codes; those that sentencex 1.0 has rules for. Others take a related language's, or English's
WITH_RULES = {
    "am": ("Amharic", "amh"),
    "ar": ("Arabic", "ara"),
    "bg": ("Bulgarian", "bul"),
    "bn": ("Bengali", "ben"),
    "ca": ("Catalan", "cat"),
    "da": ("Danish", "dan"),
    "de": ("German", "deu", "ger"),
    "el": ("Greek", "ell", "gre"),
    "en": ("English", "eng"),
    "es": ("Spanish", "spa"),
    "fi": ("Finnish", "fin"),
    "fr": ("French", "fra", "fre"),
    "gu": ("Gujarati", "guj"),
    "hi": ("Hindi", "hin"),
    "hy": ("Armenian", "hye", "arm"),
    "it": ("Italian", "ita"),
    "ja": ("Japanese", "jpn"),
    "kk": ("Kazakh", "kaz"),
    "kn": ("Kannada", "kan"),
    "ml": ("Malayalam", "mal"),
    "mr": ("Marathi", "mar"),
    "my": ("Burmese", "mya", "bur"),
    "nl": ("Dutch", "nld", "dut"),
    "pa": ("Punjabi", "pan"),
    "pl": ("Polish", "pol"),
    "pt": ("Portuguese", "por"),
    "ru": ("Russian", "rus"),
    "sk": ("Slovak", "slk", "slo"),
    "ta": ("Tamil", "tam"),
    "te": ("Telugu", "tel"),
    "uk": ("Ukrainian", "ukr"),
}
CODES = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz
ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik
io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml
mn mo mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc
sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz
ve vi vo wa wo xh yi yo za zh zu
"""  # ISO 639-1, and bh, mo and sh, which wikis still have
TWO_LETTERS = frozenset(CODES.split())
# as wikis have them: ltg, zh-min-nan, simple; codes of three letters are too many for a list
CODE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple")


def has_rules(language: str) -> bool:
    """Whether the sentence splitter knows this language itself."""
    return language.split("-")[0] in WITH_RULES or language == "simple"


def language_problem(language: str) -> str | None:
    """Why this is no code of a language, with the code that may be meant; None where it is one."""
    given = language.strip().lower()
    meant = next((code for code, names in WITH_RULES.items() if given in {n.lower() for n in names}), None)
    base = given.split("-")[0].split("_")[0]
    known = CODE.fullmatch(language) and (len(base) != 2 or base in TWO_LETTERS)
    if known and not meant:
        return None
    meant = meant or (base if base in TWO_LETTERS else None)
    hint = f"{meant} may be meant" if meant else "give the code of the language, as ISO 639-1 and Wikipedia have it"
    return (
        f"data.language={language}: no code that is known here; {hint}. The sentence splitter has rules for "
        f"{', '.join(WITH_RULES)}; other languages take those of a related one, or of English"
    )
