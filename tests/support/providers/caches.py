"""What a provider's cache would find of a request, byte by byte, in the order in which providers read one."""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

BLOCKS_BACK = 20  # how far Anthropic looks for what was written, before each mark
MARKS = 4  # how many a request may have


def unmarked(value: Any) -> Any:
    """The value without Anthropic's marks, which are no part of what is read."""
    match value:
        case dict():
            return {name: unmarked(each) for name, each in value.items() if name != "cache_control"}
        case list():
            return [unmarked(each) for each in value]
    return value


def blocks_of(body: dict[str, Any]) -> list[tuple[bytes, bool]]:
    """The tools, the instructions and the messages; of Anthropic's API block by block, with whether each is marked."""
    system = body.get("system") or body.get("systemInstruction") or body.get("instructions") or ""
    instructions = system if isinstance(system, list) else [system]
    messages = body.get("contents") or body.get("input") or body["messages"]
    if "system" in body:
        messages = [{"role": each["role"], **block} for each in messages for block in each["content"]]
    whole = [*body.get("tools", []), *instructions, *messages]
    return [
        (json.dumps(unmarked(each)).encode(), isinstance(each, dict) and "cache_control" in each)
        for each in whole
    ]


@dataclass
class Cache:
    """Finds what earlier requests have written: all of them without marks, and else up to their marks."""

    written: set[bytes] = field(default_factory=set)

    def take(self, body: dict[str, Any]) -> tuple[int, int]:
        """How many bytes of the request are found, of how many; then it is written."""
        blocks = blocks_of(body)
        ends, digests, digest, length = [], [], sha256(), 0
        for block, _ in blocks:
            digest.update(block)
            length += len(block)
            ends.append(length)
            digests.append(digest.copy().digest())
        places = range(len(blocks))
        if "system" in body:
            marks = [place for place in places if blocks[place][1]]
            assert len(marks) <= MARKS
            looked_at = {place for mark in marks for place in range(mark - BLOCKS_BACK, mark + 1)} & set(
                places
            )
        else:
            marks, looked_at = list(places), set(places)
        found = max((ends[place] for place in looked_at if digests[place] in self.written), default=0)
        self.written |= {digests[place] for place in marks}
        return found, length
