"""What models take beside text, and how a message's files are shown to one.

A text file is shown as text with its name, a PDF as it is or as its text, a picture as it is. The last files of earlier
messages are shown again within a bound of bytes.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct

from chatapi.agent.ports import File, HistoryMessage
from chatapi.errors.files import FileNotFound, FileNotSupported

PDF = "application/pdf"
IMAGES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
# Of earlier messages, in a request. Providers refuse requests of more than 20 to 50 MB, and base64 adds a third.
HISTORY_BYTES = 8 * 1024 * 1024

NOTHING: frozenset[str] = frozenset()
SEES = IMAGES
READS = IMAGES | {PDF}
# By the name of the model, without its provider's prefix; the first row that fits. A model that is in no row takes text.
OPENAI = (
    (re.compile(r"(gpt-3|gpt-4(-\d|-32k|$)|o1-(mini|preview)|o3-mini|gpt-oss)"), NOTHING),
    (re.compile(r"gpt-4-(turbo|vision)"), SEES),
    (re.compile(r"(ft:)?(gpt-[4-9]|chatgpt|o\d|codex|computer-use)"), READS),
)
ANTHROPIC = (
    (re.compile(r"claude-(1|2|instant)"), NOTHING),
    (re.compile(r"claude"), READS),
)
GOOGLE = (
    (re.compile(r"gemma-[12]|gemma-3-1b"), NOTHING),
    (re.compile(r"gemma"), SEES),
    (re.compile(r"gemini"), READS),
)
# Of other servers, which have models of all makers, and rarely take PDFs.
OTHERS = (
    (
        re.compile(
            r"gpt-3|gpt-4(-\d|-32k|$)|o1-(mini|preview)|o3-mini|gpt-oss|claude-(1|2|instant)|gemma-?[12]|gemma-?3.1b"
        ),
        NOTHING,
    ),
    (
        re.compile(
            r"gpt-[4-9]|(^|/)o[134]|claude|gemini|gemma-?[3-9]|llava|pixtral|moondream|llama-?4|minicpm-v|internvl|phi-?\d.*vision|"
            r"vision|mistral-(small-?3\.[1-9]|medium-?3|large-?3)|(^|[^a-z])vl([^a-z]|$)|(qwen|glm)[\d.-]*-?v"
        ),
        SEES,
    ),
)
TABLE = {"openai": OPENAI, "anthropic": ANTHROPIC, "google": GOOGLE}

Shown: TypeAlias = "str | Attached"


class Attached(Struct, frozen=True, kw_only=True):
    """A file as it is shown, unchanged."""

    name: str
    media_type: str
    data: bytes


def taken_by(maker: str, model: str) -> frozenset[str]:
    """The media types that a model takes, by the table; `maker` is `openai`, `anthropic`, `google` or another server."""
    found = (
        taken
        for name, taken in TABLE.get(maker, OTHERS)
        if (name.match if maker in TABLE else name.search)(model.lower())
    )
    return next(found, NOTHING)


def of_kinds(kinds: Collection[str]) -> frozenset[str]:
    """The media types of `CHAT_MODEL_INPUT`."""
    return (IMAGES if "image" in kinds else NOTHING) | ({PDF} if "pdf" in kinds else NOTHING)


def is_text(file: File) -> bool:
    return file.media_type not in READS


def check_kinds(files: Iterable[File], kinds: Collection[str], model: str) -> None:
    """Raise `FileNotSupported` for a file that is none of these kinds, and no text."""
    for file in files:
        if not is_text(file) and file.media_type not in of_kinds(kinds):
            raise not_taken(file, model)


async def check_files(files: Iterable[File], taken: Collection[str], model: str) -> None:
    """As `check_kinds`, for a model that is shown the text of a PDF that it does not take."""
    for file in files:
        if file.media_type == PDF and PDF not in taken:
            await file.text()
        elif not is_text(file) and file.media_type not in taken:
            raise not_taken(file, model)


def not_taken(file: File, model: str) -> FileNotSupported:
    return FileNotSupported(f"{file.name} is {file.media_type}, which {model} does not take.")


async def shown_files(
    files: Sequence[File],
    history: Sequence[HistoryMessage],
    taken: Collection[str],
    *,
    goes_on: bool = False,
) -> Mapping[int, Shown]:
    """The files of the message and of the history by id, each as it is shown to a model that takes these media types.

    Raises `FileNotSupported` for a file of the message, never for one of the history; and `FileNotFound` for one that was
    deleted, unless the turn `goes_on`: its model has seen it.
    """
    shown: dict[int, Shown] = {}
    for file in files:
        try:
            shown[file.id] = await show(file, taken)
        except FileNotFound:
            if not goes_on:
                raise
            shown[file.id] = f"[The file {file.name} was shown here, and has been deleted.]"
    earlier = list({file.id: file for message in history for file in message.files}.values())
    begin = first_shown([file.size for file in earlier], HISTORY_BYTES)
    for place, file in enumerate(earlier):
        if file.id in shown:
            continue
        try:
            shown[file.id] = (
                await show(file, taken)
                if place >= begin
                else f"[The file {file.name} was shown here before.]"
            )
        except FileNotFound:
            shown[file.id] = f"[The file {file.name} was shown here, and has been deleted.]"
        except FileNotSupported:
            shown[file.id] = f"[The file {file.name} is here, and you cannot see it.]"
    return shown


def first_shown(sizes: Sequence[int], bound: int) -> int:
    """The first of these files that is shown, by their sizes, oldest first.

    Each time that they grow beyond the bound they fall to half, as the window of a conversation does: so a request begins as
    the one before for turns on end.
    """
    begin = total = 0
    for place, size in enumerate(sizes):
        total += size
        if total <= bound:
            continue
        while begin < place and total > bound // 2:
            total -= sizes[begin]
            begin += 1
        if total > bound:  # this one alone
            begin, total = place + 1, 0
    return begin


async def show(file: File, taken: Collection[str]) -> Shown:
    if file.media_type in taken:
        return Attached(name=file.name, media_type=file.media_type, data=await file.read())
    if file.media_type in IMAGES:
        raise not_taken(file, "the model")
    return f'<file name="{file.name}" type="{file.media_type}">\n{(await file.text()).strip()}\n</file>'


def content_of(
    text: str, files: Sequence[File], shown: Mapping[int, Shown]
) -> tuple[str, Sequence[Attached]]:
    """A user's message as it is sent: its text with that of its files before it, and what is attached."""
    found = [shown[file.id] for file in files]
    texts = [each for each in found if isinstance(each, str)]
    return "\n\n".join([*texts, *([text] if text else [])]), [
        each for each in found if isinstance(each, Attached)
    ]
