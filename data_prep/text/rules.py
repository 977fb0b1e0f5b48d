"""What the settings leave out of good documents, and why. Every rule is a function of the cleaned text alone."""

from collections.abc import Callable

from bert_lamb.errors import UserError
from bert_lamb.settings import DataSettings
from data_prep.text.squad_overlap import Overlap

JUDGED = 2000  # first characters that the language is judged by; with 500 three of 4,244 English articles were missed

HOLDS_SQUAD = "holds a paragraph of data.squad"


class RuleError(UserError):
    """A rule that cannot be applied; the message names the setting and the way out."""


class Rules:
    """The rules of these settings; RuleError where one names what does not exist."""

    def __init__(self, data: DataSettings) -> None:
        self._least = data.min_characters
        self._languages = frozenset(data.languages)
        self._language_of = language_judge(data.languages) if data.languages else None
        self._overlap = Overlap(data.squad) if data.squad else None
        self._leave_out_squad = data.leave_out_squad

    def judge(self, cleaned: str) -> tuple[str | None, list[int]]:
        """Why a cleaned text is left out, or None where it stays; and the SQuAD paragraphs that it holds.

        They are looked for only where no other rule is against the text.
        """
        if reason := self._against(cleaned):
            return reason, []
        held = self._overlap.paragraphs(cleaned) if self._overlap else []
        return HOLDS_SQUAD if held and self._leave_out_squad else None, held

    def _against(self, cleaned: str) -> str | None:
        if len(cleaned) < self._least:
            return f"shorter than {self._least} characters"
        if self._language_of:
            language = self._language_of(cleaned[:JUDGED])[0]
            if language not in self._languages:
                return f"language {language}"
        return None


def language_judge(languages: list[str]) -> Callable[[str], tuple[str, float]]:
    """py3langid's, which knows 139 languages by their ISO 639 codes."""
    try:
        import py3langid  # only here: its model takes 100 MB and some seconds
    except ModuleNotFoundError as error:
        raise RuleError(
            f"data.languages={languages} needs the package py3langid, which is not installed: run `make install` "
            "again, or pip install 'bert-lamb[train]'; data.languages=[] takes every language"
        ) from error
    known = sorted(language for language, _ in py3langid.rank(""))
    unknown = sorted({*languages} - {*known})
    if unknown:
        raise RuleError(f"data.languages: {', '.join(unknown)} is not known; choose from {', '.join(known)}")
    return py3langid.classify
