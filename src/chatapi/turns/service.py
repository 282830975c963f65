"""The use cases of a turn: start, resume, answer, cancel. No database connection is held while the agent thinks."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from chatapi.errors.database import DatabaseUnavailable
from chatapi.errors.turns import KeyInProgress
from chatapi.limits.messages import MessageLimit
from chatapi.patience import Patience
from chatapi.turns.answering import audit_answers, check_tools
from chatapi.turns.attachments import AgentWithFiles
from chatapi.turns.expiry import Expiry
from chatapi.turns.launcher import Launcher
from chatapi.turns.log import TurnLog
from chatapi.turns.measures import Telemetry
from chatapi.turns.queue import QueueWatch
from chatapi.turns.schemas import (
    AnswerAnew,
    AnswersOnTerms,
    AnswersRequest,
    ChatRequest,
    WaitingAnswer,
    WaitingTurn,
)
from chatapi.turns.store import Key, Queued, Run, Stored, TurnStore
from chatapi.turns.store.answers import Given
from chatapi.turns.store.asked import AskedTurn
from chatapi.turns.supervisor import Supervisor, part


class Continued(NamedTuple):
    """A turn that goes on after its wait of this number."""

    log: TurnLog
    wait: int


class ChatService:
    """Begins turns and finds them again; `Launcher` begins their runs, and `Supervisor` watches over these."""

    def __init__(
        self,
        store: TurnStore,
        supervisor: Supervisor,
        launcher: Launcher,
        expiry: Expiry,
        attachments: AgentWithFiles,
        queue: QueueWatch,
        limit: MessageLimit,
        patience: Patience,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._launcher = launcher
        self._expiry = expiry
        self._check_files = attachments.check
        self._check_options = attachments.check_options
        self._queue = queue
        self._limit = limit
        self.patience = patience
        self.telemetry = telemetry

    async def start(self, user_id: str, request: ChatRequest | AnswerAnew, key: str | None) -> TurnLog:
        """Begin a turn and return its log; a key that was answered before returns the log of that answer.

        A request that says so is queued while the conversation is busy: its log fills when the turn has begun.

        Raises what `TurnStore.begin` raises, `Invalid` for the caller's tools, the errors of its files, and
        `RateLimited` unless the key was
        answered before. Once the turn has begun, its log ends with the answer, with what it waits for, or with
        `ModelFailed`, `ModelTooSlow`, `TurnCancelled`, `Interrupted` or `DatabaseUnavailable`, each with `turn_id` and
        `conversation_id`.
        """
        # Through OpenAI's API a caller's tool takes the place of one of ours.
        ours = () if isinstance(request, ChatRequest) and request.source else self._launcher.tools
        check_tools(request.terms.client_tools, ours)
        known_by = None if key is None else Key.of(key, request)

        begin = partial(self._begin, user_id, request, known_by)
        seen = partial(self._seen, user_id, known_by)
        begun: TurnLog | Queued | Stored = await self._launcher.launch(
            lambda: self._limit.count(user_id, begin, seen, Stored)
        )
        if isinstance(begun, Queued):
            if isinstance(request, ChatRequest) and request.when_busy == "interrupt":
                with suppress(DatabaseUnavailable):  # the supervisor sees it soon, too
                    await self._supervisor.stop_cancelled()
            return self._in_queue(begun)
        return begun if isinstance(begun, TurnLog) else begun.log()

    async def start_or_join(
        self, user_id: str, request: ChatRequest | AnswerAnew, key: str | None
    ) -> TurnLog:
        """As `start`, but join a turn of the same key that is still running instead of refusing."""
        try:
            return await self.start(user_id, request, key)
        except KeyInProgress as running:
            ids = running.turn
            joined = ids and await self.resume(user_id, ids.conversation_id, ids.turn_id)
            if joined is None:
                raise
            return joined

    async def resume(self, user_id: str, conversation_id: int, turn_id: int | None = None) -> TurnLog | None:
        """The log of the turn with this id, or else of the conversation's active turn, or of the first that is queued.

        None when no turn is active. The turn may run or have run in any process. Raises `ConversationNotFound` and `TurnNotFound`.
        """
        if (turn := await self._store.find(user_id, conversation_id, turn_id)) is None:
            return None
        if isinstance(turn, Queued):
            return self._in_queue(turn)
        if (log := self._supervisor.log_of(turn.run_id)) is not None:
            return log
        return self._parted_while_draining(await self._supervisor.live.follow(turn))

    async def answer(
        self, user_id: str, turn_id: int, request: AnswersRequest, key: str | None
    ) -> Continued | WaitingAnswer:
        """Answer calls for which a turn waits. It goes on when all have an answer; until then the rest is returned.

        Raises what `TurnStore.answer` raises, and `OptionNotSupported`. The same answers again get the same: they follow what they had begun.
        """
        if isinstance(request, AnswersOnTerms):
            self._check_options(request.asked.options)
        known_by = None if key is None else Key.of(key, request)
        begun: TurnLog | WaitingAnswer | Given = await self._launcher.launch(
            partial(
                self._launcher.claim,
                lambda claim: self._store.answer(user_id, turn_id, request, known_by, claim),
            )
        )
        if isinstance(begun, TurnLog | WaitingAnswer):
            audit_answers(user_id, turn_id, request.answers)
            return Continued(begun, begun.wait) if isinstance(begun, TurnLog) else begun
        log = await self.resume(user_id, begun.conversation_id, turn_id)
        assert log is not None  # noqa: S101 - a turn that is named has a log
        return Continued(log, begun.wait)

    async def waiting(self, user_id: str, limit: int, before: int | None) -> Sequence[WaitingTurn]:
        """The user's turns that wait for answers, newest first."""
        return await self._store.waiting(user_id, limit, before)

    async def cancel(self, user_id: str, turn_id: int) -> None:
        """Ask for a turn's end, whichever process runs it; raises `TurnNotFound` and `TurnEnded`."""
        if (ended := await self._store.request_cancel(user_id, turn_id)) is not None:
            self._expiry.ended(ended)
        await self._supervisor.stop_cancelled()
        self._queue.wake(at_once=True)  # a turn that waited, or whose process had died, has ended by this

    async def asked(self, user_id: str, turn_id: int) -> AskedTurn:
        """The turn with this id and what it was asked for; raises `TurnNotFound`."""
        return await self._store.asked(user_id, turn_id)

    async def place(self, user_id: str, turn_id: int) -> tuple[int, int]:
        """The turn's conversation, and the number of its last wait that was answered; raises `TurnNotFound`."""
        return await self._store.place(user_id, turn_id)

    async def remove(self, user_id: str, turn_id: int, *, alone: bool) -> None:
        """Delete a turn, whatever it is doing; `alone`: with its conversation, if no other turn is in that."""
        await self._store.remove(user_id, turn_id, alone=alone)
        await self._supervisor.stop_cancelled()
        self._queue.wake(at_once=True)

    async def take_out(self, user_id: str, turn_id: int) -> None:
        """Take a turn out of its queue; raises `TurnNotFound`, and `NotQueued` when it has begun."""
        await self._store.take_out(user_id, turn_id)

    def _in_queue(self, place: Queued) -> TurnLog:
        self._queue.wake(at_once=True)
        log = self._supervisor.log_of_turn(place.turn_id) or self._supervisor.live.queue(place)
        return self._parted_while_draining(log)

    def _parted_while_draining(self, log: TurnLog) -> TurnLog:
        if self._supervisor.is_draining:  # the other streams were told already
            part([log])
        return log

    async def _begin(
        self, user_id: str, request: ChatRequest | AnswerAnew, key: Key | None
    ) -> Run | Queued | Stored:
        await self._check_files(user_id, request, partial(self._seen, user_id, key))
        return await self._launcher.claim(partial(self._store.begin, user_id, request, key))

    async def _seen(self, user_id: str, key: Key | None) -> Stored | None:
        return None if key is None else await self._store.seen(user_id, key)
