"""The tools of one run: bound to its user, one call at a time, each journaled with its effect."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import ToolCall, ToolError, ToolSpec
from chatapi.agent.tools import ExternalTool, Tool, ToolOutcome, call_tool
from chatapi.db.database import Work
from chatapi.parts import bounded
from chatapi.text import storable
from chatapi.turns.log import ToolEnded, ToolStarted
from chatapi.turns.store import Run, TurnStore


class TurnTools:
    """Implements `agent.ports.Tools`. `calls` are the turn's calls so far, in the journal's order; each is told.

    When a turn is run again, a call that an earlier run made is answered from the journal: the n-th call of a tool
    with the same arguments gets the n-th such entry. A call that ended in an error is made again.
    """

    def __init__(
        self,
        store: TurnStore,
        run: Run,
        tools: Mapping[str, Tool[Any] | ExternalTool],
        tell: Callable[[ToolStarted | ToolEnded], None],
        stopping_clock: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.calls: list[ToolCall] = [bounded(call) for call in run.journal]
        self._not_claimed = [call for call in run.journal if call.error is msgspec.UNSET]
        self._store = store
        self._run = run
        self._tools = tools
        self._tell = tell
        self._stopping_clock = stopping_clock  # the assistant's time does not include waits for the database
        self._one_at_a_time = asyncio.Lock()  # a model may ask for several at once; the journal has an order

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return [tool.spec for tool in self._tools.values()]

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        call_id: str | None = None,
        own: Callable[[], Awaitable[Any]] | None = None,
    ) -> ToolCall:
        # Clean the values once, here, so that the same are streamed, journaled and stored.
        name, arguments, call_id = storable(name), encodable(arguments), call_id and storable(call_id)
        async with self._one_at_a_time:
            for earlier in self._not_claimed:
                if (earlier.name, earlier.arguments) == (name, arguments):
                    self._not_claimed.remove(earlier)
                    self._tell_start(earlier.id, name, arguments)
                    self._tell(ToolEnded(bounded(earlier)))
                    return replace(earlier, id=call_id or earlier.id)
            call_id = call_id or f"call_{self._run.turn_id}_{len(self.calls)}"
            self._tell_start(call_id, name, arguments)
            call = ToolCall(id=call_id, name=name, arguments=arguments)
            tool = self._tools.get(name)
            if own is None and isinstance(tool, ExternalTool):
                own = partial(tool.call, arguments)
            if own is not None:
                return await self._journal(call, already(await self._call_outside(own)))
            if isinstance(tool, Tool):
                ids = {"conversation_id": self._run.conversation_id, "turn_id": self._run.turn_id}
                outcome = await call_tool(
                    tool, self._run.user_id, arguments, partial(self._journal, call), **ids
                )
                return replace(self.calls[-1], result=outcome.result)  # whole
            return await self._journal(call, already(ToolOutcome(error=f"There is no tool {name}.")))

    async def _journal(self, call: ToolCall, work: Work[ToolOutcome]) -> ToolCall:
        """Write the journal's next entry in the transaction of the call's work, and tell that the call has ended."""

        async def effect(session: AsyncSession) -> ToolCall:
            outcome = await work(session)
            error = storable(outcome.error) if isinstance(outcome.error, str) else outcome.error
            return replace(call, result=outcome.result, error=error)

        with self._stopping_clock():
            done = await self._store.call(self._run, len(self.calls), effect)
        self.calls.append(bounded(done))
        self._tell(ToolEnded(self.calls[-1]))
        return done

    def _tell_start(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        self._tell(ToolStarted(id=call_id, name=name, arguments=arguments))

    async def _call_outside(self, call: Callable[[], Awaitable[Any]]) -> ToolOutcome:
        """Call outside any transaction: one before makes sure that the turn is still ours, one after journals.

        A process that dies between the two leaves no entry, so the call is made again: at least once.
        """
        await self._store.hold(self._run)
        try:
            return ToolOutcome(result=encodable(await call()))
        except ToolError as error:
            return ToolOutcome(error=str(error))


def already(outcome: ToolOutcome) -> Work[ToolOutcome]:
    """The work of a call that was carried out before its transaction."""

    async def work(_: AsyncSession) -> ToolOutcome:
        return outcome

    return work


def encodable(value: Any) -> Any:
    """The same JSON value without lone surrogates, which JSON can write and UTF-8 cannot."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value
