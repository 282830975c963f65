"""Reads an upload, a multipart form with one part `file`, into a file on the disk as it comes."""

import re
from collections.abc import AsyncIterator
from typing import IO

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from chatapi.errors.files import FileTooLarge
from chatapi.errors.requests import Invalid, UnsupportedMediaType

FORM_BYTES = 64 * 1024  # what a form may have beside the file: boundaries and headers
NAME_CHARACTERS = 200
UNFIT = re.compile(
    r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)  # controls; some turn text around


async def receive(body: AsyncIterator[bytes], content_type: str, most: int, into: IO[bytes]) -> str:
    """Write the form's file and return its name.

    Raises `UnsupportedMediaType`, `Invalid` and `FileTooLarge`; the body may be cut at any place.
    """
    parser = parser_for(content_type)
    form = Form(into, most)
    total = 0
    try:
        async for chunk in body:
            total += len(chunk)
            if total > most + FORM_BYTES:
                raise FileTooLarge(most)
            for event in parser.parse(chunk):
                form.take(event)
        parser.close()
    except ParserLimitReached as error:
        raise Invalid(("", "The form has one part, `file`, with a few short headers.")) from error
    except MultipartError as error:
        raise Invalid(("", "The body is not a whole multipart form.")) from error
    if form.name is None:
        raise Invalid(("file", "is missing: the form has one part of this name"))
    return form.name


def parser_for(content_type: str) -> PushMultipartParser:
    media_type, options = parse_options_header(content_type)
    if media_type != "multipart/form-data" or not options.get("boundary"):
        raise UnsupportedMediaType("Send the file as multipart/form-data, as the part `file`.")
    return PushMultipartParser(options["boundary"], max_segment_count=2)


class Form:
    """The form so far; `name` is the file's once its part has begun."""

    def __init__(self, into: IO[bytes], most: int) -> None:
        self.name: str | None = None
        self._into = into
        self._most = most
        self._size = 0

    def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is not None:
            self._size += len(event)
            if self._size > self._most:
                raise FileTooLarge(self._most)
            self._into.write(event)

    def _begin(self, part: MultipartSegment) -> None:
        if part.name != "file":
            raise Invalid(("", "The form has one part, and its name is `file`."))
        if self.name is not None:
            raise Invalid(("file", "is there twice; send one file at a time"))
        self.name = tidy_name(part.filename or "")


def tidy_name(name: str) -> str:
    """The last part of a path, without control characters, and not too long; its ending is kept."""
    name = UNFIT.sub("", re.split(r"[/\\]", name)[-1]).strip().lstrip(".")
    stem, dot, ending = name.rpartition(".")
    if dot and len(name) > NAME_CHARACTERS and len(ending) < 20:
        return stem[: NAME_CHARACTERS - len(ending) - 1] + dot + ending
    return name[:NAME_CHARACTERS] or "file"
