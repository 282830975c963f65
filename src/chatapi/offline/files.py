"""Files that come with a message: what they are, and the lists that are in their texts."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from chatapi.agent.ports import File, Prompt
from chatapi.offline.changes import MOST_ADDED
from chatapi.offline.text import clean, counted, in_words, quote, tidy

MOST_CHARACTERS = 200_000  # of a file that is looked through for a list
MOST_ITEMS = MOST_ADDED + 1  # one more than is taken, which is enough to say that there are too many
TITLE_LENGTH = 200

_THESE = (
    r"(?:(?:all|everything|each|every one)(?: of)? )?(?:(?:these|those|them|it)(?: all)?|this|all|everything|what's|what is|"
    r"(?:the |its |this |my )?(?:items?|lines?|tasks?|things|list|contents?|file|entries))"
    r"(?: (?:items?|lines?|tasks?|things|ones|list|entries))?"
    r"(?: (?:from|in|of|on|inside) (?:it|this|that|these|the|my)(?: (?:file|list|document|note|csv|json|pdf|attachment)s?)?)?"
)
_LIST = r"(?:my|the|our)? ?(?:to-?do |task |new )?(?:tasks?|list|to-?dos?)"
_ADD_THESE = re.compile(
    rf"(?:(?:please|pls|can you|could you|would you|now|then|ok|okay|yes)[, ]+)*"
    rf"(?:(?:add|put|import|write|save|take) {_THESE}(?: (?:to|on|onto|in|into|as) {_LIST})?"
    rf"|(?:make|create) (?:new )?(?:tasks?|to-?dos?|a list) (?:of|from|out of) {_THESE}"
    rf"|turn {_THESE} into {_LIST})(?:,? please)?[.!]*",
    re.I,
)
_BULLET = re.compile(r"\s*(?:[-*+•‣◦·\u2013\u2014]|\d{1,3}[.)]|\[[ xX]?\])\s+(?P<rest>.*)")
_BOX = re.compile(r"\[(?P<mark>[ xX]?)\]\s*(?P<rest>.*)")
_NO_ITEM = re.compile(r"\s*(?:#|```|---|===|>|\||<!--).*")
_NAMES = ("title", "task", "name", "item", "text", "todo", "summary", "description")


def wants_them_added(message: str) -> bool:
    """Whether the message asks for tasks made of a file's lines."""
    return _ADD_THESE.fullmatch(" ".join(clean(message).split())) is not None


def files_meant(prompt: Prompt) -> Sequence[File]:
    """The message's files, or else those of the last message that had any."""
    said = (message.files for message in reversed(prompt.history) if message.files)
    return prompt.files or next(said, ())


def is_picture(file: File) -> bool:
    return file.media_type.startswith("image/")


async def described(files: Sequence[File]) -> str:
    """What the files are, and what may be asked about them."""
    texts = [file for file in files if not is_picture(file)]
    said = f"You gave me {in_words([await _described(file) for file in files])}."
    if len(texts) < len(files):
        said += " I can't look into pictures without a model."
    if texts and await titles_in(texts):
        said += ' Say "add these to my tasks", and I add what is listed there.'
    return said


async def _described(file: File) -> str:
    kind = f"a {'picture' if is_picture(file) else 'PDF' if file.media_type.endswith('pdf') else 'text'}"
    if is_picture(file):
        return f"{quote(file.name)} ({kind}, {size_of(file)})"
    lines = sum(1 for line in (await file.text()).splitlines() if line.strip())
    return f"{quote(file.name)} ({kind} of {counted(lines, 'line')}, {size_of(file)})"


def size_of(file: File) -> str:
    return f"{file.size} bytes" if file.size < 1_000 else f"{file.size / 1_000:.0f} kB"


async def titles_in(files: Sequence[File]) -> Sequence[str]:
    """The items of the lists in the texts, as titles of tasks."""
    found: list[str] = []
    for file in files:
        if not is_picture(file):
            found += _items(file, (await file.text())[:MOST_CHARACTERS])
    return [title for each in found if (title := tidy(" ".join(each.split()))[:TITLE_LENGTH])][:MOST_ITEMS]


def _items(file: File, text: str) -> Sequence[str]:
    if file.media_type == "application/json":
        return list(_json_items(text))
    if file.media_type == "text/csv":
        return list(_csv_items(text))
    lines = [line for line in text.splitlines() if line.strip() and not _NO_ITEM.fullmatch(line)]
    bullets = [match["rest"] for line in lines if (match := _BULLET.fullmatch(line))]
    return [item for each in bullets or lines if (item := _unticked(each))]


def _unticked(item: str) -> str | None:
    """The item without its box; None if that is ticked, for it is done."""
    match = _BOX.fullmatch(item)
    if match is None:
        return item
    return match["rest"] if match["mark"] in {"", " "} else None


def _csv_items(text: str) -> Iterator[str]:
    """The column with a name of ours, or else the first."""
    try:
        dialect: Any = csv.Sniffer().sniff(text[:2_000], ",;\t")
    except csv.Error:
        dialect = csv.excel
    rows = [row for row in csv.reader(text.splitlines(), dialect) if any(cell.strip() for cell in row)]
    heads = [cell.strip().casefold() for cell in rows[0]] if rows else []
    column = next((heads.index(name) for name in _NAMES if name in heads), None)
    for row in rows if column is None else rows[1:]:
        if len(row) > (column or 0):
            yield row[column or 0]


def _json_items(text: str) -> Iterator[str]:
    """The texts of the first list, or those members of its objects that have a name of ours."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict):
        value = next((each for each in value.values() if isinstance(each, list)), [])
    for each in value if isinstance(value, list) else []:
        item = next((each[name] for name in _NAMES if name in each), None) if isinstance(each, dict) else each
        if isinstance(item, str):
            yield item
