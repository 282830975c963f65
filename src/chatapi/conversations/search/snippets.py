"""The piece of a text that shows why it was found, with the hits marked."""

import re
from collections.abc import Sequence

from chatapi.conversations.search.folding import IS_DENSE, PIECE, fold_characters

START, END = "\ue000", "\ue001"  # around a hit; private-use characters, which are taken out of the text
WIDTH = 200  # characters of a snippet, without the marks
LEAD = 40  # of these, before the first hit
SEARCHED = 50_000  # characters of a text in which hits are marked: bounds the work for a page
HITS_COMPARED = 20  # from each hit on, to find the place with the most of them

CLEAN = dict.fromkeys((*range(32), 127, 8232, 8233), " ") | {ord(START): "", ord(END): ""}
# A character with the marks that may join it when it is folded.
CLUSTER = re.compile(r"(?s).[\u0300-\u036f\u3099\u309a\uff9e\uff9f\u1160-\u11ff\u093c\u09bc]*")

Span = tuple[int, int]


def spans_of(text: str, needles: Sequence[str]) -> list[Span]:
    """The places of the needles in the text as it was written, in order; a prefix counts to its word's end."""
    folded, origins = _folded_with_origins(text[:SEARCHED])
    found: list[Span] = []
    for needle in needles:
        place = folded.find(needle)
        while place >= 0:
            first, last = place + needle.startswith(" "), place + len(needle) - needle.endswith(" ")
            if not needle.endswith(" ") and not IS_DENSE.match(needle[-1]):
                last = folded.find(" ", last)
            if last > first:
                found.append((origins[first][0], origins[last - 1][1]))
            place = folded.find(needle, place + 1)
    merged: list[Span] = []
    for start, end in sorted(found):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _folded_with_origins(text: str) -> tuple[str, list[Span]]:
    """The text as `fold` has it, and for each of its characters the place in the text that it comes from."""
    flat: list[str] = []
    places: list[Span] = []
    for cluster in CLUSTER.finditer(text):
        part = fold_characters(cluster.group())
        flat.append(part)
        places += [cluster.span()] * len(part)
    folded, origins = [" "], [(0, 0)]
    for piece in PIECE.finditer("".join(flat)):
        folded += [piece.group(), " "]
        origins += [*places[piece.start() : piece.end()], (0, 0)]
    return "".join(folded), origins


def snippet_of(text: str, hits: Sequence[Span]) -> str:
    """A piece of the text around most of its hits, or its beginning if it has none."""
    start = _best_start(text, hits)
    end = min(start + WIDTH, len(text))
    pieces: list[str] = []
    place = start
    for first, last in hits:
        if start <= first < (shown := min(last, end)):
            pieces += [text[place:first].translate(CLEAN), START, text[first:shown].translate(CLEAN), END]
            place = shown
    pieces.append(text[place:end].translate(CLEAN))
    return f"{'…' if start else ''}{''.join(pieces)}{'…' if end < len(text) else ''}"


def _best_start(text: str, hits: Sequence[Span]) -> int:
    """The start of the snippet with the most hits, after a space if there is one."""
    if not hits:
        return 0
    room = WIDTH - LEAD

    def count(number: int) -> int:
        return sum(last <= hits[number][0] + room for _, last in hits[number : number + HITS_COMPARED])

    first = hits[max(range(len(hits)), key=lambda number: (count(number), -number))][0]
    start = max(first - LEAD, 0)
    return next((place + 1 for place in range(start, first) if text[place].isspace()), start) if start else 0
