"""The offline assistant: understands each turn, carries it out, and reports the outcome."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from itertools import takewhile

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from chatapi.agent.ports import (
    AgentEvent,
    File,
    HistoryMessage,
    ModelAddress,
    OptionName,
    Prompt,
    SummaryMessage,
    TextDelta,
    ToolCall,
    Tools,
    Wait,
)
from chatapi.offline.changes import Changes
from chatapi.offline.desk import CannotRead, Desk, NeedsApproval
from chatapi.offline.files import described, files_meant, is_picture, titles_in, wants_them_added
from chatapi.offline.intents import (
    Add,
    Change,
    Correct,
    CountTasks,
    Did,
    FindTasks,
    HowTo,
    Intent,
    LeaveAlone,
    ListTasks,
    Named,
    No,
    NotDone,
    Offer,
    Recall,
    RecallAll,
    RecallName,
    RecallTouched,
    SearchSaid,
    ShowTask,
    Suppose,
    Talk,
    Undo,
    Unknown,
    Yes,
)
from chatapi.offline.known import touched_by
from chatapi.offline.questions import Action, ask_to_add, ask_to_allow, asks_for_approval, last_question
from chatapi.offline.recollection import Recollection
from chatapi.offline.remembering import Remembering
from chatapi.offline.searching import Searching
from chatapi.offline.showing import Showing
from chatapi.offline.small_talk import ANSWERS, HOW_TO, NOT_ANSWERED, NOT_UNDERSTOOD, SUPPOSED
from chatapi.offline.targets import parse_targets
from chatapi.offline.text import pieces, quote, tidy
from chatapi.offline.understanding import MOST_COMMANDS, Clause, TooMuch, understand

NO_ANSWER = "I couldn't take that as an answer to my question, so I changed nothing."
NO_LIST = "I found no list there, so I added nothing."
NO_APPROVAL = (
    'A "yes" in the chat is no approval. Tell me again what to do, and then allow it where you are asked.'
)
NOTHING_DONE = "OK, I changed nothing."


class NoList(Exception):
    """The files that are meant have no list in them."""


class OfflineAgent:
    """Answers when no model is configured: simple English about tasks, by rules, without network or memory."""

    models: Sequence[ModelAddress] = ()  # it asks none
    # To an assistant that follows rules, these make no difference.
    options: Collection[OptionName] = (
        "instructions",
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "seed",
    )

    @property
    def model(self) -> str:
        return "offline"

    async def check_files(self, files: Sequence[File]) -> None:
        """Takes every file; raises what reading a PDF without text raises."""
        for file in files:
            if not is_picture(file):
                await file.text()

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        """The answer word by word; it reports what the tools refuse, and raises what they raise."""
        if prompt.history and isinstance(prompt.history[0], SummaryMessage):  # by a model, before
            prompt = replace(prompt, history=prompt.history[2:])
        turn = Turn(prompt, tools)
        async for text in turn.answer():
            for piece in pieces(text):
                await asyncio.sleep(0)  # lets the stream send each word before the next
                yield TextDelta(piece)
        if turn.left is not None:
            yield Wait(msgspec.to_builtins(turn.left))


class Left(Struct, frozen=True):
    """Where a turn waits for approvals: at which command, what was said and called before it, and what it has called.

    `asked` is what has been said on the way to this command's answer.
    """

    place: int = 0
    said: str = ""
    asked: str = ""
    before: Sequence[ToolCall] = ()
    calls: Sequence[ToolCall] = ()


class Turn:
    """One message on its way to an answer. `_said` and the desk's calls grow, so that a later command sees them.

    `left` is where the turn waits, if it does.
    """

    def __init__(self, prompt: Prompt, tools: Tools) -> None:
        self._prompt = prompt
        resumed = prompt.resumed
        start = Left() if resumed is None else msgspec.convert(resumed.state, Left)
        self._desk = Desk(tools, start.before, start.calls, () if resumed is None else resumed.approved)
        self._place, self._said, self._asked = start.place, start.said, start.asked
        self.left: Left | None = None

    async def answer(self) -> AsyncIterator[str]:
        """The answer, command by command; it ends with the first question."""
        try:
            clauses = await self._understood()
        except TooMuch:
            yield f"That's a lot at once. I follow up to {MOST_COMMANDS} commands in one message, so I did nothing yet."
            return
        except NoList:
            yield NO_LIST
            return
        if self._said and self._prompt.resumed is None:  # of the message's files
            yield self._said
        while self._place < len(clauses):
            place, clause, before = self._place, clauses[self._place], len(self._desk.calls)
            text = await self._respond(clause)
            if self._desk.wishes:
                for later in takewhile(_is_asked_about_together, clauses[place + 1 :]):
                    await self._respond(later)
                request = ask_to_allow(self._desk.wishes)
                request = f"\n{request}" if self._said or self._asked else request
                yield request
                self._asked += request
                calls = await self._desk.ask(before)
                if any(call.waits for call in calls):
                    self.left = Left(place, self._said, self._asked, tuple(self._desk.calls), calls)
                    return
                continue
            if len(clauses) > 1 and text == NOT_UNDERSTOOD:
                text = f"I didn't understand {quote(clause.text)}."
            if last_question(text) and place + 1 < len(clauses):
                text += f"\nI'll wait with the rest: {quote(' '.join(clause.text for clause in clauses[place + 1 :]))}"
                clauses = ()
            text = f"\n{text}" if self._said or self._asked else text
            self._said, self._asked = f"{self._said}{self._asked}{text}", ""
            self._place += 1
            yield text

    async def _understood(self) -> Sequence[Clause]:
        """What the message says, once its files have been described; raises `TooMuch` and `NoList`."""
        message = self._prompt.message
        if (meant := files_meant(self._prompt)) and wants_them_added(message):
            if not (titles := await titles_in(meant)):
                raise NoList
            return [Clause(message, Add(tuple(titles)))]
        if self._prompt.files and self._prompt.resumed is None:
            self._said = await described(self._prompt.files)
        return understand(message) if message.strip() or not self._prompt.files else ()

    @property
    def _recollection(self) -> Recollection:
        now = HistoryMessage(role="assistant", content=self._said, tool_calls=tuple(self._desk.calls))
        return Recollection([*self._prompt.history, now] if self._said else self._prompt.history)

    async def _respond(self, clause: Clause) -> str:
        try:
            return await self._answered(clause) or await self._done(clause.intent)
        except CannotRead as problem:
            return f"I couldn't read your list: {problem}"
        except NeedsApproval:
            return ""

    async def _answered(self, clause: Clause) -> str | None:
        """The reply if the clause answers a question of the last turn, else None."""
        if self._said or (asked := self._recollection.question()) is None:
            return None if self._said else self._told_to_approve(clause.intent)
        question, candidates = asked
        changes = Changes(self._recollection, self._desk)
        match clause.intent:
            case Yes():
                return await changes.confirm(question, candidates)
            case No() | LeaveAlone():
                return NOTHING_DONE
            case Correct(text=text) if question.action:
                chosen = await changes.choose(question, candidates, text)
                return chosen or await changes.change(_redirected(question.action, text))
            case Unknown() | ShowTask() | Offer():
                chosen = await changes.choose(question, candidates, tidy(clause.text))
                return chosen or (NO_ANSWER if clause.intent == Unknown() else None)
        return None

    def _told_to_approve(self, intent: Intent) -> str | None:
        """The reply to a "yes" where only an approval would do: the message itself has ended the wait for that."""
        said = self._recollection.said_by_assistant
        return NO_APPROVAL if intent == Yes() and said and asks_for_approval(said[-1]) else None

    async def _done(self, intent: Intent) -> str:
        match intent:
            case Add() | Change() | Did() | NotDone() | Undo() | Correct():
                return await self._changed(intent)
            case ListTasks() | CountTasks() | FindTasks() | ShowTask():
                return await self._shown(intent)
            case Recall() | RecallAll() | RecallTouched() | RecallName():
                return self._recalled(intent)
            case SearchSaid():
                return await Searching(self._desk).answer(intent)
        return _talked(intent)

    async def _changed(self, intent: Add | Change | Did | NotDone | Undo | Correct) -> str:
        changes = Changes(self._recollection, self._desk)
        match intent:
            case Add():
                return await changes.add(intent)
            case Change():
                restored = await changes.restore(intent) if intent.verb == "reopen" else None
                return restored or await changes.change(intent)
            case Did():
                return await changes.did(intent)
            case NotDone():
                return await changes.not_done(intent)
            case Undo():
                return await changes.undo()
            case Correct():
                return await self._corrected(changes, intent)

    async def _corrected(self, changes: Changes, intent: Correct) -> str:
        """Apply to another task what the last answer did, or, if it did nothing, the last command."""
        history = self._prompt.history
        if history and touched_by(history[-1].tool_calls):
            return await changes.correct(intent)
        if said := self._recollection.said_by_user:
            last = understand(said[-1])[-1].intent
            if isinstance(last, Change):
                return await changes.change(_redirected(Action(last.verb, last.value), intent.text))
        return "I'm not sure what to correct. Tell me the whole command, please."

    async def _shown(self, intent: ListTasks | CountTasks | FindTasks | ShowTask) -> str:
        showing = Showing(self._recollection, self._desk)
        match intent:
            case ListTasks():
                return await showing.list(intent)
            case CountTasks():
                return await showing.count(intent)
            case FindTasks():
                return await showing.find(intent)
            case ShowTask():
                return await showing.show(intent)

    def _recalled(self, intent: Recall | RecallAll | RecallTouched | RecallName) -> str:
        remembering = Remembering(self._recollection)
        match intent:
            case Recall():
                return remembering.nth(intent)
            case RecallAll():
                return remembering.all()
            case RecallTouched():
                return remembering.touched(intent)
            case RecallName():
                return remembering.name()


def _is_asked_about_together(clause: Clause) -> bool:
    """Whether a command can be understood before the answers to those before it: it deletes what it names."""
    match clause.intent:
        case Change(verb="delete", targets=targets):
            return all(isinstance(target, Named) for target in targets)
    return False


def _redirected(action: Action, text: str) -> Change:
    return Change(action.verb, parse_targets(text), action.value)


def _talked(intent: Intent) -> str:
    """The answer to an intent that acts on no task."""
    match intent:
        case Talk(topic=topic):
            return ANSWERS[topic]
        case HowTo(topic=topic):
            return HOW_TO[topic]
        case Offer(titles=titles):
            return ask_to_add(titles)
        case Unknown(question=True):
            return NOT_ANSWERED
    return PLAIN_ANSWERS.get(type(intent), NOT_UNDERSTOOD)


PLAIN_ANSWERS: dict[type[Intent], str] = {
    Yes: "Fine! What can I do for you?",
    No: NOTHING_DONE,
    LeaveAlone: NOTHING_DONE,
    Suppose: SUPPOSED,
}
