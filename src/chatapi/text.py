"""Text that a database can store: patterns for text from clients, and functions that mend texts for it and for models.

The patterns are for `msgspec.Meta(pattern=…)`. It searches, so they are anchored. `READABLE` has words for its errors.
"""

import msgspec

# PostgreSQL's text cannot hold U+0000 (SQLSTATE 22021), so no text from outside may.
NO_NUL = r"^[^\u0000]*$"
NOT_BLANK = r"^[^\u0000]*[^\s\u0000][^\u0000]*$"

FILES_FIRST = 'upload files first, and name them in `parts`: {"type": "file", "file_id": …}'
READABLE = {
    f"Expected `str` matching regex {NO_NUL!r}": "must not contain U+0000",
    f"Expected `str` matching regex {NOT_BLANK!r}": "must not be blank or contain U+0000",
    "Object contains unknown field `files`": FILES_FIRST,
}


def path_and_message(error: msgspec.ValidationError) -> tuple[str, str]:
    """The path of the wrong value, and what is wrong: `("items[0].title", "Expected `str`, got `int`")`."""
    message, _, path = str(error).partition(" - at `")
    return path.rstrip("`").removeprefix("$").removeprefix("."), READABLE.get(message, message)


def storable(text: str) -> str:
    """The text without what PostgreSQL's UTF-8 cannot hold: U+0000 and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def shortened(text: str, most: int) -> str:
    """The text without its middle, if it is longer."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} […] {text[-half:]}"
