"""Titles from what was said: the first words of a message without its courtesies, and what a model has proposed, tidied."""

import re

from chatapi.text import storable

MAX_TITLE = 60  # characters
LOOKED_AT = 500  # characters of a message: bounds the work of each turn

# Greetings and courtesies at the beginning of a message, in the languages that are written most here. What they introduce is
# what the conversation is about.
_COURTESIES = "|".join(
    [
        r"hi|hello|hey|dear \w+|good (?:morning|afternoon|evening|day)|ok(?:ay)?|so|well|thanks|thank you|sorry|excuse me",
        r"please|pls|(?:can|could|would|will) you|(?:can|could|may) i|help me(?: to)?|i was wondering if(?: you could)?",
        r"i(?: would|'d) like(?: you)? to|i(?: want| need)(?: you)? to",
        r"hallo|guten (?:tag|morgen|abend)|bitte|(?:kannst|könntest|würdest) du(?: mir)?|(?:können|könnten|würden) sie(?: mir)?|ich möchte",
        r"bonjour|salut|bonsoir|s'il (?:te|vous) pla[iî]t|(?:peux|pourrais)-tu|(?:pouvez|pourriez)-vous|tu peux|vous pouvez",
        r"hola|buen[oa]s (?:días|tardes|noches)|por favor|(?:puedes|podrías|puede|podría)|me gustaría",
        r"ciao|buongiorno|per favore|(?:puoi|potresti)|vorrei|olá|oi|bom dia|(?:você pode|poderia)|gostaria de",
        r"goedemorgen|alsjeblieft|alstublieft|(?:kun|kan|zou) je|hej|snälla|kan du|привет|здравствуйте|пожалуйста",
        r"cześć|dzień dobry|proszę|czy możesz|merhaba|lütfen|你好|请|請|こんにちは|안녕하세요|नमस्ते|कृपया|مرحبا|من فضلك",
    ]
)
COURTESY = re.compile(rf"(?:[¿¡\s]*(?:{_COURTESIES})(?![\w-])[\s,.!:;–—-]*)+", re.I)
# What a line of Markdown or a quotation begins with.
OPENING = re.compile(r"^[\s#>*_`\"'“”„«»‹›\-–—•]+")
# The end of a sentence, with room before it: "No. 5" is none.
SENTENCE = re.compile(r"(?<=.{12})(?:[.!](?=\s)|\?(?=\s)|[。！？])", re.S)
LABEL = re.compile(r"^(?:title|titel|titre|título|titolo)\s*[:：]\s*", re.I)


def first_words(message: str) -> str:
    """A title from a message that is not blank."""
    text = storable(message.lstrip()[:LOOKED_AT])
    courtesy = COURTESY.match(text)
    # What was asked for in the form of a question is none without it.
    asked = (_tidied(text[courtesy.end() :]) or "").rstrip("?？ ") if courtesy else ""
    return asked or _tidied(text) or _shortened(" ".join(text.split()))


def proposed(answer: str) -> str | None:
    """A title from a model's answer; None if it gave none."""
    lines = [line for line in storable(answer[:LOOKED_AT]).splitlines() if OPENING.sub("", line)]
    return _tidied(LABEL.sub("", OPENING.sub("", lines[0]), count=1)) if lines else None


def _tidied(text: str) -> str | None:
    text = OPENING.sub("", " ".join(text.replace("**", "").replace("`", "").split()))
    if end := SENTENCE.search(text):
        text = text[: end.end()]
    text = _shortened("".join(each for each in text if each.isprintable())).strip(" .,;:!*_`\"'“”„«»‹›")
    first = text[:1].upper()
    return (first if len(first) == 1 else text[0]) + text[1:] if text else None


def _shortened(text: str) -> str:
    """At most `MAX_TITLE` characters, whole words if the text has any."""
    if len(text) <= MAX_TITLE:
        return text
    room = text[: MAX_TITLE - 1]
    whole = room[: room.rfind(" ")] if " " in room[MAX_TITLE // 2 :] else room
    return whole.rstrip(" ,;:.-–—") + "…"
