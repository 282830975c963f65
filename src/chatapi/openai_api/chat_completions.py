"""`POST /v1/chat/completions`: an answer to messages that the caller keeps, or to the next one of a conversation here."""

import re
import time
from functools import partial
from hashlib import sha256
from typing import Annotated, Any, NamedTuple

import msgspec
from litestar import Controller, Response, post
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.params import HeaderParameter, JSONBody
from msgspec import UNSET
from msgspec.structs import replace

from chatapi.agent.ports import NO_OPTIONS
from chatapi.db.paging import MAX_ID
from chatapi.errors.domains import ConversationNotFound
from chatapi.errors.models import OptionNotSupported
from chatapi.errors.requests import Invalid
from chatapi.openai_api.chat_body import ChatBody
from chatapi.openai_api.chat_stream import ChatCompletion, Telling
from chatapi.openai_api.context import Context
from chatapi.openai_api.errors import errors
from chatapi.openai_api.models import Models
from chatapi.openai_api.response_service import ResponseService
from chatapi.openai_api.serving import (
    MAX_BODY_BYTES,
    ChatConnection,
    KeyHeader,
    stop_after,
    stream,
    unless_hung_up,
)
from chatapi.openapi import OPENAI_TAG, OpenAIStreamOrJSONOperation
from chatapi.turns.controllers import replay_headers
from chatapi.turns.log import TurnLog
from chatapi.turns.runner import Runner
from chatapi.turns.schemas import Answer, AnswersOnTerms, Asked, ChatRequest, Terms, WaitingAnswer
from chatapi.turns.service import ChatService
from chatapi.turns.stateless import Stateless, StatelessRequest

MOST_WAITING = 100  # turns that are looked through for the one that waits for these outcomes
CONVERSATION = re.compile(r"(?:conv_)?([0-9]{1,19})", re.ASCII)

ConversationHeader = Annotated[
    str | None,
    HeaderParameter(
        name="X-Conversation-Id",
        description="The last message is a turn of this conversation: `conv_1` or `1`. Empty is absent.",
    ),
]


class Stored(NamedTuple):
    """A turn that answers the request, after its wait of this number."""

    log: TurnLog
    wait: int = 0


class ChatCompletionController(Controller):
    path = "/chat/completions"
    tags = (OPENAI_TAG,)

    @post(
        operation_id="createChatCompletion",
        summary="Answer a chat",
        status_code=200,
        responses=errors(404, 409, 413, 415, 502, 504),
        operation_class=OpenAIStreamOrJSONOperation,
        response_headers=[
            ResponseHeader(
                name="X-Conversation-Id",
                description="The conversation of a stored completion: `conv_1`.",
                documentation_only=True,
            )
        ],
        limits_itself=True,
        request_max_body_size=MAX_BODY_BYTES,
    )
    async def create(
        self,
        request: ChatConnection,
        models: NamedDependency[Models],
        chat: NamedDependency[ChatService],
        stateless: NamedDependency[Stateless],
        responses: NamedDependency[ResponseService],
        data: JSONBody[ChatBody],
        conversation: ConversationHeader = None,
        idempotency_key: KeyHeader = None,
    ) -> Response[ChatCompletion]:
        """Answers the messages; nothing is stored but what was used, and the answer ends when its client hangs up.

        With `store: true` or `X-Conversation-Id` the last message is a turn of a conversation here.
        """
        served = models.find(data.model)
        context = data.context(stateless.hold)
        terms = data.terms(context.instructions, has_tools=served.tools)
        completion = Completion(request, data, served.id, chat, responses)
        try:
            if data.store or conversation:
                conversation_id = conversation_of(conversation)
                key = idempotency_key or None
                return await completion.of_turn(context, terms, conversation_id, key)
            if idempotency_key:
                raise Invalid(("Idempotency-Key", "holds for what is stored; send `store: true` with it"))
            files, history = await responses.files.resolved(
                request.user.user_id, context.files, context.history, store=False
            )
            asked = StatelessRequest(
                message=context.message,
                history=history,
                files=files,
                begun=context.begun,
                terms=terms,
            )
            return await completion.of_run(await stateless.start(request.user.user_id, asked))
        except OptionNotSupported as error:
            raise data.refusal_of(error) from None


class Completion:
    """One request, and how it is answered."""

    def __init__(
        self,
        request: ChatConnection,
        body: ChatBody,
        model: str,
        chat: ChatService,
        responses: ResponseService,
    ) -> None:
        self._request = request
        self._body = body
        self._model = model
        self._chat = chat
        self._responses = responses

    async def of_run(self, runner: Runner) -> Response[Any]:
        """Respond with what is no turn; it ends when the client hangs up."""
        telling = self._telling(f"chatcmpl-{runner.run.run_id}")
        if self._body.stream:
            return self._streamed(telling, runner.log, {}, stop_after(runner))
        return Response(await unless_hung_up(self._request, runner, telling.whole(runner.log)))

    async def of_turn(
        self, context: Context, terms: Terms, conversation_id: int | None, key: str | None
    ) -> Response[Any]:
        """Respond with a turn of the conversation, or of a new one."""
        try:
            log, wait = await self._turn(context, terms, conversation_id, key)
        except ConversationNotFound as error:
            raise not_ours(error.detail) from None
        telling = self._telling(f"chatcmpl-{log.turn_id}", wait)
        headers = {
            "X-Conversation-Id": f"conv_{log.conversation_id}",
            **replay_headers(replayed=log.replayed),
        }
        if self._body.stream:
            return self._streamed(telling, log, headers)
        return Response(await telling.whole(log), headers=headers)

    async def _turn(
        self, context: Context, terms: Terms, conversation_id: int | None, key: str | None
    ) -> Stored:
        user_id = self._request.user.user_id
        if context.begun is not None:
            return await self._go_on(context, terms, conversation_id, key)
        before = context.history if conversation_id is None else ()
        files, before = await self._responses.files.resolved(user_id, context.files, before, store=True)
        asked = ChatRequest(
            message=context.message,
            conversation_id=conversation_id,
            files=[file.id for file in files] or UNSET,
            client_tools=terms.client_tools or UNSET,
            options=UNSET if terms.options == NO_OPTIONS else terms.options,
            approvals=False,
            own_tools=UNSET if terms.own_tools is None else terms.own_tools,
            before=before or UNSET,
            source="v1",
            fingerprint=UNSET if key is None else fingerprint_of(self._body, conversation_id),
        )
        if self._body.stream:
            return Stored(await self._chat.start_or_join(user_id, asked, key))
        return Stored(await self._chat.start(user_id, asked, key))

    async def _go_on(
        self, context: Context, terms: Terms, conversation_id: int | None, key: str | None
    ) -> Stored:
        """Give the turn that waits for them the outcomes that the messages end with; raises `Invalid` if there is none."""
        user_id = self._request.user.user_id
        await self._responses.count_answers(user_id)
        made = {} if context.begun is None else {call.id: call for call in context.begun.tool_calls}
        for turn in await self._chat.waiting(user_id, MOST_WAITING, None):
            ids = {call.tool_call_id: call.id for call in turn.pending}
            if ids.keys() <= made.keys() and conversation_id in {None, turn.conversation_id}:
                break
        else:
            raise Invalid(("messages", "No turn of yours waits for the outcomes of these calls of tools."))
        answers = AnswersOnTerms(
            answers=[Answer(id=id_, output=made[call_id].result) for call_id, id_ in ids.items()],
            asked=Asked(options=terms.options, approvals=False, own_tools=terms.own_tools),
            client_tools=terms.client_tools,
        )
        found = await self._chat.answer(user_id, turn.turn_id, answers, key)
        if isinstance(found, WaitingAnswer):
            return Stored(TurnLog.of(found))
        return Stored(found.log, found.wait)

    def _telling(self, id_: str, wait: int = 0) -> Telling:
        options = self._body.stream_options
        return Telling(
            id=id_,
            created=int(time.time()),
            model=self._model,
            after_wait=wait,
            with_usage=options is not None and options.include_usage,
        )

    def _streamed(
        self,
        telling: Telling,
        log: TurnLog,
        headers: dict[str, str],
        background: BackgroundTask | None = None,
    ) -> Response[Any]:
        return stream(self._chat, partial(telling.stream, log), headers, background)


def fingerprint_of(body: ChatBody, conversation_id: int | None) -> str:
    """What tells a request apart from others with its key; the same may be asked for as a stream or whole."""
    asked = replace(body, stream=None, stream_options=None)
    return sha256(msgspec.json.encode((asked, conversation_id))).hexdigest()


def conversation_of(header: str | None) -> int | None:
    """The conversation that the header names; raises `Invalid`."""
    if not header:
        return None
    found = CONVERSATION.fullmatch(header)
    if found is None or not 0 < int(found[1]) <= MAX_ID:
        raise not_ours(f"{header[:100]!r} is no conversation of this service.")
    return int(found[1])


def not_ours(detail: str) -> Invalid:
    return Invalid(("X-Conversation-Id", detail))
