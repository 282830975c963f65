"""A turn: begin, reply, finish. No database connection is held while the agent thinks."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from msgspec import Struct

from chatapi.agent.ports import Agent, Prompt, ProviderState, TextDelta, Usage
from chatapi.agent.tools import Tool
from chatapi.chat import store
from chatapi.chat.schemas import ChatAnswer, ChatRequest
from chatapi.chat.tools import TurnTools
from chatapi.chat.worker import Worker
from chatapi.db.config import Database
from chatapi.errors import AppError, Interrupted, ModelEmpty, ModelFailed, ModelTooSlow
from chatapi.settings import Settings

log = logging.getLogger(__name__)

MESSAGES_PER_TURN = 2


class Reply(Struct, frozen=True):
    text: str
    usage: Usage | None
    state: ProviderState | None


class ChatService:
    """Runs turns, each in a task of its own: a client that hangs up ends its request and not its turn."""

    def __init__(
        self, database: Database, agent: Agent, tools: Sequence[Tool[Any]], worker: Worker, settings: Settings
    ) -> None:
        self._database = database
        self._agent = agent
        self._tools = {tool.name: tool for tool in tools}
        self._worker = worker
        self._timeout = settings.chat_timeout
        self._history_turns = settings.chat_history_limit // MESSAGES_PER_TURN
        self._turns: set[asyncio.Task[ChatAnswer]] = set()

    async def answer(self, user_id: str, request: ChatRequest) -> ChatAnswer:
        """Run a turn and wait for its answer.

        Raises `ConversationNotFound`, `TurnInProgress`, and when the turn has begun `ModelFailed`, `ModelTooSlow`,
        `TurnLost` or `Interrupted`, each with `turn_id` and `conversation_id`.
        """
        turn = asyncio.create_task(self._turn(user_id, request))
        self._turns.add(turn)
        turn.add_done_callback(self._forget)
        return await asyncio.shield(turn)

    async def drain(self, seconds: float) -> None:
        """Wait for running turns, then end what is left as interrupted; for the shutdown."""
        if self._turns:
            _, left = await asyncio.wait(self._turns, timeout=seconds)
            for turn in left:
                turn.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _forget(self, turn: asyncio.Task[ChatAnswer]) -> None:
        self._turns.discard(turn)
        if not turn.cancelled():
            turn.exception()  # seen here, since the client that would have seen it may be gone

    async def _turn(self, user_id: str, request: ChatRequest) -> ChatAnswer:
        run = await self._begin(user_id, request)
        tools = TurnTools(self._database, run, self._tools)
        try:
            reply = await self._reply(run, tools)
        except (Exception, asyncio.CancelledError) as error:
            failure = failure_of(error, run)
            await self._fail(run, failure)
            raise failure from error
        return await self._finish(run, reply, tools)

    async def _begin(self, user_id: str, request: ChatRequest) -> store.Run:
        await self._worker.register()
        async with self._database.transaction() as session:
            return await store.begin(
                session,
                user_id,
                request,
                run_id=uuid4().hex,
                worker_id=self._worker.id,
                model=self._agent.model,
                history=self._history_turns,
            )

    async def _reply(self, run: store.Run, tools: TurnTools) -> Reply:
        prompt = Prompt(
            user_id=run.user_id, conversation_id=run.conversation_id, message=run.message, history=run.history
        )
        pieces: list[str] = []
        usage: Usage | None = None
        state: ProviderState | None = None
        try:
            async with asyncio.timeout(self._timeout) as limit:
                async for event in self._agent.reply(prompt, tools):
                    match event:
                        case TextDelta(text=text):
                            pieces.append(text)
                        case Usage():
                            usage = event
                        case ProviderState():
                            state = event
        except TimeoutError as error:
            if limit.expired():
                raise ModelTooSlow(f"The answer took longer than {self._timeout:g} s.") from error
            raise
        text = storable("".join(pieces))
        if not text.strip():
            raise ModelEmpty("The model gave an empty answer.")
        return Reply(text, usage, state)

    async def _finish(self, run: store.Run, reply: Reply, tools: TurnTools) -> ChatAnswer:
        async with self._database.transaction() as session:
            return await store.finish(
                session,
                run,
                response=reply.text,
                tool_calls=tools.calls,
                usage=reply.usage,
                state=reply.state,
            )

    async def _fail(self, run: store.Run, failure: AppError) -> None:
        async with self._database.transaction() as session:
            await store.fail(session, run, {"type": failure.type, "detail": failure.detail})


def failure_of(error: BaseException, run: store.Run) -> AppError:
    """What the client is told of a reply that failed; what it may not be told is logged."""
    if isinstance(error, AppError):
        failure = error
    elif isinstance(error, asyncio.CancelledError):
        failure = Interrupted("The service is restarting; send the message again.", retry_after=1)
    else:
        log.error("The agent failed in turn %s", run.turn_id, exc_info=error)
        failure = ModelFailed("The model failed to answer.")
    failure.members |= {"turn_id": run.turn_id, "conversation_id": run.conversation_id}
    return failure


def storable(text: str) -> str:
    """The text without what PostgreSQL's UTF-8 cannot hold: U+0000 and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
