"""Measures a turn: its time, spans and tokens. Wrappers measure the agent and its tools from outside.

A context variable holds the turn under way, so that measured code need not be handed its clock.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, ParamSpec, Self, TypeAlias

from msgspec import UNSET
from opentelemetry.trace import Span

from chatapi.agent.ports import (
    Agent,
    AgentEvent,
    Asking,
    Prompt,
    ProviderState,
    TextDelta,
    ToolCall,
    Tools,
    ToolSpec,
    Usage,
)
from chatapi.agent.providers import PROVIDERS
from chatapi.context import current_request
from chatapi.metrics import Metrics
from chatapi.text import storable
from chatapi.tracing import Tracing, fail
from chatapi.usage.meter import Meter

P = ParamSpec("P")
Part: TypeAlias = Literal["history", "store", "model", "tools"]


class Telemetry(NamedTuple):
    metrics: Metrics
    tracing: Tracing

    async def turn(self, run: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a turn with a clock and a span of its own."""
        with self.tracing.span("turn", {"gen_ai.operation.name": "invoke_agent"}) as span:
            current_turn.set(TurnMeasure(self.metrics, span))
            running = run(*args, **kwargs)
            del args, kwargs  # what a turn began with is not needed for as long as it runs
            await running


class TurnMeasure:
    """The clock of one turn, from its request to its stored end.

    Written as a class, and so are its parts: a context manager that is a generator takes 0.4 KiB for as long as a model thinks.
    """

    def __init__(self, metrics: Metrics, span: Span | None) -> None:
        self._metrics = metrics
        self._span = span
        self._began = time.perf_counter()
        self._seconds: dict[Part, float] = {}
        self.inner = 0.0  # seconds of the part under way that belong to parts inside it
        self._tools_running = 0
        self._tools_began = 0.0
        self.outcome = "completed"

    def part(self, name: Part) -> "MeasuredPart":
        """Count the block's time for this part, and not for the part around it."""
        return MeasuredPart(self, name)

    @contextmanager
    def tool(self) -> Iterator[None]:
        """As `part`; the time of several calls at once counts once."""
        if self._tools_running == 0:
            self._tools_began = time.perf_counter()
        self._tools_running += 1
        try:
            yield
        finally:
            self._tools_running -= 1
            if self._tools_running == 0:
                elapsed = time.perf_counter() - self._tools_began
                self.add("tools", elapsed)
                self.inner += elapsed

    def run(self, turn_id: int, conversation_id: int) -> Self:
        """Count the turn as active until the block ends. A run without a turn has 0 in the place of both ids."""
        if turn_id and (request := current_request.get()) is not None:
            request.turn_id = turn_id
        if turn_id and self._span is not None:
            self._span.set_attribute("chatapi.turn.id", turn_id)
            self._span.set_attribute("gen_ai.conversation.id", str(conversation_id))
        return self

    def __enter__(self) -> None:
        self._metrics.turns_active.inc()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._metrics.turns_active.dec()
        if error is not None:
            self.outcome = str(getattr(error, "type", "interrupted"))
            if self._span is not None:
                fail(self._span, error)
        self._observe(self.outcome)

    def said_first(self) -> None:
        self._metrics.first_token_seconds.observe(time.perf_counter() - self._began)

    def add(self, name: Part, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def _observe(self, outcome: str) -> None:
        metrics = self._metrics
        metrics.turn_seconds.labels(outcome).observe(time.perf_counter() - self._began)
        for name, histogram in (
            ("history", metrics.history_load_seconds),
            ("store", metrics.turn_store_seconds),
            ("model", metrics.turn_model_seconds),
            ("tools", metrics.turn_tools_seconds),
        ):
            if name in self._seconds:
                histogram.observe(self._seconds[name])


class MeasuredPart:
    """A block whose time counts for one part of a turn."""

    __slots__ = ("_before", "_began", "_name", "_turn")

    def __init__(self, turn: TurnMeasure, name: Part) -> None:
        self._turn = turn
        self._name = name

    def __enter__(self) -> None:
        self._began, self._before = time.perf_counter(), self._turn.inner
        self._turn.inner = 0.0

    def __exit__(self, *_: object) -> None:
        elapsed = time.perf_counter() - self._began
        self._turn.add(self._name, elapsed - self._turn.inner)
        self._turn.inner = self._before + elapsed


current_turn: ContextVar[TurnMeasure] = ContextVar("current_turn")


def measuring(part: Part) -> AbstractContextManager[None]:
    """Count the block's time for this part of the turn under way, if there is one."""
    turn = current_turn.get(None)
    return nullcontext() if turn is None else turn.part(part)


def measured_run(turn_id: int, conversation_id: int) -> AbstractContextManager[None]:
    """Count the turn under way as active; see `TurnMeasure.run`."""
    return current_turn.get().run(turn_id, conversation_id)


def measured_as(outcome: str) -> None:
    """Count the turn under way as one that has ended so, and not as completed."""
    current_turn.get().outcome = outcome


class MeasuredAgent:
    """Implements `agent.ports.Agent` around another agent, and measures that for the turn under way.

    It yields each `Usage` as `Spent`, with its cost.
    """

    def __init__(self, agent: Agent, telemetry: Telemetry, meter: Meter) -> None:
        self._agent = agent
        self._metrics, self._tracing = telemetry
        self._meter = meter

    @property
    def model(self) -> str:
        return self._agent.model

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        turn = current_turn.get()
        call = ModelCall(self._agent.model, prompt.conversation_id, self._tracing)
        silent, turns = True, 1 if prompt.resumed is None else 0
        self._meter.begin()
        with turn.part("model"), call:
            async for event in self._agent.reply(
                prompt, MeasuredTools(tools, turn, self._metrics, self._tracing)
            ):
                match event:
                    case TextDelta() if silent:
                        silent = False
                        turn.said_first()
                    case Usage():
                        spent, turns = self._meter.spent(event, turns=turns), 0
                        call.add(spent)
                        yield spent
                        continue
                    case ProviderState():
                        call.answered_by = event.model
                yield event


class ModelCall:
    """The span of one reply, with its tokens; a context manager."""

    def __init__(self, model: str, conversation_id: int, tracing: Tracing) -> None:
        self.answered_by = model
        self._input = self._output = 0
        prefix, _, name = model.partition(",")[0].partition(":")
        provider = PROVIDERS[prefix].telemetry if prefix in PROVIDERS else prefix
        self._span = tracing.begin(
            f"chat {name or prefix}",
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": name or prefix,
                **({"gen_ai.conversation.id": str(conversation_id)} if conversation_id else {}),
            },
        )

    def add(self, usage: Usage) -> None:
        self._input += usage.input_tokens
        self._output += usage.output_tokens

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._span is None:
            return
        if error is not None:
            fail(self._span, error)
        self._span.set_attribute("gen_ai.response.model", self.answered_by.rpartition(":")[2])
        if self._input or self._output:
            self._span.set_attribute("gen_ai.usage.input_tokens", self._input)
            self._span.set_attribute("gen_ai.usage.output_tokens", self._output)
        self._span.end()


class MeasuredTools:
    """Implements `agent.ports.Tools` around other tools, and measures their calls."""

    def __init__(self, tools: Tools, turn: TurnMeasure, metrics: Metrics, tracing: Tracing) -> None:
        self._tools = tools
        self._turn = turn
        self._metrics = metrics
        self._tracing = tracing

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return self._tools.specs

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        call_id: str | None = None,
        own: Callable[[], Awaitable[Any]] | None = None,
        parameters: dict[str, Any] | None = None,
        may_wait: bool = False,
        asks: Asking | None = None,
    ) -> ToolCall:
        # A model may invent names. They all count as one, or the number of time series would have no limit.
        known = own is not None or any(spec.name == name for spec in self.specs)
        tool = storable(name) if known else "unknown"
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool,
            "gen_ai.tool.call.id": call_id,
        }
        outcome = "failure"
        try:
            with self._turn.tool(), self._tracing.span(f"execute_tool {tool}", attributes) as span:
                call = await self._tools.call(
                    name,
                    arguments,
                    call_id=call_id,
                    own=own,
                    parameters=parameters,
                    may_wait=may_wait,
                    asks=asks,
                )
                if call.waits:
                    outcome = "waiting"
                elif call.error is UNSET:
                    outcome = "success"
                elif span is not None:
                    span.set_attribute("error.type", "tool-error")
                return call
        finally:
            self._metrics.tool_calls.labels(tool, outcome).inc()
