"""Answers on a conversation that the caller keeps: no turn, no conversation, and nothing stored but what was used.

It is a run like a turn's, by the same `Runner` with another store. The caller's own function tools end it, as a turn
waits for them; the caller carries them out and sends everything again. It ends when its client hangs up, and when its
process does.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from secrets import token_hex
from typing import Any, NoReturn

from msgspec import UNSET, Struct
from msgspec.structs import asdict, replace
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import File, FileSource, HistoryMessage, ToolCall
from chatapi.db.database import Database, Work
from chatapi.db.models import now
from chatapi.errors.database import DatabaseUnavailable
from chatapi.files.reading import Held
from chatapi.limits.limiter import Limiter
from chatapi.turns.attachments import AgentWithFiles
from chatapi.turns.launcher import Launcher
from chatapi.turns.log import text_of
from chatapi.turns.runner import Runner
from chatapi.turns.schemas import PendingUntil, Terms, WaitingAnswer
from chatapi.turns.store import Finished, Run, Said, Shown, completion_store
from chatapi.turns.store.answers import Waiting
from chatapi.turns.store.rows import to_answer
from chatapi.usage.counting import Spent, count_alone, count_outside

log = logging.getLogger(__name__)


class StatelessRequest(Struct, frozen=True, kw_only=True):
    """A conversation as its caller keeps it: whole turns before the message, and what was begun of the answer to that.

    Its files have a `source`.
    """

    message: str
    history: Sequence[HistoryMessage] = ()
    files: Sequence[File] = ()
    begun: HistoryMessage | None = None
    terms: Terms = Terms(approvals=False)


class Stateless:
    """Begins answers that are no turns."""

    def __init__(
        self, database: Database, launcher: Launcher, attachments: AgentWithFiles, limiter: Limiter
    ) -> None:
        self._database = database
        self._completions = completion_store(database)
        self._launcher = launcher
        self._attachments = attachments
        self._limiter = limiter

    def hold(self, data: bytes) -> FileSource:
        """The source of a file that came in the request itself."""
        return Held(self._attachments.reader, data)

    def bind(self, user_id: str, files: Sequence[File]) -> Sequence[File]:
        """The same files of the user's, which can be read."""
        return self._attachments.bound(user_id, files)

    async def start(self, user_id: str, request: StatelessRequest) -> Runner:
        """Begin an answer; its `log` ends with a `ChatAnswer`, a `WaitingAnswer` for the caller's tools, or an error.

        All approvals are denied, since the answer to one could not come back. Raises `RateLimited`, `BudgetExceeded`,
        `OptionNotSupported` and `FileNotSupported`.
        """
        await self._limiter.hit("chat", user_id)
        terms = replace(request.terms, approvals=False)
        self._attachments.check_options(terms.options)
        if request.files:
            await self._attachments.check_files(request.files)
        await self._completions.admit(user_id, self._launcher.budgets)
        run = Run(
            turn_id=0,
            run_id=token_hex(12),
            user_id=user_id,
            conversation_id=0,
            message=request.message,
            history=request.history,
            files=request.files,
            begun=request.begun,
            terms=terms,
        )
        return self._launcher.launch_stateless(run, StatelessStore(self._database, now()))


class StatelessStore:
    """Implements `run_store.RunStore` for one run that began at `since`: it counts usage and lets tools take effect."""

    def __init__(self, database: Database, since: datetime) -> None:
        self._database = database
        self._since = since

    async def finish(self, run: Run, said: Said, shown: Shown) -> Finished:  # noqa: ARG002 - nothing is shown elsewhere
        await self._count(run, said)
        return Finished(to_answer(run, 0, said), is_followed=False)

    async def wait(self, run: Run, said: Said, waiting: Waiting) -> WaitingAnswer:
        """The calls that the caller carries out. Nobody waits for them: the caller may never come back."""
        await self._count(run, said)
        return WaitingAnswer(
            conversation_id=0,
            turn_id=0,
            response=text_of(said.events),
            tool_calls=list(said.tool_calls),
            pending=[PendingUntil(**asdict(call), expires_at=self._since) for call in waiting.pending],
            usage=UNSET if said.usage is None else said.usage,
        )

    async def cancel(self, run: Run, said: Said) -> bool:
        await self._count(run, said)
        return False

    async def fail(self, run: Run, said: Said, error: dict[str, Any]) -> bool:  # noqa: ARG002 - it is told, not stored
        await self._count(run, said)
        return False

    async def count_lost(self, run: Run, said: Said, since: datetime) -> None:
        """No such run is ever lost to another process."""

    async def hold(self, run: Run) -> None:
        """Such a run is always its process's own."""

    async def call(
        self,
        run: Run,
        position: int,  # noqa: ARG002 - there is no journal
        effect: Work[ToolCall],
        spent: Sequence[Spent] = (),
        *,
        writes: bool,
    ) -> ToolCall:
        """Carry out a call of a tool in a transaction of its own, and count what was spent in it."""

        async def work(session: AsyncSession) -> ToolCall:
            call = await effect(session)
            await count_alone(session, run.user_id, None, spent, self._since)
            return call

        return await self._database.run(run.user_id, work, unknown_outcome if writes else None)

    async def settle_call(self, run: Run, position: int, call: ToolCall) -> None:
        """No call of such a run has waited for an approval."""

    async def _count(self, run: Run, said: Said) -> None:
        """Count what was used. Without the database it is not counted: the answer is there, and nobody would wait for it."""
        if not said.spent:
            return
        try:
            await count_outside(self._database, run.user_id, None, said.spent, self._since)
        except DatabaseUnavailable:
            log.warning("What a completion used is not counted: the database is away")


async def unknown_outcome(_: AsyncSession) -> NoReturn:
    """A COMMIT was cut off. No journal tells whether the call took effect, and it must not be made twice."""
    raise DatabaseUnavailable(
        "The connection was lost at the end of a tool's call: look whether it took effect.", retry_after=None
    )
