"""The tools of one run: bound to its user, one call at a time, each journaled with its effect."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.approval import NO_APPROVAL, ApprovalPolicy
from chatapi.agent.ports import Asking, NeedsAnswer, ToolCall, ToolError, ToolSpec
from chatapi.agent.schemas import offer
from chatapi.agent.tools import ExternalTool, Tool, ToolOutcome, call_tool, fault_of_arguments
from chatapi.db.database import Work
from chatapi.parts import Approval, bounded
from chatapi.text import storable
from chatapi.turns.log import ToolEnded, ToolStarted
from chatapi.turns.run_store import CallStore
from chatapi.turns.schemas import Answer, ClientTool, Pending
from chatapi.turns.store import Run
from chatapi.usage.counting import Spending

AnyTool: TypeAlias = Tool[Any] | ExternalTool | ClientTool
Own: TypeAlias = Callable[[], Awaitable[Any]]

NOBODY_ASKED = {
    "approval": "The call needs its user's approval, for which this assistant cannot wait.",
    "client-tool": "The caller carries this call out itself, for which this assistant cannot wait.",
}
NO_FORM = (
    "The call was not made: it needs its user's approval, and nobody can be asked for it here. Tell the user to do this in "
    "the application."
)
# The outcome of an approved call while it is made outside our database: it stays if the process dies meanwhile.
UNKNOWN = "The call was begun, and whether it took effect is not known. Do not make it again without asking."
ASKS_AGAIN = "The call was approved, asked for an answer again, and was not made."


class TurnTools:
    """Implements `agent.ports.Tools`. `calls` are the turn's calls so far, in the journal's order; each is told.

    When a turn is run again, a call that an earlier run made is answered from the journal: the n-th call of a tool
    with the same arguments gets the n-th such entry. A call that ended in an error is made again. `pending` are the
    calls that this run leaves to be answered.
    """

    def __init__(
        self,
        store: CallStore,
        run: Run,
        tools: Mapping[str, Tool[Any] | ExternalTool],
        tell: Callable[[ToolStarted | ToolEnded], None],
        stopping_clock: Callable[[], AbstractContextManager[None]] = nullcontext,
        approval: ApprovalPolicy = NO_APPROVAL,
        spending: Spending | None = None,
    ) -> None:
        told = () if run.wait is None else run.wait.events
        told_calls = {event.call.id for event in told if isinstance(event, ToolEnded)}
        self.calls: list[ToolCall] = [bounded(call) for call in run.journal]
        self.pending: list[Pending] = []
        self._untold: list[ToolStarted] = []
        self._made = {call.id: call for call in run.journal}
        self._asked = {} if run.wait is None else {each.tool_call_id: each for each in run.wait.calls}
        self._not_claimed = [
            call
            for call in run.journal
            if call.error is msgspec.UNSET and call.id not in told_calls and call.id not in self._asked
        ]
        self._ids = {event.id for event in told if isinstance(event, ToolStarted)} | self._made.keys()
        self._store = store
        self._run = run
        self._tools: dict[str, AnyTool] = {**tools, **{tool.name: tool for tool in run.terms.client_tools}}
        self._tell = tell
        self._stopping_clock = stopping_clock  # the assistant's time does not include waits for the database
        self._approval = approval
        self._spending = spending or Spending()
        self._one_at_a_time = asyncio.Lock()  # a model may ask for several at once; the journal has an order

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """Sorted by name: MCP servers come up in any order, and a request's beginning is to stay the same."""
        return [
            replace(spec_of(tool), needs_approval=True) if self._needs_approval(name) else spec_of(tool)
            for name, tool in sorted(self._tools.items())
        ]

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        call_id: str | None = None,
        own: Own | None = None,
        parameters: dict[str, Any] | None = None,
        may_wait: bool = False,
        asks: Asking | None = None,
    ) -> ToolCall:
        # Clean the values once, here, so that the same are streamed, journaled and stored.
        name, arguments, call_id = storable(name), encodable(arguments), call_id and storable(call_id)
        async with self._one_at_a_time:
            if call_id is not None and (asked := self._asked.pop(call_id, None)) is not None:
                return await self._answered(asked, own)
            for earlier in self._not_claimed:
                if (earlier.name, earlier.arguments) == (name, arguments):
                    self._not_claimed.remove(earlier)
                    self._tell(started(earlier))
                    self._tell(ToolEnded(bounded(earlier)))
                    return replace(earlier, id=call_id or earlier.id)
            call = ToolCall(id=self._new_id(call_id), name=name, arguments=arguments)
            kind = asks or self._asks(call)
            is_told = kind is None
            if kind is None:
                self._tell(started(call))
                try:
                    return await self._make(call, own)
                except NeedsAnswer as needed:
                    kind = needed.asks
            if kind == "approval" and not self._run.terms.approvals:
                self._tell(started(call))
                return await self._journal(call, already(ToolOutcome(error=NO_FORM)), writes=False)
            fault = self._fault(call, parameters)  # nobody is asked about a call whose arguments do not hold
            if fault is None and may_wait:
                return self._ask(call, kind)
            if not is_told:
                self._tell(started(call))
            return await self._journal(
                call, already(ToolOutcome(error=fault or NOBODY_ASKED[kind])), writes=False
            )

    def _new_id(self, wanted: str | None) -> str:
        """A model may give an id twice in a turn; ours must tell two calls apart."""
        number = len(self._ids)
        id_ = wanted or f"call_{self._run.turn_id or self._run.run_id}_{number}"
        if id_ in self._ids:
            id_ = f"{id_}_{number}"
        self._ids.add(id_)
        return id_

    def _asks(self, call: ToolCall) -> Asking | None:
        """What the call has to wait for."""
        if isinstance(self._tools.get(call.name), ClientTool):
            return "client-tool"
        return "approval" if self._needs_approval(call.name) else None

    def _needs_approval(self, name: str) -> bool:
        tool = self._tools.get(name)
        if isinstance(tool, ClientTool):
            return False
        return self._approval.needed(name, destructive=tool is not None and tool.destructive)

    def _fault(self, call: ToolCall, parameters: dict[str, Any] | None = None) -> str | None:
        if parameters is not None:
            return fault_of_arguments(offer(parameters).schema, call.arguments)
        match self._tools.get(call.name):
            case Tool() as tool:
                return tool.fault(call.arguments)
            case ExternalTool(parameters=schema):
                return fault_of_arguments(schema, call.arguments)
            case ClientTool(parameters=schema):
                return fault_of_arguments(offer(schema).schema, call.arguments)
        return None

    def _ask(self, call: ToolCall, kind: Asking) -> ToolCall:
        approval = Approval(f"approval_{call.id}") if kind == "approval" else None
        self.pending.append(
            Pending(
                id=call.id if approval is None else approval.id,
                kind=kind,
                tool_call_id=call.id,
                name=call.name,
                arguments=call.arguments,
            )
        )
        self._untold.append(started(call, kind, approval))
        return call

    def tell_pending(self) -> None:
        """Tell of the calls that wait, after all else, so that they are one step: clients answer the last one alone."""
        for each in self._untold:
            self._tell(each)
        self._untold = []

    async def _answered(self, asked: Pending, own: Own | None) -> ToolCall:
        """Make an approved call, or journal the answer that takes its place; once, whatever has died before."""
        assert self._run.wait is not None  # noqa: S101 - where the calls that were asked come from
        number = self._run.wait.number
        if (made := self._made.get(asked.tool_call_id)) is not None:
            self._tell(ToolEnded(bounded(made), number))
            return made
        call = ToolCall(id=asked.tool_call_id, name=asked.name, arguments=asked.arguments)
        answer = self._run.wait.answers[asked.id]
        if answer.approved is not True:
            return await self._journal(call, already(outcome_of(answer)), wait=number, writes=False)
        return await self._make(call, own, wait=number)

    async def _make(self, call: ToolCall, own: Own | None, *, wait: int = 0) -> ToolCall:
        tool = self._tools.get(call.name)
        if own is None and isinstance(tool, ExternalTool):
            own = partial(tool.call, call.arguments)
        if own is not None:
            if wait:
                return await self._make_once(call, own, wait)
            return await self._journal(call, already(await self._call_outside(own)), writes=False)
        if isinstance(tool, Tool):
            ids = {"conversation_id": self._run.conversation_id, "turn_id": self._run.turn_id}
            journal = partial(self._journal, call, wait=wait, writes=not tool.read_only)
            outcome = await call_tool(tool, self._run.user_id, call.arguments, journal, **ids)
            return replace(self.calls[-1], result=outcome.result)  # whole
        fault = f"There is no tool {call.name}." if tool is None else self._fault(call)
        return await self._journal(
            call, already(ToolOutcome(error=fault or "The call was not made.")), wait=wait, writes=False
        )

    async def _make_once(self, call: ToolCall, own: Own, wait: int) -> ToolCall:
        """Make an approved call outside our database: journaled as begun before, so that no other run repeats it."""
        position = len(self.calls)
        await self._record(position, effect_of(call, already(ToolOutcome(error=UNKNOWN))), writes=False)
        self.calls.append(replace(call, error=UNKNOWN))
        try:
            outcome = ToolOutcome(result=encodable(await own()))
        except ToolError as error:
            outcome = ToolOutcome(error=storable(str(error)))
        except NeedsAnswer:
            outcome = ToolOutcome(error=ASKS_AGAIN)
        done = replace(call, result=outcome.result, error=outcome.error)
        with self._stopping_clock():
            await self._store.settle_call(self._run, position, done)
        self.calls[position] = bounded(done)
        self._tell(ToolEnded(self.calls[position], wait))
        return done

    async def _journal(
        self, call: ToolCall, work: Work[ToolOutcome], *, wait: int = 0, writes: bool
    ) -> ToolCall:
        """Write the journal's next entry in the transaction of the call's work, and tell that the call has ended.

        `writes`: the work writes to our database.
        """
        done = await self._record(len(self.calls), effect_of(call, work), writes=writes)
        self.calls.append(bounded(done))
        self._tell(ToolEnded(self.calls[-1], wait))
        return done

    async def _record(self, position: int, effect: Work[ToolCall], *, writes: bool) -> ToolCall:
        """Write an entry in the transaction of the call's work, which counts what was spent until then, too."""
        spent = self._spending.counting(position)
        with self._stopping_clock():
            done = await self._store.call(self._run, position, effect, spent, writes=writes)
        self._spending.counted(spent)
        return done

    async def _call_outside(self, call: Own) -> ToolOutcome:
        """Call outside any transaction: one before makes sure that the turn is still ours, one after journals.

        A process that dies between the two leaves no entry, so the call is made again: at least once.
        """
        with self._stopping_clock():
            await self._store.hold(self._run)
        try:
            return ToolOutcome(result=encodable(await call()))
        except ToolError as error:
            return ToolOutcome(error=str(error))


def started(call: ToolCall, asks: Asking | None = None, approval: Approval | None = None) -> ToolStarted:
    return ToolStarted(id=call.id, name=call.name, arguments=call.arguments, asks=asks, approval=approval)


def spec_of(tool: AnyTool) -> ToolSpec:
    if not isinstance(tool, ClientTool):
        return tool.spec
    offered = offer(tool.parameters)
    return ToolSpec(
        name=tool.name,
        description=offered.describe(tool.description or tool.name),
        parameters=offered.schema,
        is_callers=True,
    )


def outcome_of(answer: Answer) -> ToolOutcome:
    """The outcome of a call that its user has denied, or that the caller has carried out."""
    if answer.approved is False:
        return ToolOutcome(
            error=f"The user did not allow this call{f': {answer.reason}' if answer.reason else '.'}"
        )
    if answer.error is not msgspec.UNSET:
        return ToolOutcome(error=answer.error)
    return ToolOutcome(result=answer.output)


def effect_of(call: ToolCall, work: Work[ToolOutcome]) -> Work[ToolCall]:
    """The work whose result is the call with its outcome."""

    async def effect(session: AsyncSession) -> ToolCall:
        outcome = await work(session)
        error = storable(outcome.error) if isinstance(outcome.error, str) else outcome.error
        return replace(call, result=outcome.result, error=error)

    return effect


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
