"""The tools of a turn in pydantic-ai's form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_ai import RunContext, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_core import SchemaValidator, core_schema

from chatapi.agent.ports import Asking, ToolSpec

ARGUMENT_TRIES = 3  # how often a model may call a tool with arguments that are not a JSON object
ANY_OBJECT = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))


class TurnToolset(AbstractToolset[Any]):
    """The tools of `agent.ports`, offered as they are described there, called one at a time."""

    def __init__(self, specs: Sequence[ToolSpec]) -> None:
        self._specs = specs

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
            for spec in self._specs
        }

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: RunContext[Any],
        tool: ToolsetTool[Any],
    ) -> Any:
        raise NotImplementedError  # `Turn.wrap_tool_execute` calls it


@dataclass
class AllTools(WrapperToolset[Any]):
    """All tools of a run as functions, so that their calls come to `Turn.wrap_tool_execute` in the model's order.

    `spare` are tools of the service that are offered if the assistant has none with their names; `ours` then gets these.
    `asking` gets the names of those for which pydantic-ai would wait without calling them. An external tool would fail
    the run at the first call with half a JSON object, however many tries the agent has.
    """

    asking: dict[str, Asking]
    spare: Sequence[ToolSpec]
    ours: set[str]

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        found = await super().get_tools(ctx)
        if spare := [spec for spec in self.spare if spec.name not in found]:
            found |= await TurnToolset(spare).get_tools(ctx)
            self.ours.update(spec.name for spec in spare)
        for name, tool in found.items():
            match tool.tool_def.kind:
                case "unapproved":
                    self.asking[name] = "approval"
                    found[name] = as_function(tool)
                case "external":
                    self.asking[name] = "client-tool"
                    opened = replace(tool, max_retries=ARGUMENT_TRIES, args_validator=ANY_OBJECT)
                    found[name] = as_function(opened)
        return found


def as_function(tool: ToolsetTool[Any]) -> ToolsetTool[Any]:
    return replace(tool, tool_def=replace(tool.tool_def, kind="function"))
