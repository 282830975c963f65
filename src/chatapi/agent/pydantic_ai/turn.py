"""One turn in a run of pydantic-ai: its tools, its second tries, and what counts as an answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai import ModelResponse, RunContext, ToolDefinition
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.exceptions import (
    ApprovalRequired,
    CallDeferred,
    ToolFailed,
    ToolFailedError,
    ToolRetryError,
)
from pydantic_ai.messages import ToolCallPart, ToolReturn
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied
from pydantic_ai.toolsets import AbstractToolset
from pydantic_core import to_jsonable_python

from chatapi.agent.llm import MODEL_REQUESTS
from chatapi.agent.ports import (
    NO_OPTIONS,
    Asking,
    ModelAddress,
    ModelUsage,
    NeedsAnswer,
    Options,
    Resumed,
    ToolCall,
    ToolError,
    Tools,
)
from chatapi.agent.pydantic_ai.failures import FILTERED, TRUNCATED
from chatapi.agent.pydantic_ai.history import without_silence
from chatapi.agent.pydantic_ai.options import settings_of_requests
from chatapi.agent.pydantic_ai.toolset import AllTools, TurnToolset
from chatapi.agent.pydantic_ai.waiting import Asked
from chatapi.agent.wire.formats import CallIds
from chatapi.errors.models import ModelFailed, ModelFiltered, ModelTruncated

NO_MORE = "The call could not be made any more: the assistant has changed since it was approved."
PENDING = "pending"  # the result of a call that waits; nobody sees it, because the run ends after the step


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
    """Made anew for each run of a turn. `began`: the current answer has begun to arrive.

    `waiting` has the calls of the step that need an answer, by pydantic-ai's ids. `asked` are those of the step from
    which the run goes on.
    """

    def __init__(
        self,
        tools: Tools,
        *,
        task_tools: bool,
        asked: Mapping[str, Asked],
        options: Options = NO_OPTIONS,
        own_tools: bool = True,
    ) -> None:
        self._options = options
        self._own_tools = own_tools
        self._tools = tools
        told = [spec for spec in tools.specs if task_tools or spec.is_callers]
        self._specs = [spec for spec in told if not (spec.gives_way and own_tools)]
        self._spare = [spec for spec in told if spec.gives_way and own_tools]
        self._names = {spec.name for spec in self._specs}
        self._toolset = TurnToolset(self._specs) if self._specs else None
        self._asking: dict[str, Asking] = {}
        self._asked = dict(asked)
        self._step = set(asked)  # the ids of the calls in the model's last answer
        self._metadata: dict[str, Any] = {}
        self.waiting: dict[str, Asked] = {}
        self.began = False
        self.was_cut = False  # by the model's limit of length
        self._used: list[ModelUsage] = []

    def take_used(self) -> Sequence[ModelUsage]:
        """The tokens of the answers since the last time."""
        used, self._used = self._used, []
        return used

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(
            position="outermost"
        )  # a handler of the agent's own must not answer for the user

    def get_toolset(self) -> AbstractToolset[Any] | None:
        return self._toolset

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Without tools of the assistant's own, the toolset is not asked: a name that is the caller's, too, fails a run."""
        tools = toolset if self._own_tools else TurnToolset(self._specs)
        return AllTools(tools, self._asking, self._spare, self._names)

    def get_model_settings(self) -> Callable[[RunContext[Any]], ModelSettings]:
        return settings_of_requests(self._options)

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
            case "length" if self._options.max_output_tokens is not None and not response.tool_calls:
                self.was_cut = True
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
        response = with_distinct_ids(response)
        self._step = {call.tool_call_id for call in response.tool_calls}
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
        if call.tool_name in self._names:
            return result_of(await self._call(call, may_wait=self._may_wait(ctx, call)))

        async def own() -> Any:
            try:
                return to_jsonable_python(await handler(args))
            except (ToolFailedError, ToolRetryError) as error:
                raise ToolError(str(error)) from error
            except (ApprovalRequired, CallDeferred) as error:
                self._metadata[call.tool_call_id] = error.metadata
                asks: Asking = "approval" if isinstance(error, ApprovalRequired) else "client-tool"
                raise NeedsAnswer(asks) from error

        declared = self._asking.get(call.tool_name)
        may_wait = self._may_wait(ctx, call)
        parameters = tool_def.parameters_json_schema
        return result_of(await self._call(call, own, parameters, declared, may_wait=may_wait))

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults:
        """End the step. Calls that a validator of the agent's has put off come here without having been made."""
        results = DeferredToolResults()
        for call in requests.approvals:
            results.approvals[call.tool_call_id] = ToolDenied(
                await self._put_off(ctx, call, requests, "approval")
            )
        for call in requests.calls:
            results.calls[call.tool_call_id] = await self._put_off(ctx, call, requests, "client-tool")
        return results

    async def _put_off(
        self, ctx: RunContext[Any], call: ToolCallPart, requests: DeferredToolRequests, asks: Asking
    ) -> str:
        """Let the call wait, if it does not; returns what the run is told instead of its outcome."""
        id_ = call.tool_call_id
        if id_ in self.waiting:
            return PENDING
        self._metadata[id_] = requests.metadata.get(id_)
        try:
            may_wait = self._may_wait(ctx, call)
            return str((await self._call(call, cannot_be_made, asks=asks, may_wait=may_wait)).error)
        except CallDeferred:
            return PENDING

    async def answers(self, resumed: Resumed) -> DeferredToolResults:
        """The answers to the calls from which the run goes on. Those that were approved are then made like others."""
        results = DeferredToolResults()
        for id_, asked in list(self._asked.items()):
            if asked.id in resumed.approved:
                results.approvals[id_] = ToolApproved()
                if asked.metadata is not None:
                    results.metadata[id_] = asked.metadata
            else:
                results.calls[id_] = outcome_of(await self._call(asked.part(id_)))
        return results

    async def settle(self) -> None:
        """Give an outcome to the approved calls that could not be made any more."""
        for id_, asked in list(self._asked.items()):
            await self._call(asked.part(id_), cannot_be_made)

    def _may_wait(self, ctx: RunContext[Any], call: ToolCallPart) -> bool:
        """Not in the middle of another tool, and not where the model would not be told of the answer."""
        return call.tool_call_id in self._step and ctx.usage.requests < MODEL_REQUESTS

    async def _call(
        self,
        call: ToolCallPart,
        own: Any = None,
        parameters: dict[str, Any] | None = None,
        asks: Asking | None = None,
        *,
        may_wait: bool = False,
    ) -> ToolCall:
        """Make a call, or what has been asked about; raises `CallDeferred` for a call that waits."""
        asked = self._asked.pop(call.tool_call_id, None)
        made = await self._tools.call(
            call.tool_name,
            call.args_as_dict(),
            call_id=call.tool_call_id if asked is None else asked.id,
            own=own,
            parameters=parameters,
            may_wait=may_wait,
            asks=asks,
        )
        if made.waits:
            self.waiting[call.tool_call_id] = Asked(
                id=made.id,
                name=made.name,
                arguments=made.arguments,
                metadata=to_jsonable_python(self._metadata.get(call.tool_call_id)),
            )
            raise CallDeferred
        return made


async def cannot_be_made() -> Any:
    raise ToolError(NO_MORE)


def outcome_of(call: ToolCall) -> Any:
    """The outcome for pydantic-ai, which takes values of some shapes for its own if they are not wrapped."""
    return ToolFailed(call.error) if isinstance(call.error, str) else ToolReturn(return_value=call.result)


def with_distinct_ids(response: ModelResponse) -> ModelResponse:
    """The answer with another id for each call whose id is that of a call before it: answers are given by ids."""
    ids = CallIds()
    parts = [
        replace(part, tool_call_id=ids.of(part.tool_call_id, str(place)))
        if isinstance(part, ToolCallPart)
        else part
        for place, part in enumerate(response.parts)
    ]
    return replace(response, parts=parts)
