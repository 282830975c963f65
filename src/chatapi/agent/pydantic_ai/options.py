"""A caller's options as pydantic-ai's settings."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from pydantic_ai import RunContext
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.settings import ModelSettings

from chatapi.agent.ports import OneTool, OptionName, Options

# The settings of pydantic-ai that our options are, where they have the same meaning.
SETTINGS: Mapping[OptionName, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "max_output_tokens": "max_tokens",
    "stop": "stop_sequences",
    "parallel_tool_calls": "parallel_tool_calls",
}


def taken_options(model: Model) -> Collection[OptionName]:
    """The options that reach this model, or each that may be asked in its place."""
    models = model.models if isinstance(model, FallbackModel) else [model]
    dropped = frozenset[str]().union(*(each.unsupported_settings for each in models))
    passed = [option for option, setting in SETTINGS.items() if setting not in dropped]
    return ("instructions", "tool_choice", *passed)


def settings_of(options: Options) -> ModelSettings:
    given = {
        setting: getattr(options, option) for option, setting in SETTINGS.items() if option in options.named
    }
    return cast("ModelSettings", given)


def settings_of_requests(options: Options) -> Callable[[RunContext[Any]], ModelSettings]:
    """The settings for each request of a run: a model that has called a tool need not call one again."""
    settings, choice = settings_of(options), choice_of(options)

    def of_request(ctx: RunContext[Any]) -> ModelSettings:
        if choice is None or (choice != "none" and ctx.run_step > 1):
            return settings
        return {**settings, "tool_choice": choice}

    return of_request


def choice_of(options: Options) -> Any:
    if isinstance(options.tool_choice, OneTool):
        return [options.tool_choice.name]
    return options.tool_choice
