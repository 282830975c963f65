"""The line editor: its keys, and the lines of this session again by the up arrow."""

import readline


def read_line(prompt: str, begun: str = "") -> str:
    """A line from the terminal, with `begun` in it to change. Raises `EOFError` and `KeyboardInterrupt`."""
    readline.set_startup_hook((lambda: readline.insert_text(begun)) if begun else None)
    try:
        return input(prompt)
    finally:
        readline.set_startup_hook(None)
