"""Prints a turn: as Markdown in a terminal, as plain text in a pipe. Calls of tools are a line each."""

import json
import re
import sys
from typing import Any, Protocol

import click
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

REFRESH = 12  # times a second, while a paragraph grows
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
LONGEST = 60  # characters of a tool's argument or result on its line
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class Printer(Protocol):
    def text(self, piece: str) -> None:
        """A piece of the answer."""

    def note(self, line: str) -> None:
        """A line about the answer: a call of a tool, a reason."""

    def end(self) -> None:
        """The answer has ended, or somebody else writes now."""


class PlainPrinter:
    """The answer alone goes to standard output, as it comes; everything else to standard error."""

    def __init__(self) -> None:
        self._ends_with_newline = True

    def text(self, piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()
        self._ends_with_newline = piece.endswith("\n")

    def note(self, line: str) -> None:
        self.end()
        tell(line)

    def end(self) -> None:
        if not self._ends_with_newline:
            self.text("\n")


class MarkdownPrinter:
    """Paragraphs are laid out while they grow, and stay as they are once the next has begun."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open = ""
        self._live: Live | None = None

    def text(self, piece: str) -> None:
        self._open += cleaned(piece)
        *whole, self._open = blocks_of(self._open)
        for block in whole:
            self._stop()
            self._console.print(Markdown(block, hyperlinks=False))
            self._console.print()
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=REFRESH, transient=True)
            self._live.start()
        self._live.update(Markdown(self._open, hyperlinks=False))

    def note(self, line: str) -> None:
        self.end()
        self._console.print(Text(cleaned(line), style="dim"))

    def end(self) -> None:
        self._stop()
        if self._open.strip():
            self._console.print(Markdown(self._open, hyperlinks=False))
        self._open = ""

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def blocks_of(text: str) -> list[str]:
    """Text split where a paragraph begins after an empty line, outside of fenced code; the last may still grow."""
    blocks: list[str] = []
    lines: list[str] = []
    fence: str | None = None
    for line in text.split("\n"):
        if fence is None and lines and lines[-1] == "" and (line[:1].isalnum() or line[:1] in {"#", "`"}):
            blocks.append("\n".join(lines).rstrip())
            lines = []
        lines.append(line)
        mark = FENCE.match(line)
        if mark and fence is None:
            fence = mark[1]
        elif mark and fence and mark[1].startswith(fence):
            fence = None
    return [*blocks, "\n".join(lines)]


def cleaned(text: str) -> str:
    """Text without control characters, which could move the cursor, set the window's title or write to the clipboard."""
    return CONTROL.sub("", text)


def tell(line: str) -> None:
    """Write to standard error, which may be a terminal where standard output is none."""
    click.echo(cleaned(line), err=True)


def as_json(value: Any) -> str:
    """JSON that holds no control characters. The encoder itself leaves DEL and U+0080 to U+009F as they are."""
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def call_line(name: str, arguments: Any, outcome: str) -> str:
    values = arguments.values() if isinstance(arguments, dict) else []
    brief = ", ".join(shortened(value) for value in values if value is not None)
    return f"· {name.replace('_', ' ')}{f' ({brief})' if brief else ''}: {outcome}"


def shortened(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def printer(console: Console) -> Printer:
    return MarkdownPrinter(console) if console.is_terminal else PlainPrinter()
