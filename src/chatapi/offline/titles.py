"""Splits the words after "add" into titles: decides whether an "and" separates two or belongs to one."""

import itertools
import re
from typing import Literal, TypeAlias

from chatapi.offline.text import is_quoted, tidy
from chatapi.offline.vocabulary import LIST, ORDINAL, TASK

# How certainly the words are a list. "list" ("add … to my list", "add …"): split short things at "and".
# "phrase" ("remind me to …"): one task, unless it is a row of errands with commas.
Context: TypeAlias = Literal["list", "phrase"]

_COMMA = re.compile(r"(?<=\") (?=\")| ?[,;] (?:(?:and|plus|&) )?|,(?=[^\s\d])")
_AND = re.compile(r" (?:and(?: also)?|plus|&|as well as) ", re.I)
_ARTICLE = re.compile(r"^(?:a|an|the|some|any|also|another) (?=\S)")
_BESIDES = re.compile(rf" (?:too|as well|again|instead|also|(?:on|onto|to) {LIST})$", re.I)
_LINKING = re.compile(r"\b(?:with|for|of|between|to|at|from|about|on|in|by|via|like|vs|versus|into)\b", re.I)

# Verbs that begin a task. After one of them "milk and bread" is one errand, not two tasks.
_VERBS_TEXT = """
    answer apply arrange ask attend backup bake bathe book borrow bring brush build buy call cancel change charge
    check choose clean collect complete contact cook create cut deliver deploy design discuss do donate download
    draft dry dust eat edit email empty exercise feed file fill find finish fix fold follow get give go grab groom
    hang help hire install invite iron kiss learn listen look mail make measure meet merge message mop move mow
    open order organise organize pack paint pay phone pick plan plant play post practice prepare print pull push
    put read reboot record register renew rent repair replace reply report request research reserve return review
    rinse run scan schedule see sell send set shave ship sign sing skype sort speak start stop study submit sweep
    swim switch take talk teach tell test text thank throw tidy train translate trim try turn unpack update
    upgrade upload vacuum visit walk wash watch water wipe wrap write
"""
VERBS = frozenset(_VERBS_TEXT.split())

# Two nouns that are one thing.
_PAIRS_TEXT = """
    mac+cheese macaroni+cheese salt+pepper fish+chips ham+cheese gin+tonic rum+coke bed+breakfast lost+found
    pros+cons terms+conditions profit+loss black+white rock+roll mom+dad mum+dad butter+jelly arts+crafts
    cookies+cream biscuits+gravy chips+salsa chips+dip burger+fries washer+dryer research+development
    health+safety trial+error nuts+bolts questions+answers oil+vinegar jack+jill tom+jerry spaghetti+meatballs
    wear+tear safety+security drag+drop milk+cookies pen+paper shampoo+conditioner
"""
PAIRS = frozenset(tuple(pair.split("+")) for pair in _PAIRS_TEXT.split())

# "one to buy cheese", "another called tea", "something to remind me to call mom": a stand-in for a task, and its title.
# An errand must follow "to" ("something to eat" is a thing); "for" gives a title after "one", not after "something".
_ONE = (
    rf"(?:(?:an?|yet) )?(?:(?:new|{ORDINAL}|another|one more|one|1|two|three|2|3) )*"
    rf"(?:ones?|1|two|three|2|3|more|another|{ORDINAL}|{TASK})(?: more)?"
)
_SOMETHING = r"something(?: else| more)?"
_LINK = (
    r"(?: (?:called|named|titled|saying|that says?|which says?)(?::| )|: ?| to remind (?:me|us) (?:to|of|about) |"
    rf"(?: for (?:me|us))? to (?=(?:{'|'.join(sorted(VERBS))}) \S))"
)
_STAND_IN = re.compile(
    rf"^(?:{_ONE}(?:{_LINK}| (?:for|about) (?!(?:me|us)$))|{_SOMETHING}{_LINK})(?=\S)", re.I
)
LONGEST_THING = 4  # words; a longer text is a sentence rather than a thing on a list


def split_titles(text: str, context: Context) -> tuple[str, ...]:
    """The titles in a text; a quotation is one title, unchanged. Empty if there are none."""
    if is_quoted(text.strip()):
        return (tidy(text),)
    parts = _things(text)
    things = [_STAND_IN.sub("", part, count=1) for part in parts]
    is_row = len(things) > 2 and all(map(_is_errand, things))
    says_itself = any(map(begins_with_stand_in, parts[1:]))  # the parts show where the next title begins
    if not (says_itself or (is_row if context == "phrase" else _is_list(things))):
        things = [_STAND_IN.sub("", text.strip(), count=1)]
    titles = (tidy(_bare(thing)) for thing in things)
    return tuple(title for title in titles if title)


def begins_with_stand_in(text: str) -> bool:
    """Whether the text begins with a stand-in for a task, as "one to buy cheese" does."""
    return _STAND_IN.match(text) is not None


def _bare(thing: str) -> str:
    """A thing without its article and without words that do not name it ("bread too")."""
    return _ARTICLE.sub("", _BESIDES.sub("", thing.strip()), count=1)


def _things(text: str) -> list[str]:
    return [thing.strip() for part in _COMMA.split(text) if part.strip() for thing in _split_at_and(part)]


def _split_at_and(part: str) -> list[str]:
    """Split at each "and" between two things of a list, and at none inside a thing."""
    first, *others = _AND.split(part)
    things = [first]
    for other in others:
        if _belong_together(things[-1], other):
            things[-1] = f"{things[-1]} and {other}"
        else:
            things.append(other)
    return things


def _belong_together(left: str, right: str) -> bool:
    if is_quoted(left) or is_quoted(right) or begins_with_stand_in(right):
        return False
    names = left[:1].isupper() and right[:1].isupper() and not (left.isupper() and right.isupper())
    pair = (left.rpartition(" ")[2].casefold(), right.partition(" ")[0].casefold())
    return names or pair in PAIRS or bool(_LINKING.search(left))


def _is_errand(thing: str) -> bool:
    """Whether a thing is a verb and its object."""
    verb, _, rest = thing.strip().partition(" ")
    return bool(rest) and verb.casefold() in VERBS


def _is_list(things: list[str]) -> bool:
    if not all(is_quoted(each) or _is_errand(each) or len(each.split()) <= LONGEST_THING for each in things):
        return False
    return all(_may_follow(left, right) for left, right in itertools.pairwise(things))


def _may_follow(left: str, right: str) -> bool:
    if is_quoted(left):
        return True
    if _is_errand(left):  # "buy milk and bread" is one errand, "buy milk and call mom" two
        return _is_errand(right)
    return not (left.strip().casefold() in VERBS and _is_errand(right))  # "wash and dry the car"
