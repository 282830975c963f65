"""The table of phrasings: the English that is understood, and its meaning. The first row that matches wins.

A pattern is matched against one whole clause (`understanding` has taken off "please", "could you" and the full stop).
To keep every match linear in the clause, no two open-ended parts of a pattern touch. Named groups mark the parts:
`what` (the task or tasks), `new` (a new title or text), `time`, `verb`, `nth`.
"""

import re
from functools import cache
from typing import TypeAlias

from chatapi.offline.building import (
    Build,
    always,
    how_to,
    to_add,
    to_add_stand_in,
    to_add_tasks,
    to_change,
    to_correct,
    to_did,
    to_find,
    to_not_done,
    to_not_done_errand,
    to_offer,
    to_offer_errand,
    to_recall_nth,
    to_remind_later,
    to_search,
    to_show,
)
from chatapi.offline.intents import (
    Change,
    HowTo,
    LeaveAlone,
    No,
    Nothing,
    Recall,
    RecallAll,
    RecallName,
    RecallTouched,
    Suppose,
    Talk,
    Undo,
    Unknown,
    Yes,
)
from chatapi.offline.small_talk import TOPICS
from chatapi.offline.targets import DONE, OPEN
from chatapi.offline.vocabulary import ADVERBS, I_HAVE, LIST, NOTE, ORDINAL, TASK

Rows: TypeAlias = tuple[tuple[str, Build], ...]

# fmt: off
_YES = (
    r"yes|yep|yeah|yup|ya|yea|y|sure|ok|okay|of course|do it|go ahead|go for it|please do|correct|right|exactly|"
    r"confirm(?:ed)?|affirmative|absolutely|definitely|certainly|sounds good|that's right|that's the one|that one|"
    r"i'm sure|i am sure"
)
_YES_AND = (  # may follow a yes without changing it, unlike "yes, but not the milk"
    r"please|delete|complete|do|it|that|this|one|all|them|everything|of|sure|i'm|am|i|the|tasks|task|go|ahead|add|for|me|"
    r"really|remove|clear|yes|definitely|absolutely|is|'s|thanks|right|correct"
)
ANSWERING: Rows = (
    (rf"{_YES}|(?:yes|yeah|yep|ok|okay|sure|confirm)(?:,? (?:{_YES_AND}))*", always(Yes())),
    ((r"no|nope|nah|n|no way|not now|not really|none(?: of (?:them|these|those|the above))?|neither(?: of them)?|"
     r"cancel(?: that| it)?|stop|abort|never ?mind|nvm|forget (?:it|that|about it)|skip(?: it)?|"
     r"leave (?:it|them|that)(?: alone| as (?:it is|is))?|keep (?:it|them|everything|all|that)|"
     r"no,? (?:thanks|thank you|please|wait|stop|cancel|don't|do not|keep|never mind|leave)"
     r"(?:,? (?:it|them|that|do|you|delete|anything|all|alone|everything))*"), always(No())),
)

_SAY = (r"(?:say|said|ask|asked|write|wrote|tell|told|type|typed|want|request|mention|mentioned)"
        r"(?: (?:to )?you)?(?: to do)?")
_SAID = r"(?:thing|message|question|sentence|request|words?)"
_NTH = r"(?P<nth>first|second|third|fourth|fifth|last|previous|latest)"
_TALKED = r"(?:say|said|talk(?:ed)?|speak|spoken?|discuss(?:ed)?|mention(?:ed)?|tell|told|write|written|wrote)"
_ABOUT = r"(?:about|of|on|regarding|concerning)"
_EVER = r"(?: ever| already| just| once| previously)*"
RECALLING: Rows = (
    ((rf"(?:remind me )?what (?:(?:did|have) (?:we|i|you)|(?:we|i|you)(?:'ve| have)?){_EVER} {_TALKED}(?: to)?(?: you| me| each other)? "
     rf"{_ABOUT} (?P<what>.+?)(?: before| earlier| last time| back then| so far)?"), to_search),
    (rf"(?:when|where) did (?:we|i|you){_EVER} {_TALKED}(?: {_ABOUT})? (?P<what>.+)", to_search),
    (rf"(?:did|have) (?:we|i|you){_EVER} {_TALKED}(?: anything| something)?(?: {_ABOUT}) (?P<what>.+)", to_search),
    ((r"(?:search|look|find)(?: through| in| for)? (?:all )?(?:(?:of )?(?:my|our|the|your) )?(?:past |old |earlier )?"
     r"(?:conversations?|chats?|messages?|history)(?: for| about| that mention| with)? (?P<what>.+)"), to_search),
    (r"search(?: for)? (?P<what>.+) in (?:all )?(?:my|our|the) (?:past |old |earlier )?(?:conversations?|chats?|messages?|history)",
     to_search),
    (rf"what (?:did i|was it i|have i|i) {_SAY} (?P<nth>first|last)(?: of all)?", to_recall_nth("user")),
    (rf"what(?: was|'s| is|'re| were)? (?:the |my )(?:very )?{_NTH} {_SAID}(?: (?:that )?i(?: have|'ve)?(?: ever)? {_SAY}.*)?",
     to_recall_nth("user")),
    ((rf"what did i (?:just |first )?{_SAY}(?: just now| right now| before| earlier)?|"
     r"(?:repeat|quote) (?:what i (?:just )?said|me|my (?:last )?message)"), always(Recall("user", -1))),
    ((r"what did you (?:just )?(?:say|tell me|answer|reply|write|do)(?: to me)?(?: just now| before)?|come again|pardon(?: me)?|"
     r"(?:can you )?(?:repeat|say)(?: (?:that|it|what you said))?(?: again)?"), always(Recall("assistant", -1))),
    (r"what did you (?:say|tell me|answer) (?P<nth>first|last)", to_recall_nth("assistant")),
    (rf"what(?: was|'s| is)? (?:the|that|your) {_NTH} (?:thing|message|answer|reply|response|words?)(?: (?:that )?you .*)?",
     to_recall_nth("assistant")),
    ((r"what (?:have|did) (?:we|i) (?:talk(?:ed)?|said|say|discuss(?:ed)?|spoken|speak)(?: about)?(?: so far| today| before)?|"
     r"(?:summari[sz]e|recap)(?: (?:this|our|the))?(?: conversation| chat)?|what (?:do|can) you remember(?: about .+)?|"
     r"do you remember (?:me|anything|what i said|(?:our|this) conversation)"), always(RecallAll())),
    (r"what(?: tasks?)? did i (?:just |last )?add(?: last| just now)?|what was the last (?:task|thing) i added",
     always(RecallTouched("add_task"))),
    (r"what(?: tasks?)? did (?:i|you) (?:just |last )?(?:delete|remove)(?: last| just now)?",
     always(RecallTouched("delete_task"))),
    (r"what(?: tasks?)? did (?:i|you) just (?:complete|finish|tick off)|what did i (?:complete|finish) last",
     always(RecallTouched("complete_task"))),
    (r"what(?: is|'s| was) my name|who am i|do you (?:know|remember) (?:my name|who i am)", always(RecallName())),
)

SMALL_TALK: Rows = tuple((pattern, always(Talk(topic))) for topic, pattern in TOPICS)

HYPOTHESES: Rows = (
    (r"(?:when(?:ever)?|once|after|as soon as|until|unless) (?:i|i'm|we|you|it|it's|the|my|he|she|they)\b.*", always(Suppose())),
    (r"(?:if|suppose|supposing|imagine|assuming|assume|pretend|let's say|say) (?:that )?(?:i|we|you|it|the|my|there)\b.*",
     always(Suppose())),
    (r"(?:what happens|what would happen|what will happen|would you|will you)\b.* (?:if|when)\b.*|what if\b.*",
     always(Suppose())),
    ((r"(?:i wish|if only|i would have|i could have|i should have|i was (?:going|about) to|i might|i may|maybe i|perhaps i|"
     r"i could|(?:i'm|i am) thinking (?:of|about)|i thought about)\b(?! use).*"), always(Suppose())),
    ((r"(?:how (?:do|can|could|would|should|does|did|to)|is it possible|is there (?:a|any) way|am i able|are you able|"
     r"do you know how|what(?:'s| is) the (?:best )?way|can i|could i|may i|should i|shall i|do i need to|"
     r"do you (?:support|let me|allow)|where do i|teach me|show me how|tell me how|explain how)\b.*"), how_to),
    (rf"(?:can|could|do) you (?:add|delete|remove|complete|rename|edit|list|change) {TASK}", how_to),
)

UNDOING: Rows = (
    ((r"(?:(?:oops|whoops|no|wait|sorry|actually)[,.!]* )*(?:undo|revert|reverse|roll ?back)(?: (?:that|it|this|the last (?:one|thing|action|change|command)|"
     r"what you (?:just )?did|my last (?:action|change)|everything you just did|the (?:delete|deletion|change|add)))?|"
     r"take (?:that|it) back|(?:put|bring|get) (?:it|that|them) back|ctrl[ +-]?z"), always(Undo())),
    ((r"i (?:didn't|did not) (?:mean|want) (?:to (?:do )?.+|that|this|it)|(?:that|it) was (?:a mistake|an accident|wrong|"
     r"not what i meant)|i made a mistake|my mistake|oops|whoops"), always(Undo())),
)

MARKING_UNDONE: Rows = (
    ((rf"(?:mark|set|flag|put|make|change|turn|update|move) (?P<what>.+?) (?:(?:as|to|=|into|back to)(?: being)? "
     rf"(?:not (?:yet )?{DONE}|{OPEN}|to-?do)|(?:not (?:yet )?{DONE}|undone|incomplete|unfinished))(?: again)?"),
     to_change("reopen")),
    (rf"(?:mark|flag) (?:as )?(?:not {DONE}|{OPEN}):? (?P<what>.+)", to_change("reopen")),
)

NEGATIONS: Rows = (
    ((r"(?:(?:do not|don't|dont|never)(?: let (?:me|us))?|(?:i|we) (?:must not|mustn't|can't|cannot|shouldn't|should not|"
     r"don't want to)) (?:forget|miss) (?:to |about )?(?P<what>.+)"), to_add("phrase")),
    ((r"(?:i|we)(?:'ve| have| had)? (?:didn't|did not|haven't|have not|hadn't|never|not|don't|do not)(?: yet)?(?: actually)? "
     r"(?:finish|finished|done|do|did|complete|completed)(?: with)? (?P<what>.+)"), to_not_done),
    (r"(?:i|we) (?:didn't|did not)(?: actually| really| yet)? (?P<what>(?P<verb>[a-z]+) .+?)(?: yet| after all)?", to_not_done_errand),
    (r"(?:i'm |i am |we're )?not (?:yet )?(?:done|finished)(?: yet)?(?: (?:with|doing) (?P<what>.+))?", to_not_done),
    ((r"(?:(?:no|nope),? )?(?:do not|don't|dont|never|you should(?:n't| not)|you must(?:n't| not)|you need not|no need to|"
     r"stop|avoid|rather not|i (?:don't|do not) (?:want|need)|i (?:didn't|did not|haven't|have not|won't|will not|wouldn't|"
     r"can't|cannot|couldn't|never)|without)\b(?! (?:care|know|understand|like)).*"), always(LeaveAlone())),
    ((rf"(?P<what>.+?)(?:(?:'s| is| was| are|)(?: still)? not(?: actually| really)?(?: yet)? {DONE}|"
     rf"(?:'s| is| was| are) still {OPEN}|(?: isn't| wasn't| aren't)(?: actually| really)?(?: yet)? {DONE})"
     r"(?: yet| after all)?"), to_not_done),
)

CORRECTING: Rows = (
    (r"(?:sorry,? |wait,? |no[,.]? |oops,? )*(?:i|what i) (?:meant|mean|was talking about|wanted)(?: to say| was)? (?P<what>.+)",
     to_correct),
    ((r"(?:no|nope|wrong|wait)[,.]? (?:wrong (?:one|task)[,.]? )?(?:not that(?: one)?[,.]? )?(?:it's |it was |"
     r"make (?:it|that) |rather )?(?P<what>(?:the |task |#)[^,]+)"), to_correct),
    (r"(?:no,? )?not [^,]+?, ?(?:but )?(?P<what>[^,]+)", to_correct),
    (r"(?:no,? )?(?:it's|sorry,?) (?P<what>.+?) instead", to_correct),
    (r"(?P<what>(?!(?:add|delete|remove|complete|mark|rename|show|remind|put|make|call|i|what) ).+?),? (?:instead|rather)", to_correct),
)

_ONE = r"(?:it|that|this|that one|the .+? (?:one|task)|(?:task|number|no\.?|item|#) ?#?\d+)"
_TITLE_OF = r"(?:(?:the )?(?:title|name|text|wording) (?:of|on|for) )?"
_SET = r"(?:update|change|set|edit|make|replace)"
RENAMING: Rows = (
    (rf"(?:remove|delete|clear|erase|drop) (?:the )?{NOTE}(?: (?:of|from|on|for) (?P<what>.+))?", to_change("describe")),
    (rf"{_SET} (?:the )?{NOTE} (?:of|on|for|in) (?P<what>.+?)(?: (?:to|as|with) |: ?)(?P<new>.+)", to_change("describe")),
    (rf"{_SET} (?P<what>.+?)'s {NOTE} (?:to|as|with) (?P<new>.+)", to_change("describe")),
    (rf"{_SET} (?:the |its )?{NOTE} (?:to|as)(?::| ) ?(?P<new>.+)", to_change("describe")),
    ((rf"(?:add|attach|put|write|leave|make) (?:a |the |another |this )?{NOTE} (?:to|for|on|about) (?P<what>[^:]+?)"
     r"(?:: ?| saying(?: that)?:? | that says:? | that | - )(?P<new>.+)"), to_change("describe")),
    ((rf"(?:add|attach|put|write) (?:a |the |another |this )?{NOTE}(?: |: ?)(?:saying |that says )?(?P<new>[^:]+?) "
     rf"(?:to|for|on) (?P<what>{_ONE}|the .+)"), to_change("describe")),
    (r"(?:add|attach) (?P<new>.+) to (?P<what>(?:task|item|number|#) ?#?\d+)", to_change("describe")),
    (r"describe (?P<what>.+?) as (?P<new>.+)", to_change("describe")),
    (rf"{NOTE} (?:on|for) (?P<what>[^:]+): ?(?P<new>.+)", to_change("describe")),
    ((rf"(?:rename|retitle|reword|change|edit|update|modify|correct|turn) {_TITLE_OF}(?P<what>.+?)(?:'s (?:title|name))? "
     r"(?:to|into|as)(?: be| say| read)?:? (?P<new>.+)"), to_change("rename")),
    (r"replace (?P<what>.+?) (?:with|by) (?P<new>.+)", to_change("rename")),
    (rf"(?:make|call|set) (?P<what>{_ONE})(?: into| say| to)? (?P<new>.+?)(?: instead)?", to_change("rename")),
    (rf"(?P<what>{_ONE}) should (?:be called|be|say|read) (?P<new>.+)", to_change("rename")),
    (rf"add (?:it|that|this) as (?:a |the |its )?{NOTE}|(?:rename|retitle|edit|modify|change|update) .+", always(HowTo("rename"))),
)

MARKING_DONE: Rows = (
    (r"(?:i'm |i am |i've |i have |i |we're )?(?:all )?(?:done|finished|completed)(?: it all)?", always(Change("complete", (Nothing(),)))),
    (rf"(?:mark|check|tick|cross|strike) (?P<what>.+?) off(?: (?:as|to) {DONE}|(?: (?:on|from|of))? {LIST})?",
     to_change("complete")),
    ((rf"(?:mark|set|flag|put|make|change|turn|update|move|check|tick|get|consider|call) (?P<what>.+?) "
     rf"(?:(?:as|to|=|is|are)(?: being)? )?{DONE}(?: on {LIST})?"), to_change("complete")),
    (rf"(?:mark|flag|set) (?:as )?(?:{DONE}):? (?P<what>.+)", to_change("complete")),
)

COMPLETING: Rows = (
    ((r"(?:complete|finish|tick(?: off)?|check(?: off)?|cross(?: off| out)?|strike(?: off| out| through)?|close|resolve|"
     r"accomplish|mark) (?P<what>.+)"), to_change("complete")),
    ((rf"(?:{I_HAVE} )?{ADVERBS}(?:finished|completed|done|accomplished|ticked off|checked off|crossed off)"
     r"(?: with| doing)?:? (?P<what>.+)"), to_change("complete")),
    (r"(?:i|we) (?:just |already |finally |also )*did (?P<what>.+)", to_change("complete")),
    (rf"(?:{I_HAVE} )?{ADVERBS}(?:taken care of|took care of|dealt with|sorted out|wrapped up) (?P<what>.+)",
     to_change("complete")),
)

REOPENING: Rows = (
    ((r"(?:re-?open|un-?check|un-?tick|un-?mark|un-?complete|uncross|restart|reactivate|restore|reinstate|recover|undelete|"
     r"bring back) (?P<what>.+)"), to_change("reopen")),
    (r"(?:bring|put) (?P<what>.+) back(?: on(?: my| the)? list)?", to_change("reopen")),
)

DELETING: Rows = (
    (rf"(?:take|pull) (?P<what>.+?) (?:off|out of|from)(?: of)? {LIST}", to_change("delete")),
    (r"take (?P<what>.+) off", to_change("delete")),
    ((r"(?:delete|remove|erase|discard|drop|scratch|trash|clear(?: out| up| away)?|clean(?: out| up)|wipe(?: out)?|purge|empty|"
     r"get rid of|throw (?:away|out)|dismiss|del|rm|eliminate) (?P<what>.+)"), to_change("delete")),
    (r"cancel (?P<what>(?:the )?(?:task|item|number|#) ?#?\w+)", to_change("delete")),
    (r"forget (?:about )?(?P<what>(?!me\b|it$|that$).+)", to_change("delete")),
    (r"(?:i|we) no longer (?:need|have)(?: to)? (?P<what>.+)", to_change("delete")),
    (r"delete|remove|erase", always(Change("delete", (Nothing(),)))),
)

_NEW_TASK = rf"(?:(?:a|an|another|one more|the|this|these|two|three|following|some|my|{ORDINAL}) )*(?:new )?{TASK}"
_MAKE_TASK = (rf"(?:make|start|set up|log|enter|set|insert|give me|put in)(?: me)? (?:an?|another|one more) (?:new )?{TASK}")
_ON_LIST = rf"(?:on|onto|to|in|into) {LIST}"
ADDING: Rows = (
    (rf"(?:add|put|include|insert|write|jot)(?: down)? {_ON_LIST}(?::| -|,|) (?P<what>.+)", to_add("list")),
    (rf"(?:add|put|include|insert|place|write|jot|note|stick|throw|chuck|toss|pop|get|append|enter|list) (?:down )?(?P<what>.+?) {_ON_LIST}",
     to_add("list")),
    (r"(?:add|put|write down|note)(?: the)? (?:following|these|those|this)[^:]{0,40}: ?(?P<what>.+)", to_add("list")),
    (rf"{LIST}:? needs (?P<what>.+)", to_add("list")),
    (rf"make (?P<what>.+) an? (?:new )?{TASK}", to_add("phrase")),
    ((rf"(?:(?:add|create|new)(?: me| us)? {_NEW_TASK}|{_MAKE_TASK})(?: {_ON_LIST})?(?: to| for me to| for| called| named| titled| about| -|"
     r" that says| saying| which says| of)?(?::| ) ?(?P<what>(?!#?\d+$).+)"), to_add_tasks),
    (r"(?:new(?: task| to-?do| item)|new(?=:)|task|to-?do|to do|reminder|note(?: to self)?|memo)(?:: ?| - | )(?P<what>(?!#?\d+ (?:is|was|done|should)\b).+)",
     to_add("phrase")),
    (r"(?:(?:add|create|make|put in|write|log)(?: me| us)?(?: also)? )?(?P<what>.+)", to_add_stand_in),
    (r"(?:add|append|jot down|write down|note down|make a note(?: of| to| that)?):? (?P<what>.+)", to_add("list")),
    ((r"remind (?:me|us) (?P<time>(?:today|tonight|tomorrow|later|soon|next \w+|on \w+|at [\w:.]+(?: ?[ap]m)?|in \w+ \w+)"
     r"(?: (?:morning|afternoon|evening|night|at [\w:]+(?: ?[ap]m)?))?) (?:to|that i (?:need|have) to|about) (?P<what>.+)"),
     to_remind_later),
    ((r"remind (?:me|us)(?: (?:to|about|of|that i (?:need|have|must) to|that|"
     r"for))?:? (?P<what>.+)"), to_add("phrase")),
    ((r"(?:remember(?: that i (?:need|have) to)?|make sure(?: that)? i|see to it that i|note that i (?:need|have) to)(?: to)? "
     r"(?P<what>.+)"), to_add("phrase")),
    (r"add|new task|add (?:a |an? new )?(?:task|item|to-?do)", always(HowTo("add"))),
)

_NEED = r"(?:need to|have to|must|got to|gotta|should|ought to|(?:am|'m) supposed to)"
_REALLY = r"(?:'ve| have| really| also| still| just| definitely)*"
WISHES: Rows = (
    (rf"(?:i|we){_REALLY} {_NEED} (?:know|understand|ask|say|think|talk to (?:a|you)|admit)\b.*", always(Unknown())),
    (rf"(?:i|we){_REALLY} {_NEED} (?:go|run|leave|sleep|dash|be off)", always(Talk("bye"))),
    (rf"(?:(?:i|we){_REALLY} )?{_NEED}(?: (?:also|still|remember to|not forget to))? (?P<what>.+)", to_add("phrase")),
    ((r"(?:i|we)(?:'m| am|'re| are|'d|'ll|'ve| have)?(?: also| still| really| just)* (?:need|require|want to|would like(?: to)?|"
     r"like(?: to)?|plan to|planning to|going to|out of|run out of|ran out of|low on|running out of|intend to|will|gonna|wanna|"
     r"could use) (?P<what>.+)"), to_offer),
)

_NUMBERED = r"(?:(?:task|item|number|no\.?|#) ?#?\d+|#\d+)"
_NTH_TASK = r"(?:the )?(?:first|second|third|fourth|fifth|last) (?:one|task|item)"
_ANY = r"(?: (?:any|anything|all|a|an|the|my|every|some|something))*"
LOOKING: Rows = (
    (rf"(?:is|was|are) (?P<what>.+?) (?:already |still |now ){{0,3}}(?:{DONE}|{OPEN})", to_show),
    (r"(?:did|have|has) i (?:already |ever )?(?:finish(?:ed)?|completed?|do|done) (?P<what>.+?)(?: yet| already)?", to_show),
    ((rf"(?:show|open|view|see|display|read|what's|what is|what was)(?: me)? (?P<what>(?:the )?{_NUMBERED}|{_NTH_TASK})"
     r"(?: about| again)?"), to_show),
    ((rf"(?:(?:give me|show me|show|what are|what're|what is|what's|see) )?(?:the )?(?:more )?{NOTE} (?:of|on|for|about) "
     r"(?P<what>[^:]+)"), to_show),
    (r"tell me (?:more )?about (?P<what>.+)", to_show),
    ((rf"(?:what does|what do) (?P<what>(?:the )?{_NUMBERED}|it|that|{_NTH_TASK}|the .+ task)"
     r" (?:say|mean)"), to_show),
    ((rf"(?:do i have|have i got|have i|is there|are there|did i add|is|was|are){_ANY}(?: {TASK})?(?: about| like| with)? "
     rf"(?P<what>.+?) (?:already )?(?:on|in|to) {LIST}(?: already| yet)?"), to_find),
    ((rf"(?:do i have|is there|are there|have i got|show(?: me)?|list|find|search(?: for)?|look for|get)(?: me)?{_ANY} (?:{TASK}|anything|something) "
     r"(?:about|like|with|containing|named|called|for|mentioning|that (?:mentions?|says?|contains?)|related to|to do with) "
     r"(?P<what>.+)"), to_find),
    (rf"(?:find|search(?: (?:for|{LIST}(?: for)?))?|look for|look up) (?P<what>.+?)(?: in {LIST})?", to_find),
    (r"(?:what|how) about (?P<what>.+)", to_show),
    (rf"(?P<what>{_NUMBERED}|{_NTH_TASK})", to_show),
)

QUESTIONS: Rows = (
    ((r"(?:what|what's|who|who's|whose|when|where|where's|why|how|how's|which|is|are|was|were|do|does|did|can|could|will|would|"
     r"should|am|has)\b.*"), always(Unknown(question=True))),
)

TELLING: Rows = (
    ((rf"(?P<what>.+?)(?:'s| is| are| was| has been| have been| got| were|:| -|,|) (?:now |already |all |finally ){{0,3}}"
     rf"(?:{DONE}|✓|✔|✅|☑|taken care of)"), to_change("complete")),
    (rf"(?:{I_HAVE} )?{ADVERBS}(?P<verb>[a-z]+) (?P<what>.+)", to_did),
    (r"(?P<verb>[a-z]+) .+", to_offer_errand),
)
# fmt: on


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """When it is first tried: to compile all of them takes a thirtieth of a start."""
    return re.compile(pattern, re.I | re.S)


# A question for the list is recognised by its words alone (`listing`). The rows of the first table look like such a
# question, so they come before it; rows of the second would match such a question, so they come after.
BEFORE_LISTING: Rows = (*ANSWERING, *RECALLING, *SMALL_TALK, *HYPOTHESES)
AFTER_LISTING: Rows = (
    *UNDOING,
    *MARKING_UNDONE,
    *NEGATIONS,
    *CORRECTING,
    *LOOKING,
    *MARKING_DONE,
    *RENAMING,
    *COMPLETING,
    *REOPENING,
    *DELETING,
    *ADDING,
    *WISHES,
    *QUESTIONS,
    *TELLING,
)
