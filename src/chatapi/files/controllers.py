"""Files over REST."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from litestar import Controller, Request, Response, delete, get, post
from litestar.datastructures import ResponseHeader, State
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import FromPath
from litestar.response import Stream

from chatapi.audit import name_subject
from chatapi.auth.tokens import Identity
from chatapi.files.ranges import asked_range, is_fresh
from chatapi.files.schemas import File, path_of
from chatapi.files.service import FileService
from chatapi.openapi import add_headers, content_of_success, header, problems

BYTES = "application/octet-stream"
# What opens a file in a page of its own gets a page in which nothing runs and nothing is loaded.
NOTHING_RUNS = "default-src 'none'; sandbox; frame-ancestors 'none'"

FILE_HEADERS = {
    "Accept-Ranges": header("`bytes`.", always=True),
    "Content-Disposition": header("`attachment`, and the name of the file.", always=True),
    "ETag": header("Tells these bytes from all others.", always=True),
}


@dataclass
class UploadOperation(Operation):
    """An operation whose body is a form with a file, which Litestar does not read and so does not describe."""

    def __post_init__(self) -> None:
        form = Schema(
            type=OpenAPIType.OBJECT,
            properties={"file": Schema(type=OpenAPIType.STRING, content_media_type=BYTES)},
            required=["file"],
            additional_properties=False,
        )
        self.request_body = RequestBody(
            content={"multipart/form-data": OpenAPIMediaType(schema=form)}, required=True
        )


@dataclass
class DownloadOperation(Operation):
    """An operation that answers with bytes."""

    def __post_init__(self) -> None:
        content = content_of_success(self)
        content.clear()
        content["*/*"] = OpenAPIMediaType(schema=Schema(description="The bytes of the file."))
        for status in ("200", "206", "304"):
            add_headers(self, status, FILE_HEADERS)
        add_headers(
            self, "206", {"Content-Range": header("Which bytes these are, of how many.", always=True)}
        )
        add_headers(self, "416", {"Content-Range": header("How many bytes there are.", always=True)})


class FileController(Controller):
    path = "/files"
    tags = ("Files",)

    @post(
        operation_id="addFile",
        summary="Upload a file",
        operation_class=UploadOperation,
        response_headers=[
            ResponseHeader(name="Location", description="The file's path", documentation_only=True)
        ],
        responses=problems(404, 413, 415, 422),
        act="file.added",
    )
    async def add_file(
        self,
        request: Request[Identity, Any, State],
        user_id: FromPath[str],
        files: NamedDependency[FileService],
    ) -> Response[File]:
        """Takes a form with one part, `file`. What it is, is found out from its bytes.

        PNG, JPEG, WebP, GIF, PDF, JSON, and text in UTF-8, of which the name's ending says whether it is Markdown or CSV.
        A file that no message is sent with is deleted after a day.
        """
        file = await files.add(user_id, request.stream(), request.headers.get("content-type", ""))
        name_subject(file)
        return Response(file, headers={"Location": path_of(user_id, file.id)})

    @get(
        "/{file_id:int}",
        operation_id="readFile",
        summary="Read a file",
        operation_class=DownloadOperation,
        responses={
            206: ResponseSpec(None, description="The range that was asked for."),
            304: ResponseSpec(None, description="The bytes are those of the `ETag` that was sent."),
            **problems(404, 416),
        },
    )
    async def read_file(
        self,
        request: Request[Identity, Any, State],
        user_id: FromPath[str],
        file_id: FromPath[int],
        files: NamedDependency[FileService],
    ) -> Response[Any]:
        """The bytes, or the range of them that `Range` asks for."""
        found = await files.read(user_id, file_id)
        headers = headers_of(found.file)
        if is_fresh(request.headers, headers["ETag"]):
            return Response(None, status_code=304, headers=headers)
        size = found.file.size
        part = asked_range(request.headers, headers["ETag"], size)
        start, end = part or (0, size)
        headers["Content-Length"] = str(end - start)
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Stream(
            await files.open(found, start, end),
            status_code=200 if part is None else 206,
            media_type=found.file.media_type,
            headers=headers,
        )

    @delete(
        "/{file_id:int}",
        operation_id="deleteFile",
        summary="Delete a file",
        responses=problems(404),
        act="file.deleted",
    )
    async def delete_file(
        self, user_id: FromPath[str], file_id: FromPath[int], files: NamedDependency[FileService]
    ) -> None:
        """With its bytes. Messages that it was sent with keep its name."""
        await files.remove(user_id, file_id)


def headers_of(file: File) -> dict[str, str]:
    """A file's bytes never change, so they are cached; but its reader is asked for a token each time."""
    plain = "".join(letter if letter.isascii() and letter not in '"\\' else "_" for letter in file.name)
    return {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file.name, safe='')}",
        "ETag": f'"{file.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": NOTHING_RUNS,
    }
