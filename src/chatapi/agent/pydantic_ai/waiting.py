"""What a run of pydantic-ai leaves behind when its turn waits, and how another run goes on from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import TypeAdapter
from pydantic_ai import RunUsage
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolCallPart, ToolReturnPart

from chatapi.agent.pydantic_ai.history import dumped, loaded, portable

USAGE = TypeAdapter(RunUsage)


class Asked(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that waits for an answer: as the service has it, and what its tool said of it to pydantic-ai."""

    id: str
    name: str
    arguments: dict[str, Any]
    metadata: Any = None

    def part(self, id_: str) -> ToolCallPart:
        return ToolCallPart(self.name, self.arguments, tool_call_id=id_)


class Left(Struct, frozen=True, kw_only=True):
    """The turn so far: its messages after its user's, the calls that wait by pydantic-ai's ids, and its usage."""

    provider: str
    messages: list[dict[str, Any]]
    asked: dict[str, Asked]
    usage: dict[str, Any]

    @classmethod
    def of(
        cls,
        messages: Sequence[ModelMessage],
        request: ModelRequest,
        asked: Mapping[str, Asked],
        usage: RunUsage,
        provider: str,
    ) -> "Left":
        """`request` has the outcomes of the step's calls; those of the calls that wait are none."""
        parts = [
            part
            for part in request.parts
            if not (isinstance(part, ToolReturnPart) and part.tool_call_id in asked)
        ]
        rest = [ModelRequest(parts=parts)] if parts else []
        return cls(
            **dumped([*messages, *rest], provider),
            asked=dict(asked),
            usage=USAGE.dump_python(usage, mode="json"),
        )

    @classmethod
    def read(cls, state: Any) -> "Left":
        return msgspec.convert(state, cls)

    @property
    def state(self) -> Any:
        return msgspec.to_builtins(self)

    def messages_for(self, provider: str | None) -> list[ModelMessage]:
        messages = loaded(self.messages)
        return messages if provider == self.provider else portable(messages)

    @property
    def used(self) -> RunUsage:
        return USAGE.validate_python(self.usage)
