"""A file that is not there, is not taken, or cannot be reached."""

from typing import Final

from chatapi.errors.base import AppError
from chatapi.errors.requests import NotFound


class FileNotFound(NotFound):
    type = "file-not-found"
    title = "No such file"
    when = "You have no file with this id: it is not there, was deleted with its conversation, or is somebody else's"
    remedy = "Upload it again. A file that was never sent is kept for a day"

    def __init__(self, file_id: int) -> None:
        super().__init__(f"There is no file {file_id} of yours.")


class FileTooLarge(AppError):
    status = 413
    type = "file-too-large"
    title = "The file is too large"
    when = "The file has more bytes than `FILE_MAX_BYTES`"
    remedy = "Send a smaller one"

    def __init__(self, most: int) -> None:
        super().__init__(f"A file has {most:,} bytes at the most.")


class FileKindRefused(AppError):
    status = 415
    type = "file-kind-refused"
    title = "Files of this kind are not taken"
    when = (
        "The bytes of the file are no PNG, JPEG, WebP, GIF, PDF, JSON or UTF-8 text, whatever its name and its "
        "`Content-Type` say"
    )
    remedy = "Convert it to one of these. `detail` says what was found"


class FileNotSupported(AppError):
    status = 422
    type = "file-not-supported"
    title = "The model cannot take this file"
    when = "The configured model cannot see files of this kind, or the text of a PDF cannot be read for it"
    remedy = "Send the message without it. Operator: `CHAT_MODEL_INPUT` says what the model takes"


class RangeNotSatisfiable(AppError):
    """The answer to a range that begins after the end of a file of `size` bytes (RFC 9110, section 15.5.17)."""

    status = 416
    type = "range-not-satisfiable"
    title = "The file does not reach so far"
    when = "`Range` asks for bytes after the end of the file"
    remedy = "Ask for bytes that are there; `Content-Range` says how many"

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size:,} bytes.")
        self.size: Final = size

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Range": f"bytes */{self.size}"}


class FilesUnavailable(AppError):
    """The log has the storage's own words, which hold addresses and names."""

    status = 503
    type = "files-unavailable"
    title = "Files cannot be reached"
    when = "The storage of files does not answer, or refuses the service"
    remedy = "Wait for `Retry-After` and try again. Operator: the log has the reason; see `FILES_URL`"

    def __init__(self) -> None:
        super().__init__("Files cannot be reached at the moment.", retry_after=5)
