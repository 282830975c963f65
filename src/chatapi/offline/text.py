"""Text as the offline assistant reads and writes it; every function takes time linear in its input."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

# Curly and angled quotes.
_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d\u201e«»\u00a0\r", '\'\'""""" \n')
_BREAKS = " ,;:.!?&-"
# Private-use characters. They replace separators inside quoted titles while phrasings are matched, so that no rule
# splits or trims inside a quotation.
_GLUE = {ord(mark): chr(0xE000 + place) for place, mark in enumerate(_BREAKS)}
_UNGLUE = {ord(glue): chr(mark) for mark, glue in _GLUE.items()}
_DROP_GLUE = dict.fromkeys(_UNGLUE)

_QUOTED = re.compile(r"""(?<!\w)"([^"\n]+)"(?!\w)|(?<!\w)'([^'\n]{2,})'(?!\w)""")
_SPACES = re.compile(r"[^\S\n]+")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_PIECE = re.compile(r"\S+\s*|\s+")

# Words that say nothing about which task is meant.
_FILLER_TEXT = """
    the a an my our your some to task tasks item todo one thing please that this
"""
_FILLER = frozenset(_FILLER_TEXT.split())
QUOTE_LENGTH = 300  # longer quotations are cut: a message may have 10,000 characters


def clean(message: str) -> str:
    """Straight quotes, single spaces, no blank lines, and quotations glued together (see `unglue`)."""
    text = unicodedata.normalize("NFC", message).translate(_DROP_GLUE).translate(_STRAIGHT)
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    text = "\n".join(line for line in lines if line)
    return _QUOTED.sub(lambda match: f'"{(match[1] or match[2]).strip().translate(_GLUE)}"', text)


def unglue(text: str) -> str:
    return text.translate(_UNGLUE)


def is_quoted(text: str) -> bool:
    return len(text) > 2 and text[0] == text[-1] == '"' and '"' not in text[1:-1]


def tidy(text: str) -> str:
    """A title or description without its quotation marks, or, if it has none, without trailing punctuation."""
    text = text.strip()
    if is_quoted(text):
        return unglue(text[1:-1])
    return unglue(text.strip(" ,;:-").rstrip(" .!?,;:"))


def words(text: str) -> list[str]:
    """The meaningful words, folded so that case, plural and possessive do not matter."""
    found = _WORD.findall(unglue(text).casefold())
    return [_singular(word) for word in found if word not in _FILLER] or found


def _singular(word: str) -> str:
    word = word.removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "ches", "shes", "oes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def one_line(text: str) -> str:
    return " ".join(text.split())


def quote(text: str) -> str:
    text = one_line(text)
    return f'"{text}"' if len(text) <= QUOTE_LENGTH else f'"{text[:QUOTE_LENGTH]}…"'


def in_words(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *rest, last = items
    return f"{', '.join(rest)} and {last}" if rest else last


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def numbered(lines: Sequence[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def pieces(text: str) -> Iterator[str]:
    """The text word by word, as a model would stream it; the pieces join to the text."""
    return (match[0] for match in _PIECE.finditer(text))
