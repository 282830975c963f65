"""Finds a message's meaning: splits it into clauses, strips courtesies, looks each up in the table of phrasings.

Nothing here knows the conversation: `assistant` finds out what "it" or "yes" refers to.
"""

import re

from msgspec import Struct

from chatapi.offline.intents import (
    Add,
    Change,
    CountTasks,
    Did,
    Intent,
    LeaveAlone,
    ListTasks,
    No,
    Status,
    Suppose,
    Talk,
    Undo,
    Unknown,
    Yes,
)
from chatapi.offline.phrasings import AFTER_LISTING, BEFORE_LISTING, Rows, compiled
from chatapi.offline.targets import DONE, OPEN
from chatapi.offline.text import clean, tidy

# In one message; a longer one is not a chat message, and each command costs a pass over its text.
MOST_COMMANDS = 20


class TooMuch(Exception):
    """The message has more than `MOST_COMMANDS` commands."""


class Clause(Struct, frozen=True):
    """One command and its words."""

    text: str
    intent: Intent


# --- clauses ----------------------------------------------------------------------------------------------------------

_COMMAND = (
    r"(?:add|put|create|remind|show|list|display|mark|complete|finish|tick|check|cross|uncheck|untick|reopen|re-open|"
    r"delete|remove|erase|clear|get rid of|rename|change|update|edit|undo|what's|what is|what are|what do|how many|"
    r"count|tell me|forget about)\b"
)
_OPENER = (
    rf"(?:{_COMMAND}|i |i'|we |don't|do not|dont|please|pls|can you|could you|would you|new task|todo|to-do|what|which|"
    r"how|who|when|where|why|is |are |do |did |thanks|thank|hi\b|hello|hey|bye|yes|no\b|also|then|and|actually|oh|make|"
    r"note|done|remember|if |oops|sorry|help|never)"
)
_PAST = "(?:bought|paid|got|took|made|sent|wrote|read|met|told|did|fed)"
_COURTESY_BEFORE = r"(?:(?:please|pls|also|then|now|just|can you|could you|after that|finally) )*"
_SEPARATOR = re.compile(
    rf"(?P<strong>(?<=[.!?;]) |\n| ?; ?|,? and then |,? then |,? after that,? |,? but (?=don't|do not|{_COMMAND}))"
    rf"(?={_COURTESY_BEFORE}{_OPENER})|"
    rf"(?P<weak>,? (?:and|&|plus) |, ?)(?={_COURTESY_BEFORE}(?:{_COMMAND}|don't|do not|[a-z]+ed |{_PAST} ))",
    re.I,
)
_UNMISTAKABLE = re.compile(
    rf"{_COURTESY_BEFORE}(?:mark .+ (?:as )?{DONE}|remind me .+|(?:add|put) .+ (?:to|on) (?:my|the) .*list|"
    r"(?:delete|remove|complete|rename) (?:task|number|item|#) ?#?\d+.*)",
    re.I,
)
_BULLET = re.compile(r"^(?:[-*•‣◦·+\u2013\u2014]|\[[ x]?\]|\d{1,3}[.)]) ?(?:\[[ x]?\] ?)?")
_HEADING = re.compile(
    r"(?:(?:please|pls|can you|could you|hi|hello|hey)[,!]? )*(?:add|put|create|remind me|todos?|to-?dos?|to do|tasks?|new tasks?|"
    r"i need(?: to(?: do)?)?|remember|my list|shopping list|grocery list|write down|note)\b[^:\n]{0,60}:?",
    re.I,
)


def understand(message: str) -> tuple[Clause, ...]:
    """The commands of a message in their order; at least one. Raises `TooMuch`."""
    text = clean(message)
    if bulleted := _bulleted(text):
        return (Clause(text, bulleted),)
    whole = understand_clause(text.replace("\n", " ") if "\n" in text else text)
    # "yes, delete all" is one answer; an "if" applies to all that follows.
    if isinstance(whole, Suppose | Talk | Yes | No | Undo):
        return (Clause(text, whole),)
    clauses: list[Clause] = []
    for separator, strong, part in _parts(text):
        clause = Clause(part, understand_clause(part))
        if clauses and not _stands_alone(clauses[-1], clause, separator, strong=strong):
            joined = clauses.pop().text + separator + part
            clause = Clause(joined, understand_clause(joined))
        clauses.append(clause)
    return tuple(clauses)


def _parts(text: str) -> list[tuple[str, bool, str]]:
    """Each part with the separator before it, and whether the separator is strong."""
    found = list(_SEPARATOR.finditer(text))
    if len(found) >= MOST_COMMANDS:
        raise TooMuch
    starts = [0, *(match.end() for match in found)]
    ends = [*(match.start() for match in found), len(text)]
    separators = [("", True), *((match[0], match["strong"] is not None) for match in found)]
    parts = (text[start:end] for start, end in zip(starts, ends, strict=True))
    return [(separator, strong, part) for (separator, strong), part in zip(separators, parts, strict=True)]


def _stands_alone(before: Clause, clause: Clause, separator: str, *, strong: bool) -> bool:
    """Whether a clause is a separate command rather than part of the one before it."""
    if strong or isinstance(clause.intent, Unknown):
        return strong
    if isinstance(clause.intent, Did):  # "I paid rent and called mom", but not "add milk and baked beans"
        return isinstance(before.intent, Did)
    match before.intent:
        case LeaveAlone():  # "don't add milk and delete bread"
            return "," in separator
        case Add(phrase=True):  # "remind me to call mom and check the oven"
            unmistakable = _UNMISTAKABLE.fullmatch(clause.text) is not None
            return unmistakable or isinstance(clause.intent, ListTasks | CountTasks | Undo)
    return True


def _bulleted(text: str) -> Add | None:
    """The lines below "add:", each an unchanged task title."""
    heading, *lines = text.split("\n")
    if not lines or not _HEADING.fullmatch(heading):
        return None
    if not heading.endswith(":") and not all(_BULLET.match(line) for line in lines):
        return None
    titles = (tidy(_BULLET.sub("", line)) for line in lines)
    return Add(tuple(title for title in titles if title))


# --- one clause -------------------------------------------------------------------------------------------------------

_OWN_COMMAND = (
    r"(?:add|delete|remove|rename|mark|see|show|list|view|undo|reopen|uncheck|put|create|cross off|tick off)"
)
_COURTESY = re.compile(
    r"(?:(?:please|pls|plz|kindly|hey|yo|nah|nope|hi|hello|ok|okay|yes|yeah|yep|sure|so|well|um|uh|hmm|oh|alright|right|great|cool|thanks|"
    r"thank you|also|then|now|just|and|actually|but|finally|next|first|quickly|again|wait|sorry|oops|no|assistant|bot|there|"
    r"everyone|dear|after that)[,.!:]* |"
    r"(?:can|could|would|will) (?:you|u) (?:please |kindly |just |also |maybe |possibly )*(?:help me (?:to )?)?|"
    r"(?:i want|i'd like|i would like|i need|i wish|i'd love) you to |would you mind |go ahead and |let's |let me |"
    rf"(?:i want|i'd like|i would like|i'd love|i need|i have|i wanted|i meant|help me|you need|you should)(?: to)? (?={_OWN_COMMAND} )|"
    r"i (?:think|guess) (?=(?:i|we) (?:should|need|have|must)\b)|it would be (?:great|nice) if you (?:could )?|do me a favou?r and |be so kind (?:as )?to )",
    re.I,
)
_MOST_COURTESIES = 12  # bounds the passes over a text of nothing but courtesies
_COURTESY_AFTER = re.compile(
    r",? (?:please|pls|plz|thanks(?: a lot| so much)?|thank you(?: so much| very much)?|thx|for me|would you|will you|could you|"
    r"can you|if you (?:can|could|please|don't mind|would)|ok|okay|right now|asap|now|then|my friend|buddy|bot)$",
    re.I,
)
_END = " .!?,;:…"

_LISTING_WORDS_TEXT = """
    show list display view see read print check give get tell let look at what what's whats which whats're are is
    do does did have has had i i've ive me my mine the a an all any of on in to for everything anything every each
    whole entire full complete completed done finished finish accomplished achieved open pending left remaining
    remains remain outstanding unfinished incomplete uncompleted undone active not still yet already so far today
    now current currently up again more else next task tasks todo todos to-do to-dos item items thing things list
    lists plate agenda chores stuff we we've need should must supposed that there's there here them those these it
    over out go through pull bring please can could you how many much number count total been got overview status
    work got ticked checked off and only just again full both summary latest must been get that're were was am
    supposed ones one with day
"""
_LISTING_WORDS = frozenset(_LISTING_WORDS_TEXT.split())
_LISTING_START_TEXT = """
    show list display view see read print check give get tell let look what what's whats which do have any
    anything how count number total task tasks todo todos to-do to-dos my completed done finished open pending
    remaining outstanding unfinished incomplete everything overview status agenda is are the current all whats go
    pull bring i what've uncompleted active chores next
"""
_LISTING_START = frozenset(_LISTING_START_TEXT.split())
# A question for the list has at least one of these; otherwise "what is it" would be one.
_LISTING_SUBJECT_TEXT = """
    ticked checked task tasks todo todos to-do to-dos list lists item items plate agenda chores left remaining remains pending
    open outstanding unfinished incomplete uncompleted undone completed done finished finish accomplished achieved
    complete everything do overview anything stuff next
"""
_LISTING_SUBJECT = frozenset(_LISTING_SUBJECT_TEXT.split())
_NO_LISTING = re.compile(
    rf"(?:i|i've|all|everything|it|that|the list|my list)(?: (?:is|are|'s|have|all|now|done|just|already))* {DONE}|"
    r"(?:i|i've) .*|complete .*|do(?: it| that| them| all| everything)?(?: now| again| please)?|(?:is|are) (?:it|that|this) .*|"
    r"everything|all|done|finished|what (?:is|are) (?:a |an |the )?(?:task|todo|to-do|item|list|agenda|status)s?|done .*|finished .*|"
    r"next|is .*(?:on|in) (?:my|the) list|get .* done|tell me",
    re.I,
)
_DONE_WORD = re.compile(
    rf"\b(?:{DONE}|finish|accomplished|achieved|have i (?:already )?do|did i (?:do|get))\b", re.I
)
_OPEN_WORD = re.compile(
    rf"\b(?:{OPEN}|left|remain|remains|not|still|yet|to do|to-do|next|need|should|must|supposed)\b", re.I
)
_ALL_WORD = re.compile(r"\b(?:all|everything|every|each|whole|entire|full|both|total)\b", re.I)
_COUNTING = re.compile(r"(?:.* )?(?:how many|how much|number of|count|total)\b.*", re.I)
_LISTING_TOKEN = re.compile(r"[a-z'-]+|[^\sa-z'.,!?:-]+", re.I)
_LONGEST_LISTING = 100  # characters; a question for a list is short


def understand_clause(text: str) -> Intent:
    """The intent of one clause; `Unknown` if no phrasing fits."""
    question = text.rstrip().endswith("?")
    bare = text.strip(_END)
    polite = _freed_of_courtesies(bare)
    intent = (
        _look_up(BEFORE_LISTING, bare)
        or _look_up(BEFORE_LISTING, polite)
        or _listing(bare)
        or _listing(polite)
        or (_look_up(AFTER_LISTING, bare) if _is_correction(bare) else None)
        or _look_up(AFTER_LISTING, polite)
    )
    if intent is None or (question and bare == polite and _only_tells(intent)):
        return Unknown(question=question)
    return intent


def _is_correction(text: str) -> bool:
    return text[:20].lower().startswith(("no,", "no ", "sorry", "wait", "oops", "not ", "nope"))


def _only_tells(intent: Intent) -> bool:
    """Whether the intent only reports a fact: as a question ("finished the report?") it does nothing."""
    return isinstance(intent, Change) and intent.verb == "complete"


def _freed_of_courtesies(text: str) -> str:
    for _ in range(_MOST_COURTESIES):
        freed = _COURTESY.sub("", text, count=1) if _COURTESY.match(text) else text
        freed = _COURTESY_AFTER.sub("", freed).strip(_END)
        if freed == text or not freed:
            break
        text = freed
    return text


def _look_up(phrasings: Rows, text: str) -> Intent | None:
    for pattern, build in phrasings:
        if (found := compiled(pattern).fullmatch(text)) and (intent := build(found)):
            return intent
    return None


def _listing(text: str) -> Intent | None:
    """Recognise a question for the list by its words: few words make very many such questions."""
    if len(text) > _LONGEST_LISTING:
        return None
    tokens = _LISTING_TOKEN.findall(text.lower())
    if not tokens or tokens[0] not in _LISTING_START or not _LISTING_WORDS.issuperset(tokens):
        return None
    about_tasks = tokens[0] in {"show", "list"} or not _LISTING_SUBJECT.isdisjoint(tokens)
    if not about_tasks or _NO_LISTING.fullmatch(text):
        return None
    if _COUNTING.fullmatch(text):
        return CountTasks(_listing_status(text, default="all"))
    return ListTasks(_listing_status(text, default="pending"))


def _listing_status(text: str, *, default: Status) -> Status:
    if _OPEN_WORD.search(text):
        return "pending"
    if _DONE_WORD.search(text):
        return "completed"
    return "all" if _ALL_WORD.search(text) else default
