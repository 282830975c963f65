"""Server-sent events, as far as model servers use them.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from collections.abc import Iterator

# Bytes; far more than a whole answer in one event, and a bound on an event without end.
LONGEST_EVENT = 8 * 1024 * 1024


class EventTooLong(Exception):
    """An event has more bytes than any model's answer."""


class EventSplitter:
    """Takes bytes as they arrive and gives the `data` of each whole event, without its name and id.

    An event that the stream's end cuts off is dropped, as the specification says.
    """

    def __init__(self) -> None:
        self.had_events = False
        self._rest = b""
        self._data: list[bytes] = []
        self._ended_with_cr = False
        self._size = 0
        self._first = True

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take more bytes; raises `EventTooLong`."""
        if b"\r" in piece or self._ended_with_cr:
            piece = self._with_line_feeds(piece)
        if self._first and piece:
            self._first = False
            piece = piece.removeprefix(b"\xef\xbb\xbf")
        self._size += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                data, self._data, self._size = b"\n".join(self._data), [], len(self._rest)
                self.had_events = True
                yield data
        if self._size > LONGEST_EVENT:
            raise EventTooLong

    def _with_line_feeds(self, piece: bytes) -> bytes:
        if self._ended_with_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._ended_with_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
