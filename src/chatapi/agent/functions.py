"""An assistant's own functions as tools: the model sees their names, types and docstrings."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

from chatapi.agent.ports import Prompt, ToolError, ToolSpec
from chatapi.agent.tools import object_schema
from chatapi.settings import SettingsError
from chatapi.text import path_and_message


class Function:
    """A function as a tool; raises `SettingsError` if it cannot be described to a model.

    The annotations make its parameters JSON values (`Annotated[str, msgspec.Meta(description=…)]` describes one). A
    first parameter of type `Prompt` gets the turn's prompt and is hidden from the model. The function may be
    asynchronous, and raises `ToolError` for what the model should correct.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name: str = getattr(function, "__name__", type(function).__name__)
        self._function = function
        try:
            hints = get_type_hints(function, include_extras=True)
            parameters = list(inspect.signature(function).parameters.values())
            self._takes_prompt = bool(parameters) and hints.get(parameters[0].name) is Prompt
            fields: list[Any] = [
                (each.name, hints[each.name])
                if each.default is each.empty
                else (each.name, hints[each.name], each.default)
                for each in parameters[self._takes_prompt :]
            ]
            self._arguments = msgspec.defstruct(self.name, fields, kw_only=True, forbid_unknown_fields=True)
            schema = object_schema(self._arguments)
        except (TypeError, ValueError, NameError, KeyError) as error:
            raise SettingsError(
                f"CHAT_MODEL: the tool {self.name} needs parameters of JSON types, annotated: {error}"
            ) from error
        description = inspect.getdoc(function) or self.name
        self.spec = ToolSpec(name=self.name, description=description, parameters=schema)

    async def __call__(self, prompt: Prompt, arguments: dict[str, Any]) -> Any:
        """The result as a JSON value; raises `ToolError`."""
        try:
            values = msgspec.structs.asdict(msgspec.convert(arguments, self._arguments))
        except msgspec.ValidationError as error:
            path, message = path_and_message(error)
            raise ToolError(f"{path or 'The call'}: {message}") from error
        given = [prompt] if self._takes_prompt else []
        if inspect.iscoroutinefunction(self._function):
            result = await self._function(*given, **values)
        else:
            result = await asyncio.to_thread(self._function, *given, **values)
        return msgspec.to_builtins(result, builtin_types=())
