"""One turn in a run of pydantic-ai: its tools, its second tries, and what counts as an answer."""

from collections.abc import Sequence
from typing import Any

from pydantic_ai import ModelResponse, RunContext, ToolDefinition
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ToolFailed, ToolFailedError, ToolRetryError
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema, to_jsonable_python

from chatapi.agent.ports import ModelAddress, ModelUsage, ToolCall, ToolError, Tools
from chatapi.agent.pydantic_ai.failures import FILTERED, TRUNCATED
from chatapi.agent.pydantic_ai.history import without_silence
from chatapi.errors.models import ModelFailed, ModelFiltered, ModelTruncated

ARGUMENT_TRIES = 3  # how often a model may call a tool with arguments that are not a JSON object
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


def addresses_of(model: Model) -> Sequence[ModelAddress]:
    """The models that may be asked where this one is."""
    if isinstance(model, FallbackModel):
        return [address for each in model.models for address in addresses_of(each)]
    return [ModelAddress(model.model_id, model.base_url)]


def used_by(model: Model, response: ModelResponse) -> ModelUsage:
    """The tokens of an answer, by the model that was asked, or by the answer's own name if that was one of several."""
    used, name = response.usage, f"{response.provider_name}:{response.model_name}"
    return ModelUsage(
        model=name if isinstance(model, FallbackModel) else model.model_id,
        base_url=response.provider_url,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cached_input_tokens=used.cache_read_tokens,
        cache_write_tokens=used.cache_write_tokens,
    )


def result_of(call: ToolCall) -> Any:
    """The result that the model gets for a call; raises `ToolFailed`, which tells it the error."""
    if isinstance(call.error, str):
        raise ToolFailed(call.error)
    return call.result


class Turn(AbstractCapability[Any]):
    """Made anew for each turn. `began`: the current answer has begun to arrive."""

    def __init__(self, tools: Tools, *, task_tools: bool) -> None:
        self._tools = tools
        self._toolset = TurnToolset(tools) if task_tools else None
        self.began = False
        self.was_cut = False  # by the model's limit of length
        self._used: list[ModelUsage] = []

    def take_used(self) -> Sequence[ModelUsage]:
        """The tokens of the answers since the last time."""
        used, self._used = self._used, []
        return used

    def get_toolset(self) -> AbstractToolset[Any] | None:
        return self._toolset

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        self.began = False
        return request_context

    async def prepare_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        request_context.messages = without_silence(request_context.messages)
        return request_context

    async def after_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        """Refuse an answer that has not come to its end: it must not count, and its calls must not run."""
        if response.finish_reason is not None or response.usage.total_tokens:
            self._used.append(used_by(request_context.model, response))
        match response.finish_reason:
            case "length" if response.tool_calls or not (response.text or "").strip():
                raise ModelTruncated(TRUNCATED)
            case "length":
                self.was_cut = True
            case "content_filter":
                raise ModelFiltered(FILTERED)
            case "error":
                raise ModelFailed("The model gave an answer that cannot be used.")
            # A function or a test model has no provider and gives no reason.
            case None if response.provider_url:
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
        """Record the assistant's own tools like the service's, and make their results JSON, too."""
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
