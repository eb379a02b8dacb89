"""Detect the language of texts by their script, or by the stop words that come with Lucene."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, get_args
from zipfile import ZipFile

from tasks.core.base.languages import ENGLISH, Language
from tasks.core.retrieval.jvm import anserini_jar

FEW_STOP_WORDS = 0.1  # share of stop words below which a text in Latin letters is of no known language; usual: 0.3
SCRIPT_SHARE = 0.3  # share of letters from which a script decides; names and code may use another script
CHARACTERS = 1_000  # read of each text
_HAN, _KANA = "\u3400-\u9fff\uf900-\ufaff", "\u3040-\u30ff"
# Scripts that one of Lucene's languages uses. Nepali and Marathi count as Hindi.
_SCRIPTS = {
    "ja": _KANA,
    "ko": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3",
    "zh": _HAN,
    "hi": "\u0900-\u097f",
    "bn": "\u0980-\u09ff",
    "te": "\u0c00-\u0c7f",
    "th": "\u0e00-\u0e7f",
}
_SNOWBALL = {
    "da": "danish", "de": "german", "en": "english", "es": "spanish", "fi": "finnish", "fr": "french",
    "hu": "hungarian", "id": "indonesian", "it": "italian", "nl": "dutch", "no": "norwegian", "pt": "portuguese",
    "ru": "russian", "sv": "swedish",
}  # fmt: skip
# Stop words in folders of Lucene. A language without an analyzer in Anserini is listed, too: its texts are then not
# taken for a related language.
_FOLDERS = {
    "ar": "ar", "bg": "bg", "ca": "ca", "ckb": "ckb", "cs": "cz", "el": "el", "et": "et", "eu": "eu", "fa": "fa",
    "ga": "ga", "gl": "gl", "hy": "hy", "lt": "lt", "lv": "lv", "ro": "ro", "sr": "sr", "tr": "tr", "uk": "uk",
}  # fmt: skip
# Lucene has no stop words of Polish.
_POLISH = (
    "a ale albo aby bardzo bez być był była było były ci co czy dla do gdy go i ich jak jako je jego jej jest jeśli "
    "już który która które którzy ma mnie może na nad nie niż o od oni oraz po pod przez przy są się sobie swej swych "
    "swój ta tak także tam te tego tej ten to tu tylko tych w we więc z za ze że żeby"
)


class Detected(NamedTuple):
    """A language, and how it was recognized."""

    language: str  # ISO 639 code; not always one of `Language`
    reason: str

    @property
    def analyzed(self) -> str:
        """The language for `[mining] language`: English where Anserini has no analyzer."""
        return self.language if self.language in get_args(Language) else ENGLISH


def detect_language(texts: Sequence[str]) -> Detected:
    """Detect the main language of texts.

    A script that only one language of Lucene uses decides. Otherwise, it is the language whose stop words are the
    largest share of the words; English if there are too few of them, as in lists of names.
    """
    beginnings = [text[:CHARACTERS] for text in texts]
    return _by_script(beginnings) or _by_stop_words(beginnings)


def _by_script(texts: Sequence[str]) -> Detected | None:
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    letters = Counter({char: count for char, count in characters.items() if unicodedata.category(char)[0] in "LM"})
    shares = {
        language: sum(count for char, count in letters.items() if re.match(f"[{script}]", char))
        / max(1, letters.total())
        for language, script in _SCRIPTS.items()
    }
    if shares["ja"] + shares["zh"] >= SCRIPT_SHARE:
        language = "ja" if shares["ja"] > shares["zh"] / 10 else "zh"
        return Detected(language, f"{shares['ja'] + shares['zh']:.0%} of the letters are of its script")
    language = max(shares, key=lambda name: shares[name])
    if shares[language] < SCRIPT_SHARE:
        return None
    return Detected(language, f"{shares[language]:.0%} of the letters are of its script")


def _by_stop_words(texts: Sequence[str]) -> Detected:
    words: Counter[str] = Counter()
    for text in texts:
        words.update(re.findall(r"[^\W\d_]+", text.lower()))
    total = max(1, sum(words.values()))
    shares = {
        language: sum(count for word, count in words.items() if word in stop_words) / total
        for language, stop_words in _stop_words().items()
    }
    language = max(shares, key=lambda name: (shares[name], name == ENGLISH))
    latin = sum(count for word, count in words.items() if word < "\u0250")
    if shares[language] < (FEW_STOP_WORDS if 2 * latin > total else 1 / total):
        return Detected(ENGLISH, "not recognized: the texts have too few stop words")
    return Detected(language, f"{shares[language]:.0%} of the words are its stop words")


@cache
def _stop_words() -> dict[str, frozenset[str]]:
    """Read the stop words of each language from Lucene's files in the Anserini jar."""
    files = {code: f"snowball/{name}_stop.txt" for code, name in _SNOWBALL.items()}
    files |= {code: f"{folder}/stopwords.txt" for code, folder in _FOLDERS.items()}
    stop_words = {"pl": frozenset(_POLISH.split())}
    with ZipFile(anserini_jar()) as jar:
        for code, file in files.items():
            lines = jar.read(f"org/apache/lucene/analysis/{file}").decode("utf-8").lower().splitlines()
            stop_words[code] = frozenset(word for line in lines for word in re.split(r"[|#]", line)[0].split())
    return stop_words
