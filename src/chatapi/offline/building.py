"""Makes an intent from the words that a row of the table of phrasings has found."""

import re
from collections.abc import Callable
from typing import Literal, TypeAlias

from chatapi.offline.intents import (
    Add,
    Change,
    Correct,
    Did,
    FindTasks,
    HowTo,
    Intent,
    Named,
    NotDone,
    Offer,
    Recall,
    SearchSaid,
    ShowTask,
    Suppose,
    Unknown,
    Verb,
)
from chatapi.offline.targets import parse_targets
from chatapi.offline.text import is_quoted, tidy
from chatapi.offline.titles import VERBS, Context, begins_with_stand_in, split_titles
from chatapi.offline.vocabulary import NOTE, ORDINAL, TASK

Found: TypeAlias = re.Match[str]
Build: TypeAlias = Callable[[Found], Intent | None]  # None: the row does not fit after all

_TIME = re.compile(
    r"\b(?:today|tonight|tomorrow|at \d|at noon|(?:on |next |this )?(?:mon|tues|wednes|thurs|fri|satur|sun)day|"
    r"next (?:week|month)|in (?:an?|\d+) (?:minute|hour|day|week)s?|every (?:day|week|morning|evening)|\d ?(?:am|pm))\b",
    re.I,
)
_NO_TITLE = re.compile(
    rf"(?:an?|the|another|some|new|more)? ?(?:(?:new|{ORDINAL}) )?(?:{TASK}|something|one)(?: {TASK}| more| else)?|"
    rf"another|an? {ORDINAL}|to|about|of|that|for",
    re.I,
)
_WITH_NOTE = re.compile(
    rf"(?P<title>.+?)(?:,? with (?:the |a )?|,? \(| - |, ?){NOTE}(?: of| that says| saying|:| -) ?(?P<note>.+?)\)?$",
    re.I | re.S,
)
_PLURAL = re.compile(r"[a-z ]{0,40}\b(?:tasks|items|to-?dos|things|reminders|entries)\b", re.I)
_CONDITION = re.compile(r" (?:if|unless|when|once|until) ", re.I)


def always(intent: Intent) -> Build:
    return lambda _found: intent


def to_add(context: Context) -> Build:
    def build(found: Found) -> Intent | None:
        text, description = found["what"], None
        if _NO_TITLE.fullmatch(text.strip()):
            return HowTo("add")
        if noted := _WITH_NOTE.match(text):
            text, description = noted["title"], tidy(noted["note"])
        titles = split_titles(text, context)
        phrase = context == "phrase"
        return Add(titles, description, phrase, phrase and bool(_TIME.search(text))) if titles else None

    return build


def to_add_stand_in(found: Found) -> Intent | None:
    """For "make one to buy cheese"; None if a thing is to be made."""
    return to_add("list")(found) if begins_with_stand_in(found["what"]) else None


def to_add_tasks(found: Found) -> Intent | None:
    """One task for "add a task to …", several for "add tasks: …"."""
    return to_add("list" if _PLURAL.match(found[0]) else "phrase")(found)


def to_remind_later(found: Found) -> Intent:
    """For "remind me tomorrow to …": the time goes into the title, because tasks have no time."""
    return Add((f"{tidy(found['what'])} {tidy(found['time'])}",), phrase=True, timed=True)


def to_offer(found: Found) -> Intent | None:
    titles = split_titles(found["what"], "list")
    return Offer(titles) if titles else None


def to_offer_errand(found: Found) -> Intent | None:
    """Offer to list an errand such as "buy stamps"; None if the assistant itself may be asked to do it."""
    verb, text = found["verb"].lower(), found[0]
    if verb not in VERBS or verb in _ASKED_OF_ASSISTANTS or _ABOUT_ME.search(text):
        return None
    return Offer(split_titles(text, "phrase"))


_ASKED_OF_ASSISTANTS_TEXT = """
    answer find give help listen play read say search sing speak talk tell translate try write
"""
_ASKED_OF_ASSISTANTS = frozenset(_ASKED_OF_ASSISTANTS_TEXT.split())
_ABOUT_ME = re.compile(r"\b(?:me|us|you)\b", re.I)


def to_change(verb: Verb) -> Build:
    def build(found: Found) -> Intent | None:
        groups = found.groupdict()
        what, value = groups.get("what") or "it", tidy(groups.get("new") or "") or None
        if verb == "rename" and value is None:
            return None
        if not is_quoted(what) and _CONDITION.search(what):
            return Suppose()
        return Change(verb, parse_targets(what), value)

    return build


def to_not_done(found: Found) -> Intent:
    return NotDone(parse_targets(found["what"] or "it"))


def to_not_done_errand(found: Found) -> Intent | None:
    """For "I didn't write the report"; None if it is not an errand."""
    return NotDone((Named(found["what"]),)) if found["verb"].lower() in VERBS else None


def to_show(found: Found) -> Intent:
    return ShowTask(parse_targets(found["what"]))


def to_search(found: Found) -> Intent | None:
    """None for "it" and the like, which are not words to look for."""
    text = _ARTICLE.sub("", tidy(found["what"]))
    return None if _STANDS_FOR.fullmatch(text) else SearchSaid(text)


_ARTICLE = re.compile(r"^(?:the|a|an|my|our|your) (?=.)", re.I)
_STANDS_FOR = re.compile(r"it|that|this|them|these|those|something|anything", re.I)


def to_find(found: Found) -> Intent:
    return FindTasks(tidy(found["what"]))


def to_correct(found: Found) -> Intent:
    return Correct(found["what"])


def to_recall_nth(who: Literal["user", "assistant"]) -> Build:
    return lambda found: Recall(who, _NTH[found["nth"].lower()])


_NTH = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4} | dict.fromkeys(
    ("last", "previous", "latest"), -1
)


def to_did(found: Found) -> Intent | None:
    """For "I bought the milk"; None if the word is not a known past tense."""
    said, what = found["verb"].lower(), found["what"]
    verbs = base_forms(said)
    # "put it away" is a command, "I put it away" a report.
    told = said not in verbs or found[0][:2].lower() in {"i ", "i'", "we"}
    return Did(verbs, tidy(what)) if verbs and told and not _CONDITION.search(what) else None


def how_to(found: Found) -> Intent:
    for topic, pattern in _HOW_TO_TOPICS:
        if pattern.search(found.string):
            return HowTo(topic)
    return Unknown(question=True)


_HOW_TO_TOPICS = tuple(
    (topic, re.compile(rf"\b(?:{pattern})\b", re.I))
    for topic, pattern in (
        ("model", r"models?|llm|api key|gpt|gemini|claude|openai|anthropic|configure|smarter"),
        ("undo", r"undo|revert|restore|take back|undelete"),
        ("reopen", r"re-?open|uncheck|untick|unmark|incomplete"),
        ("rename", r"rename|change|edit|update|modify|description"),
        ("delete", r"delet(?:e|ed|ing)|remov(?:e|ed|ing)|clear|erase|get rid"),
        ("complete", r"complet(?:e|ed|ing)|finish(?:ed)?|mark|tick|check off|cross off|done"),
        ("list", r"list|show|see my|view|display"),
        ("add", r"add(?:ed|ing)?|create|make a task|new task|remind|put"),
        ("help", r"use (?:this|you|it)|work with you|talk to you|this work|you work"),
    )
)

_IRREGULAR_TEXT = """
    bought:buy got:get paid:pay took:take made:make did:do went:go wrote:write sent:send read:read ran:run
    spoke:speak told:tell met:meet fed:feed built:build swept:sweep cut:cut brought:bring drove:drive found:find
    gave:give sold:sell taught:teach threw:throw hung:hang put:put set:set shut:shut sewed:sew grew:grow
    chose:choose saw:see sang:sing swam:swim hid:hide woke:wake left:leave dug:dig lent:lend
"""
_IRREGULAR = dict(pair.split(":") for pair in _IRREGULAR_TEXT.split())


def base_forms(past: str) -> tuple[str, ...]:
    """The verbs that a past tense may come from: "buy" for "bought", "plan" (or "planne") for "planned"; else none."""
    if past in _IRREGULAR:
        return (_IRREGULAR[past],)
    if not past.endswith("ed") or len(past) < 4:
        return ()
    return past[:-2], past[:-1], f"{past[:-3]}y", past[:-3]  # called, saved, tidied, planned
