"""One turn, as pydantic-ai's run sees it: its tools, its second tries, and what counts as an answer."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from pydantic_ai import ModelResponse, RunContext, ToolDefinition
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import (
    ModelAPIError,
    RetryModelRequest,
    ToolFailed,
    ToolFailedError,
    ToolRetryError,
)
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema, to_jsonable_python

from chatapi.agent.llm.failures import FILTERED, TRUNCATED, is_busy, is_slow, passes
from chatapi.agent.llm.history import for_model
from chatapi.agent.llm.providers import Candidate
from chatapi.agent.ports import ToolCall, ToolError, Tools
from chatapi.errors import ModelFailed, ModelFiltered, ModelTruncated

ROUNDS = 3  # how often the list of models is gone through in a turn
PAUSE_SECONDS = 0.25  # before the second round, doubled before the third
LONGEST_PAUSE_SECONDS = (
    2.0  # a provider that wants more is not waited for: the client is told how long it takes
)
ARGUMENT_TRIES = 3  # how often a model may call a tool with what is not a JSON object
ANY_OBJECT = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))


class TurnToolset(AbstractToolset[Any]):
    """The tools of `agent.ports`, offered as they are described there, called one at a time."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.specs = {spec.name: spec for spec in tools.specs}

    @property
    def id(self) -> str:
        return "chatapi"

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        return {
            spec.name: ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(
                    name=spec.name,
                    description=spec.description,
                    parameters_json_schema=spec.parameters,
                    sequential=True,
                ),
                max_retries=ARGUMENT_TRIES,
                args_validator=ANY_OBJECT,
            )
            for spec in self.specs.values()
        }

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: RunContext[Any],
        tool: ToolsetTool[Any],
    ) -> Any:
        return result_of(await self._tools.call(name, tool_args, call_id=ctx.tool_call_id))


def result_of(call: ToolCall) -> Any:
    """What the model is told of a call; raises `ToolFailed`, which tells it what was wrong."""
    if isinstance(call.error, str):
        raise ToolFailed(call.error)
    return call.result


class Turn(AbstractCapability[Any]):
    """Made anew for each turn. `began` says whether the answer under way has begun to arrive."""

    def __init__(self, tools: Tools, candidates: Sequence[Candidate], *, task_tools: bool) -> None:
        self._tools = tools
        self._toolset = TurnToolset(tools) if task_tools else None
        self._candidates = candidates
        self._asked = 0
        self._failures: list[ModelAPIError] = []
        self.began = False

    @property
    def name(self) -> str | None:
        """Who is being asked, if it is for us to choose."""
        return self._candidates[self._asked].name if self._candidates else None

    def get_toolset(self) -> AbstractToolset[Any] | None:
        return self._toolset

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """A turn that had to go on to another model stays with it."""
        self.began = False
        if self._candidates:
            request_context.model = self._candidates[self._asked].model
        return request_context

    async def prepare_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        request_context.messages = for_model(request_context.messages, request_context.model)
        return request_context

    async def on_model_request_error(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, error: Exception
    ) -> ModelResponse:
        """Called only as long as nothing of the answer has arrived: ask again, or the next."""
        if not isinstance(error, ModelAPIError) or not passes(error) or not self._candidates:
            raise error
        raise RetryModelRequest(await self._next(error))

    async def _next(self, error: ModelAPIError) -> Model:
        """Whom to ask instead; raises the failure that says most when all have been asked often enough."""
        self._failures.append(error)
        count = len(self._candidates)
        rounds, place = divmod(len(self._failures), count)
        if place == 0:
            failure = next((each for each in self._failures if is_busy(each)), error)
            pause = PAUSE_SECONDS * 2 ** (rounds - 1) * random.uniform(0.5, 1)  # noqa: S311 - to keep callers apart
            pause = max(pause, failure.retry_after or 0)
            if rounds >= ROUNDS or pause > LONGEST_PAUSE_SECONDS or is_slow(error):
                raise failure
            await asyncio.sleep(pause)
        self._asked = (self._asked + 1) % count
        return self._candidates[self._asked].model

    async def after_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        """An answer is one that has come to its end; what has not must not pass for one, nor its calls be made."""
        match response.finish_reason:
            case "length":
                raise ModelTruncated(TRUNCATED)
            case "content_filter":
                raise ModelFiltered(FILTERED)
            case "error":
                raise ModelFailed("The model gave an answer that cannot be used.")
            case None if (
                response.provider_url
            ):  # a function or a test model in the place of one knows no reason
                raise ModelTruncated(TRUNCATED)
        return response

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Any,
    ) -> Any:
        """An assistant's own tools are recorded as the service's are, and their results are JSON as well."""
        if self._toolset is not None and tool_def.name in self._toolset.specs:
            return await handler(args)

        async def own() -> Any:
            try:
                return to_jsonable_python(await handler(args))
            except (ToolFailedError, ToolRetryError) as error:
                raise ToolError(str(error)) from error

        arguments = call.args_as_dict()
        return result_of(
            await self._tools.call(call.tool_name, arguments, call_id=call.tool_call_id, own=own)
        )
