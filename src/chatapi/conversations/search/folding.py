"""Text as it is searched: words that are equal up to case and accents are equal, with one space around each.

A message matches if each needle of the query is a substring of its folded text. That is the whole definition, and the
databases only look for substrings. A folded text is stored: a change of this module's results asks for a new backfill.
"""

import re
import unicodedata

# A row of the index, in bytes: it fits a quarter of SQLite's page, and a third of what PostgreSQL takes into an index.
PART_BYTES = 900
OVERLAP_BYTES = 128
NEEDLE_BYTES = 120  # less than the overlap, so that a needle lies whole in a part
MAX_QUERY = 1_000  # characters
MAX_NEEDLES = 16

TITLE = -1  # the part of a conversation's title; 0 is a whole text, and 1, 2, … are the pieces of a long one
WHOLE = 0
NO_MESSAGE = 0  # in the place of a message: on this hangs the title of a conversation that has none

# Characters that leave no trace: soft hyphen, tatweel, joiners, marks of direction, variation selectors.
DROPPED = {0x034F, 0x00AD, 0x0640, 0x061C, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF} | {
    code
    for first, last in ((0xFE00, 0xFE0F), (0x202A, 0x202E), (0x2066, 0x2069), (0xE0100, 0xE01EF))
    for code in range(first, last + 1)
}
# Letters with a stroke or a missing dot, which Unicode does not take apart as it does letters with accents.
UNACCENTED = {
    "\N{LATIN SMALL LETTER DOTLESS I}": "i",
    "ø": "o",
    "đ": "d",
    "ł": "l",
    "ħ": "h",
    "ŧ": "t",
    "ð": "d",
    "æ": "ae",
    "œ": "oe",
    "þ": "th",
}
# Combining classes of marks that make another word: vowel signs, viramas, kana's voicing, tones of Thai and Lao. Marks of
# other classes are accents, and are dropped.
KEPT = {0, 8, 9, 84, 91, 103, 107, 118, 122, 129, 130, 132}
# Scripts without spaces between words, and Hangul, whose particles stick to words: any part of a run is found.
DENSE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
PIECE = re.compile(f"[{DENSE}]+|[^ {DENSE}]+")
IS_DENSE = re.compile(f"[{DENSE}]")
QUOTATION_MARK = re.compile('["“”„‟＂]')  # noqa: RUF001 - the marks of other languages


class NotSearchable(ValueError):
    """The query asks for nothing, or for too much; the text says which."""


class _Folded(dict[int, str]):
    """For `str.translate`: the folded form of each character, made when the character is first met."""

    def __missing__(self, code: int) -> str:
        decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold())
        self[code] = "" if code in DROPPED else "".join(map(_folded, decomposed))
        return self[code]


def _folded(character: str) -> str:
    """A decomposed character's folded form; a space for one that separates words."""
    kind = unicodedata.category(character)[0]
    if kind == "M":
        return character if unicodedata.combining(character) in KEPT else ""
    if kind in "LN" and ord(character) not in DROPPED:
        return str(unicodedata.decimal(character, UNACCENTED.get(character, character)))
    return " "


FOLDED = _Folded()


def fold_characters(text: str) -> str:
    return unicodedata.normalize("NFC", text.translate(FOLDED))


def fold(text: str) -> str:
    """The folded text, such as `" quick brown 東京タワー "`."""
    return f" {' '.join(PIECE.findall(fold_characters(text)))} "


def folded_parts(text: str) -> list[tuple[int, str]]:
    """The rows of a text: it whole, or overlapping pieces, each with its number."""
    data = fold(text).encode()
    if len(data) <= PART_BYTES:
        return [(WHOLE, data.decode())]
    parts: list[tuple[int, str]] = []
    start = 0
    while True:
        end = _whole_character(data, start + PART_BYTES)
        parts.append((len(parts) + 1, data[start:end].decode()))
        if end >= len(data):
            return parts
        start = _whole_character(data, end - OVERLAP_BYTES)


def _whole_character(data: bytes, place: int) -> int:
    """The place, or the beginning of the character that it is inside of."""
    while place < len(data) and data[place] & 0xC0 == 0x80:
        place -= 1
    return place


def needles_of(query: str) -> list[str]:
    """The substrings that a text must have, the longest first; raises `NotSearchable`.

    A needle is a word with its spaces, the last word without the one after it, a phrase in quotation marks, or a run of a
    script without spaces. A word with signs in it, such as 2024-117, is a phrase. A quotation mark without another is none.
    """
    if len(query) > MAX_QUERY:
        raise NotSearchable(f"has more than {MAX_QUERY:,} characters")
    chunks = [(pieces, quoted) for text, quoted in _chunks(query) if (pieces := fold(text).split())]
    found = [
        _needle(pieces, is_whole=quoted or number < len(chunks))
        for number, (pieces, quoted) in enumerate(chunks, start=1)
    ]
    found = list(dict.fromkeys(found))
    needles = [needle for needle in found if not any(needle != other and needle in other for other in found)]
    if not needles:
        raise NotSearchable("has no letter and no digit")
    if len(needles) > MAX_NEEDLES:
        raise NotSearchable(f"has more than {MAX_NEEDLES} words and phrases")
    return sorted(needles, key=len, reverse=True)


def _chunks(query: str) -> list[tuple[str, bool]]:
    """The words of the query, and its phrases whole; each with whether it was in quotation marks."""
    segments = QUOTATION_MARK.split(query)
    chunks: list[tuple[str, bool]] = []
    for number, segment in enumerate(segments):
        if number % 2 == 1 and number + 1 < len(segments):
            chunks.append((segment, True))
        else:
            chunks += [(word, False) for word in segment.split()]
    return chunks


def _needle(pieces: list[str], *, is_whole: bool) -> str:
    before = "" if IS_DENSE.match(pieces[0]) else " "
    after = " " if is_whole and not IS_DENSE.match(pieces[-1][-1]) else ""
    needle = before + " ".join(pieces) + after
    return needle.encode()[:NEEDLE_BYTES].decode(errors="ignore")
