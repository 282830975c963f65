"""Runs a pydantic-ai agent for each turn."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, get_args

from pydantic_ai import Agent, AgentRun, DeferredToolRequests, RunUsage, UsageLimits
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.exceptions import AgentRunError, FallbackExceptionGroup
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    UserPromptPart,
)
from pydantic_ai.models import Model

from chatapi.agent.inputs import check_files, of_kinds, shown_files, taken_by
from chatapi.agent.llm import MODEL_REQUESTS
from chatapi.agent.ports import (
    AgentEvent,
    Aside,
    File,
    Finish,
    ModelAddress,
    OptionName,
    Prompt,
    ProviderState,
    ReasoningDelta,
    StepStart,
    TextDelta,
    Tools,
    Wait,
)
from chatapi.agent.pydantic_ai.failures import failure_of
from chatapi.agent.pydantic_ai.history import called, dumped, messages_of, prompt_of, provider_of
from chatapi.agent.pydantic_ai.options import taken_options
from chatapi.agent.pydantic_ai.turn import Turn, addresses_of, used_by
from chatapi.agent.pydantic_ai.waiting import Left
from chatapi.settings import SettingsError

# Whose models pydantic-ai's providers have, as the table names them; any other has models of all makers.
MAKERS = {
    "openai": "openai",
    "openai-chat": "openai",
    "openai-responses": "openai",
    "anthropic": "anthropic",
    "google": "google",
    "google-gla": "google",
    "google-vertex": "google",
}


class PydanticAgent:
    """A pydantic-ai agent as an assistant of the service.

    `deps` makes a run's dependencies from its prompt. By default they are the prompt itself, so a tool that takes
    `RunContext[Prompt]` knows whose turn it is. `task_tools`: the service's own tools are offered, too. `takes` says what the
    model takes beside text, `image` and `pdf`; by default that is what a table says of it.
    """

    def __init__(
        self,
        agent: AbstractAgent[Any, Any],
        *,
        deps: Callable[[Prompt], Any] = lambda prompt: prompt,
        task_tools: bool = True,
        takes: Collection[str] | None = None,
    ) -> None:
        if agent.model is None:
            raise SettingsError("CHAT_MODEL: names a pydantic-ai agent that has no model")
        if not answers_with_text(agent.output_type):
            raise SettingsError(
                "CHAT_MODEL: names a pydantic-ai agent that answers with something else than text"
            )
        os.environ.setdefault("PYDANTIC_AI_NO_BANNER", "1")  # a banner has no place in a server's log
        self._agent = agent
        self._deps = deps
        self._task_tools = task_tools
        self._takes = takes
        self._open = AsyncExitStack()

    @property
    def model(self) -> str:
        model = self._agent.model
        return model.model_id if isinstance(model, Model) else str(model)

    @property
    def models(self) -> Sequence[ModelAddress]:
        model = self._agent.model
        return addresses_of(model) if isinstance(model, Model) else [ModelAddress(str(model), None)]

    @property
    def takes(self) -> Collection[str]:
        """The media types that the model is shown as they are."""
        if self._takes is not None:
            return of_kinds(self._takes)
        provider, _, name = self.model.partition(":")
        return taken_by(MAKERS.get(provider, ""), name)

    @property
    def options(self) -> Collection[OptionName]:
        """Those that pydantic-ai passes on; it would silently drop others."""
        model = self._agent.model
        return taken_options(model) if isinstance(model, Model) else ()

    async def check_files(self, files: Sequence[File]) -> None:
        await check_files(files, self.takes, self.model)

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self._agent)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, traceback)

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        left = None if prompt.resumed is None else Left.read(prompt.resumed.state)
        turn = Turn(
            tools,
            task_tools=self._task_tools,
            asked={} if left is None else left.asked,
            options=prompt.options,
            own_tools=prompt.own_tools,
        )
        shown = await shown_files(
            prompt.files, prompt.history, self.takes, goes_on=prompt.resumed is not None
        )
        asked = prompt_of(prompt.message, prompt.files, shown)
        before: list[ModelMessage] = []
        if left is not None:
            before = [ModelRequest(parts=[UserPromptPart(asked)]), *left.messages_for(self._provider)]
        elif prompt.begun is not None:
            before = [ModelRequest(parts=[UserPromptPart(asked)]), *called(prompt.begun)]
        try:
            async with self._agent.iter(
                None if before else asked,
                message_history=[*messages_of(prompt.history, self._provider, shown), *before],
                deferred_tool_results=None if prompt.resumed is None else await turn.answers(prompt.resumed),
                instructions=prompt.options.instructions,
                deps=self._deps(prompt),
                capabilities=[turn],
                usage=RunUsage() if left is None else left.used,
                usage_limits=UsageLimits(request_limit=MODEL_REQUESTS),
                infer_name=False,
            ) as run:
                async for delta in _said(run, turn, has_said=any(_has_text(each) for each in before)):
                    yield delta
                _, *messages = [
                    *before,
                    *run.new_messages(),
                ]  # the first is the user's, which is stored already
                provider = provider_of(run.ctx.deps.model)
                if (step := run.next_node) and turn.waiting and Agent.is_model_request_node(step):
                    yield Wait(Left.of(messages, step.request, turn.waiting, run.usage, provider).state)
                    return
                for event in self._told_at_the_end(turn, messages, provider):
                    yield event
        except (Exception, asyncio.CancelledError) as error:
            for used in turn.take_used():
                yield used
            if isinstance(error, AgentRunError | FallbackExceptionGroup):
                raise failure_of(error, self.model, began=turn.began) from error
            raise

    async def ask(self, instructions: str, message: str) -> Aside:
        """As `ports.Asks`: the agent's model alone, without the agent's instructions and tools."""
        try:
            answered = await Agent(self._agent.model, instructions=instructions).run(
                message, infer_name=False
            )
        except (AgentRunError, FallbackExceptionGroup) as error:
            raise failure_of(error, self.model, began=False) from error
        model = self._agent.model
        usage = used_by(model, answered.response) if isinstance(model, Model) else None
        return Aside(text=answered.output, model=self.model, usage=usage)

    @property
    def _provider(self) -> str | None:
        return provider_of(self._agent.model) if isinstance(self._agent.model, Model) else None

    def _told_at_the_end(
        self, turn: Turn, messages: Sequence[ModelMessage], provider: str
    ) -> Sequence[AgentEvent]:
        state = ProviderState(model=self.model, data=dumped(messages, provider))
        told: list[AgentEvent] = [Finish("length")] if turn.was_cut else []
        return [*told, state]


async def _said(run: AgentRun[Any, Any], turn: Turn, *, has_said: bool) -> AsyncIterator[AgentEvent]:
    """The answer piece by piece, with its tokens, as far as no call waits.

    Texts before and after tool calls are paragraphs of one answer.
    """
    parting = "\n\n" if has_said else ""
    async for node in run:
        if not Agent.is_model_request_node(node):
            continue
        await turn.settle()
        if turn.waiting:
            return
        yield StepStart()
        said = False
        async with node.stream(run.ctx) as stream:
            async for event in stream:
                turn.began = True
                delta = _delta_of(event)
                if isinstance(delta, TextDelta) and not said:
                    delta = TextDelta(parting + delta.text)
                    said = True
                if delta is not None:
                    yield delta
        for (
            used
        ) in turn.take_used():  # before the tools run: what is told by then is counted with their calls
            yield used
        parting = "\n\n" if said or parting else ""


def answers_with_text(output: Any) -> bool:
    """Whether an agent's `output_type` is text; calls that are put off may be told beside it, as for other callers."""
    types = output if isinstance(output, list | tuple) else get_args(output) or [output]
    return [each for each in types if each is not DeferredToolRequests] == [str]


def _has_text(message: ModelMessage) -> bool:
    return isinstance(message, ModelResponse) and bool(message.text)


def _delta_of(event: AgentStreamEvent) -> TextDelta | ReasoningDelta | None:
    match event:
        case (
            PartStartEvent(part=TextPart(content=text))
            | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
        ) if text:
            return TextDelta(text)
        case (
            PartStartEvent(part=ThinkingPart(content=text))
            | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=text))
        ) if text:  # some providers send only a signature
            return ReasoningDelta(text)
    return None
