"""Reads which tasks words point at: "the second one", "tasks 1 and 3", "it", "everything but milk", "the bread"."""

import re

from chatapi.offline.intents import Everything, It, Named, Nothing, Position, Status, Target, Them, TheOther
from chatapi.offline.text import is_quoted

_CARDINALS_TEXT = "one two three four five six seven eight nine ten eleven twelve"
_CARDINALS = _CARDINALS_TEXT.split()
_ORDINALS_TEXT = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_ORDINALS = _ORDINALS_TEXT.split()
_NUMBERS = {
    **{word: number for number, word in enumerate(_CARDINALS, 1)},
    **{word: number for number, word in enumerate(_ORDINALS, 1)},
    "couple": 2,
    "top": 1,
    "last": -1,
    "bottom": -1,
    "latest": -1,
    "newest": -1,
    "final": -1,
    "penultimate": -2,
}
_ORDINAL_WORDS = frozenset([*_ORDINALS, "top", "last", "bottom", "latest", "newest", "final", "penultimate"])
_MOST_POSITIONS = 100  # a range covers at most one page of tasks

DONE = r"(?:done|completed?|finished|checked|ticked)(?: off)?"
OPEN = r"(?:open|pending|remaining|outstanding|unfinished|incomplete|uncompleted|undone|unchecked|active)"
_TASKS = r"(?:tasks?|items?|to-?dos?|things?|ones?|entries|entry|stuff|reminders?)"
_PLACE = r"(?: (?:off|from|on|in|of|to))?(?: of)? (?:my|the|our|this|that) (?:(?:to-?\s?do|task|shopping|grocery) )?lists?"

_TAIL = re.compile(
    rf"(?:{_PLACE}|,? (?:please|pls|plz|now|too|also|as well|again|already|today|for me|yet))$", re.I
)
_MOST_TAILS = 4  # bounds the passes over the text, one for each
_IT = re.compile(
    r"(?:it|that|this|(?:that|this)(?: last)? (?:one|task|item|thing)|the (?:task|item|same(?: one)?)|"
    r"(?:the )?(?:one|task|thing|last (?:one|task|thing)|what) i (?:just |last )?(?:added|completed|finished|renamed|"
    r"made|created|said))",
    re.I,
)
_THEM = re.compile(
    r"(?:all (?:of )?)?(?:them|those|these|they)(?: (?:all|both|two|three|tasks|items|ones|things))*|"
    r"(?:the )?both(?: of (?:them|those|these))?|the two(?: of them)?",
    re.I,
)
_OTHER = re.compile(r"(?:the )?other(?: (?:one|task))?", re.I)
_REST = re.compile(r"(?:the |all (?:of )?the )?(?:rest|others)(?: of (?:them|it|my tasks|the tasks))?", re.I)
_ALL_BUT = re.compile(
    r"(?:all|everything|every task)(?: (?:of )?(?:my|the))?(?: tasks)?,? "
    r"(?:but|except(?: for)?|besides|apart from|other than|excluding) (?P<but>.+)",
    re.I,
)
_WHOLE = re.compile(
    rf"(?P<all>(?:all|everything|every|each)\b(?: of)?|(?:my|the) (?:whole|entire|full))?"
    rf"(?: ?(?:(?:my|the|of|that's|that is|which is|which are|that are|i have|i've) ?)*)?"
    rf"(?P<state>{DONE}|{OPEN})?(?: ?(?P<noun>{_TASKS}|(?:(?:to-?do|task) )?lists?))?",
    re.I,
)
_ALL_ABOUT = re.compile(
    rf"(?:all|every)(?: of)?(?: (?:my|the))? (?:{_TASKS} (?:about|with|containing|named|called|for) (?P<about>.+)|"
    rf"(?P<kind>.+?) {_TASKS})",
    re.I,
)
_NAME = re.compile(
    rf"(?:(?:(?:the|my|our|this|that) )?(?:{_TASKS} )?(?:one )?(?:about|called|named|titled|with|that says|saying) |"
    rf"(?:the |my |our |that |this )?(?:(?:task|item|to-?do|entry):? )?)?(?P<name>.+?)"
    rf"(?: (?:task|item|to-?do|one|entry|reminder))?",
    re.I,
)
_SPAN = re.compile(
    r"(?P<end>first|last|top|bottom) (?P<count>[a-z0-9]+)(?: (?:tasks|items|ones|things|of them))?", re.I
)
_RANGE = re.compile(
    r"(?:tasks? |items? |numbers? |#)?(?P<first>\d+) ?(?:-|\u2013|to|through|thru) ?#?(?P<last>\d+)", re.I
)
_TO_LAST = re.compile(
    r"(?P<number>second|third|fourth) (?:to |from )?(?:the )?last(?: (?:one|task|item))?", re.I
)
_TOKEN = re.compile(r"[^\s,&]+")
_NUMBER = re.compile(r"(?:#|no\.?|nr\.?)?(?P<digits>\d{1,9})(?P<suffix>st|nd|rd|th)?\.?", re.I)
_BESIDE_NUMBERS_TEXT = "the my task tasks item items number numbers no no. # and one ones entry todo or"
_BESIDE_NUMBERS = frozenset(_BESIDE_NUMBERS_TEXT.split())
_PARTS = re.compile(r",? (?:and|&|plus) |, ?", re.I)


def parse_targets(text: str) -> tuple[Target, ...]:
    """The targets of the words; never empty: `Nothing` if they name none."""
    text = _trimmed(text)
    if is_quoted(text):
        return (Named(text),)
    return _positions(_without_the(text)) or (_single(text),)


def parse_positions(text: str) -> tuple[Position, ...]:
    """The places that a text names; empty if it says anything else."""
    return _positions(_without_the(_trimmed(text)))


def _trimmed(text: str) -> str:
    text = text.strip(" ,.!?:")
    for _ in range(_MOST_TAILS):
        text = _TAIL.sub("", text)
    return text


def _without_the(text: str) -> str:
    return re.sub(r"^(?:the|my) ", "", text, flags=re.I)


def _positions(text: str) -> tuple[Position, ...]:
    if span := _SPAN.fullmatch(text):
        return _span(span["end"].lower(), span["count"].lower())
    if span := _RANGE.fullmatch(text):
        first, last = int(span["first"][:9]), int(span["last"][:9])
        return tuple(Position(number) for number in range(first, min(last, first + _MOST_POSITIONS) + 1))
    if found := _TO_LAST.fullmatch(text):
        return (Position(-_NUMBERS[found["number"].lower()], ordinal=True),)
    tokens = _TOKEN.findall(text.lower())
    positions = [_position(token) for token in tokens if token not in _BESIDE_NUMBERS]
    if not positions and tokens[-1:] == ["one"] and tokens[-2:-1] in (["task"], ["number"], ["item"]):
        return (Position(1),)
    return tuple(place for place in positions if place) if all(positions) else ()


def _span(end: str, count: str) -> tuple[Position, ...]:
    spelled = 0 if count in _ORDINAL_WORDS else _NUMBERS.get(count, 0)
    number = int(count[:3]) if count.isdecimal() else spelled
    if count == "one" or not 0 < number <= _MOST_POSITIONS:
        return (Position(_NUMBERS[end], ordinal=True),) if count == "one" else ()
    places = range(1, number + 1) if end in {"first", "top"} else range(-number, 0)
    return tuple(Position(place, ordinal=True) for place in places)


def _position(token: str) -> Position | None:
    if found := _NUMBER.fullmatch(token):
        return Position(int(found["digits"]), ordinal=found["suffix"] is not None)
    if token in _NUMBERS:
        return Position(_NUMBERS[token], ordinal=token in _ORDINAL_WORDS)
    return None


def _single(text: str) -> Target:
    if not text:
        return Nothing()
    if _IT.fullmatch(text):
        return It()
    if _THEM.fullmatch(text):
        return Them()
    if _OTHER.fullmatch(text):
        return TheOther()
    return _group(text) or _named(text)


def _group(text: str) -> Everything | Nothing | None:
    if _REST.fullmatch(text):
        return Everything("pending")
    if found := _ALL_BUT.fullmatch(text):
        return Everything(but=parse_targets(found["but"]))
    if found := _WHOLE.fullmatch(text):
        return _whole(found)
    if found := _ALL_ABOUT.fullmatch(text):
        return Everything(about=found["about"] or found["kind"])
    return None


def _whole(found: re.Match[str]) -> Everything | Nothing | None:
    """All tasks of a kind; None for a single one ("the open one"), `Nothing` if it is too vague ("tasks")."""
    state, noun = found["state"], (found["noun"] or "").lower()
    if found["all"] or noun.endswith(("list", "lists")):
        return Everything(_status(state))
    if not state:
        return Nothing()
    return Everything(_status(state)) if noun in {"", "stuff"} or noun.endswith("s") else None


def _status(state: str | None) -> Status:
    if not state:
        return "all"
    return "completed" if re.fullmatch(DONE, state, re.I) else "pending"


def _named(text: str) -> Named:
    found = _NAME.fullmatch(text)
    name = found["name"] if found else text
    parts = tuple(part for part in _PARTS.split(name) if part) if not is_quoted(name) else ()
    return Named(name, parts if len(parts) > 1 else ())
