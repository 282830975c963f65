"""The use cases of responses. A response is a turn, or what a turn does after a wait; nothing beside it is stored."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from chatapi.db.database import Database
from chatapi.errors.base import AppError
from chatapi.errors.domains import ConversationNotFound
from chatapi.errors.openai_api import PreviousResponseNotFound, ResponseNotFound
from chatapi.errors.requests import Invalid
from chatapi.errors.turns import TurnEnded, TurnNotFound, TurnSuperseded
from chatapi.files.service import FileService
from chatapi.limits.limiter import Limiter
from chatapi.openai_api.context import Context, Entry, Outcome, Spoken, context_of, instructions_in
from chatapi.openai_api.item_service import ItemService
from chatapi.openai_api.items import items_of
from chatapi.openai_api.models import Models, Served
from chatapi.openai_api.request_files import RequestFiles
from chatapi.openai_api.response_answers import (
    answer_of,
    answers_at_end,
    called,
    item_of,
    known,
    unknown_call,
)
from chatapi.openai_api.response_body import NamedConversation, ResponseBody, asked_of, check, client_tools_in
from chatapi.openai_api.response_input import Given
from chatapi.openai_api.response_objects import Facts, ResponseId, conversation_of, facts_of
from chatapi.openai_api.stored_items import ItemPage, Order, page_of
from chatapi.turns.log import TurnLog
from chatapi.turns.runner import Runner
from chatapi.turns.schemas import AnswersOnTerms, Asked, ChatRequest, ClientTool, WaitingAnswer
from chatapi.turns.service import ChatService, Continued
from chatapi.turns.stateless import Stateless, StatelessRequest
from chatapi.turns.store.asked import AskedTurn

CANCEL_SECONDS = (
    5.0  # a turn that runs elsewhere ends within a second; after this the response is told as it stands
)


class Begun(NamedTuple):
    """A response under way, or one that has ended."""

    log: TurnLog
    facts: Facts


class Place(NamedTuple):
    """Where a request goes on: in this conversation, and after this turn if it names one.

    `is_passed`: the turn has gone on itself since the response that is named.
    """

    conversation_id: int | None
    after: int | UnsetType = UNSET
    is_passed: bool = False


class Unstored(NamedTuple):
    """A response that is no turn; it ends when its client hangs up, or its process does."""

    runner: Runner
    facts: Facts


class ResponseService:
    """Every method takes the owner first, and raises `ResponseNotFound` for a response that is not theirs."""

    def __init__(
        self,
        chat: ChatService,
        stateless: Stateless,
        files: FileService,
        database: Database,
        limiter: Limiter,
        models: Models,
    ) -> None:
        self.chat = chat
        self._stateless = stateless
        self.files = RequestFiles(files, stateless)
        self.items = ItemService(database, self.files, stateless.hold)
        self._limiter = limiter
        self._models = models

    async def create(self, user_id: str, body: ResponseBody, key: str | None) -> Begun:
        """Begin a response, or find the one that the key has begun.

        Raises what `ChatService.start` and `.answer` raise, `Invalid`, `UnsupportedParameter`, `ModelNotFound`,
        `PreviousResponseNotFound`, `ConversationNotFound` and `ItemNotFound`.
        """
        model, entries = await self._read(user_id, body)
        place = await self._place(user_id, body)
        answers = answers_at_end(entries)
        tools = client_tools_in(body)
        if answers:
            return await self._answer(user_id, body, model, tools, entries, answers, place, key)
        if place.is_passed:
            raise TurnSuperseded("The response's turn has gone on since; continue from its last response.")
        context = conversation_in(entries)
        if context.begun is not None:
            raise Invalid(("input", "It has outcomes of calls that no response of yours waits for."))
        asked = asked_of(body, model, context.instructions)
        files, before = await self.files.resolved(user_id, context.files, context.history, store=True)
        request = ChatRequest(
            message=context.message,
            conversation_id=place.conversation_id,
            files=[file.id for file in files] or UNSET,
            client_tools=tools or UNSET,
            when_busy="queue" if body.background else UNSET,
            options=asked.options,
            own_tools=UNSET if asked.own_tools is None else asked.own_tools,
            before=before or UNSET,
            shown=asked.shown,
            source="v1",
            after=place.after,
            fingerprint=UNSET if key is None else fingerprint_of(body),
        )
        waits_for_end = not (body.stream or body.background)
        begin = self.chat.start if waits_for_end else self.chat.start_or_join
        return await self._begun(user_id, await begin(user_id, request, key), asked)

    async def create_unstored(self, user_id: str, body: ResponseBody) -> Unstored:
        """Begin a response of which nothing is stored (`store: false`). Raises what `create` and `Stateless.start` raise."""
        model, entries = await self._read(user_id, body)
        context = conversation_in(entries)
        asked = asked_of(body, model, context.instructions)
        files, before = await self.files.resolved(user_id, context.files, context.history, store=False)
        request = StatelessRequest(
            message=context.message,
            history=before,
            files=files,
            begun=context.begun,
            terms=asked.terms(client_tools_in(body)),
        )
        runner = await self._stateless.start(user_id, request)
        facts = Facts(
            key=runner.run.run_id,
            wait=0,
            conversation_id=None,
            created_at=runner.run.created_at,
            shown={**asked.shown, "store": False},
        )
        return Unstored(runner, facts)

    async def count_answers(self, user_id: str) -> None:
        """Count a request that answers calls of a turn that waits; raises `RateLimited`. It counts as no message."""
        await self._limiter.hit("default", user_id)

    async def find(self, user_id: str, response_id: str) -> Begun:
        """The response with this id, however it stands."""
        place, asked = await self._asked(user_id, response_id)
        log = await self._log(user_id, asked)
        return Begun(log, facts_of(asked, place.wait))

    async def cancel(self, user_id: str, response_id: str) -> Begun:
        """End the response if it goes on, wherever it runs, and wait for that."""
        place, asked = await self._asked(user_id, response_id)
        if place.wait == asked.went_on:
            with suppress(TurnEnded):
                await self.chat.cancel(user_id, place.turn_id)
        begun = await self.find(user_id, response_id)
        with suppress(AppError, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await begun.log.answer()
        return begun

    async def remove(self, user_id: str, response_id: str) -> None:
        """Delete the response's turn, and the conversation if that was made for this turn and no other is in it."""
        place, asked = await self._asked(user_id, response_id)
        first = asked.asked.get(0, Asked())
        alone = bool(asked.asked) and "conversation" not in first.shown
        await self.chat.remove(user_id, place.turn_id, alone=alone)

    async def input_items(
        self, user_id: str, response_id: str, *, limit: int, after: str | None, order: Order
    ) -> ItemPage:
        place, _ = await self._asked(user_id, response_id)
        stored = await self.items.turns(user_id, [place.turn_id])
        items = stored[place.turn_id].input_of(place.wait) if place.turn_id in stored else []
        return page_of(items if order == "asc" else items[::-1], limit=limit, after=after)

    async def _answer(
        self,
        user_id: str,
        body: ResponseBody,
        model: Served,
        tools: list[ClientTool],
        entries: Sequence[Entry | Given],
        answers: "Sequence[Given | Outcome]",
        place: Place,
        key: str | None,
    ) -> Begun:
        """Go on with a turn that waits; answers to earlier waits are the caller's history."""
        await self.count_answers(user_id)
        turn_id, _ = known(answers[-1])
        try:
            asked = await self.chat.asked(user_id, turn_id)
        except TurnNotFound:
            raise unknown_call(answers[-1]) from None
        if place.conversation_id not in {None, asked.conversation_id} or place.after not in {UNSET, turn_id}:
            raise unknown_call(answers[-1])
        log = await self._log(user_id, asked)
        items = items_of(turn_id, log.events)
        given = [(each, item_of(each, items)) for each in answers if known(each)[0] == turn_id]
        wait = max(item.wait for _, item in given)
        told = [answer_of(each, item) for each, item in given if item.wait == wait]
        if isinstance(log.outcome, WaitingAnswer) and wait == log.wait:
            ids = {each.id for each in told}
            if missing := [each.tool_call_id for each in log.outcome.pending if each.id not in ids]:
                open_ = [
                    item for item in items if item.wait == wait and item.call and item.call.id in missing
                ]
                raise Invalid(
                    ("input", f"These have no answer: {', '.join(called(item) for item in open_)}.")
                )
        terms = asked_of(body, model, instructions_in(entries))
        request = AnswersOnTerms(answers=told, asked=terms, client_tools=tools)
        found = await self.chat.answer(user_id, turn_id, request, key)
        asked = await self.chat.asked(user_id, turn_id)
        if isinstance(found, Continued):
            return Begun(found.log, facts_of(asked, found.wait))
        # Others have answered meanwhile, and not all.
        return Begun(await self._log(user_id, asked), facts_of(asked, wait))

    async def _begun(self, user_id: str, log: TurnLog, asked: Asked) -> Begun:
        """A response that has begun just now, or that its key has begun before."""
        if log.created_at is None or log.replayed:
            return Begun(log, facts_of(await self.chat.asked(user_id, log.turn_id), 0))
        return Begun(
            log,
            Facts(
                key=log.turn_id,
                wait=0,
                conversation_id=log.conversation_id,
                created_at=log.created_at,
                shown=asked.shown,
            ),
        )

    async def _read(self, user_id: str, body: ResponseBody) -> tuple[Served, list[Entry | Given]]:
        """The model that is asked, and what the input says."""
        model = self._models.find(body.model or self._models.all()[0].id)
        check(body)
        return model, await self.items.read(user_id, body.input, "input")

    async def _asked(self, user_id: str, response_id: str) -> tuple[ResponseId, AskedTurn]:
        place = ResponseId.read(response_id)
        if place is None:
            raise ResponseNotFound(response_id)
        try:
            asked = await self.chat.asked(user_id, place.turn_id)
        except TurnNotFound:
            raise ResponseNotFound(response_id) from None
        if place.wait > asked.went_on:
            raise ResponseNotFound(response_id)
        return place, asked

    async def _log(self, user_id: str, asked: AskedTurn) -> TurnLog:
        log = await self.chat.resume(user_id, asked.conversation_id, asked.turn_id)
        assert log is not None  # noqa: S101 - a turn that is named has a log
        return log

    async def _place(self, user_id: str, body: ResponseBody) -> Place:
        if body.previous_response_id is not None:
            if body.conversation is not None:
                raise Invalid(("conversation", "is there beside `previous_response_id`; send one of them"))
            previous = ResponseId.read(body.previous_response_id)
            if previous is None:
                raise PreviousResponseNotFound(body.previous_response_id)
            try:
                conversation_id, went_on = await self.chat.place(user_id, previous.turn_id)
            except TurnNotFound:
                raise PreviousResponseNotFound(body.previous_response_id) from None
            if previous.wait > went_on:
                raise PreviousResponseNotFound(body.previous_response_id)
            return Place(conversation_id, previous.turn_id, previous.wait < went_on)
        if body.conversation is None:
            return Place(None)
        named = body.conversation
        text = named.id if isinstance(named, NamedConversation) else named
        if (found := conversation_of(text)) is None:
            raise ConversationNotFound(text)
        return Place(found)


def conversation_in(entries: Sequence[Entry | Given]) -> Context:
    """What these say, without answers to approvals."""
    return context_of([each for each in entries if isinstance(each, Spoken | Outcome)], "input")


def fingerprint_of(body: ResponseBody) -> str:
    return sha256(msgspec.json.encode(body)).hexdigest()
