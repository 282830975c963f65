"""The tools of one run: bound to its user, one call at a time, each journaled with its effect."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import ToolCall, ToolSpec
from chatapi.agent.tools import ExternalTool, Tool, ToolError
from chatapi.chat import store
from chatapi.db.config import Database


class TurnTools:
    """Implements `agent.ports.Tools`. `calls` are the turn's calls so far, in the order of the journal.

    When a turn is run again, a call that an earlier run made is answered from the journal: the n-th call of the same
    tool with the same arguments is the n-th of the journal. A call that had ended in an error is made again.
    """

    def __init__(
        self, database: Database, run: store.Run, tools: Mapping[str, Tool[Any] | ExternalTool]
    ) -> None:
        self.calls: list[ToolCall] = list(run.journal)
        self._not_claimed = [call for call in run.journal if call.error is msgspec.UNSET]
        self._database = database
        self._run = run
        self._tools = tools
        self._one_at_a_time = asyncio.Lock()  # a model may ask for several at once; the journal has an order

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return [tool.spec for tool in self._tools.values()]

    async def call(self, name: str, arguments: dict[str, Any], *, call_id: str | None = None) -> ToolCall:
        async with self._one_at_a_time:
            for earlier in self._not_claimed:
                if (earlier.name, earlier.arguments) == (name, arguments):
                    self._not_claimed.remove(earlier)
                    return replace(earlier, id=call_id or earlier.id)
            position = len(self.calls)
            call_id = call_id or f"call_{self._run.turn_id}_{position}"
            tool = self._tools.get(name)
            if isinstance(tool, ExternalTool):
                done, own = await self._call_outside(tool, arguments, call_id), None
            else:
                done, own = None, tool

            async def carry_out(session: AsyncSession) -> ToolCall:
                await store.hold(session, self._run)
                call = done or await self._carry_out(session, own, name, arguments, call_id)
                await store.record_call(session, self._run, position, call)
                return call

            async def look_up(session: AsyncSession) -> ToolCall | None:
                await store.hold(session, self._run)
                written = await store.read_journal(session, self._run.user_id, self._run.turn_id)
                return written[position] if len(written) > position else None

            call = await self._database.run(carry_out, look_up)
            self.calls.append(call)
            return call

    async def _call_outside(self, tool: ExternalTool, arguments: dict[str, Any], call_id: str) -> ToolCall:
        """In no transaction: one before it makes sure that the turn is still ours, and one after it journals.

        A process that dies between the two leaves no entry, and the call is made again: at least once.
        """
        await self._database.run(lambda session: store.hold(session, self._run))
        return await outcome(tool.call(arguments), tool.name, arguments, call_id)

    async def _carry_out(
        self,
        session: AsyncSession,
        tool: Tool[Any] | None,
        name: str,
        arguments: dict[str, Any],
        call_id: str,
    ) -> ToolCall:
        if tool is None:
            return ToolCall(id=call_id, name=name, arguments=arguments, error=f"There is no tool {name}.")
        return await outcome(tool(session, self._run.user_id, arguments), name, arguments, call_id)


async def outcome(doing: Awaitable[Any], name: str, arguments: dict[str, Any], call_id: str) -> ToolCall:
    try:
        return ToolCall(id=call_id, name=name, arguments=arguments, result=await doing)
    except ToolError as error:
        return ToolCall(id=call_id, name=name, arguments=arguments, error=str(error))
