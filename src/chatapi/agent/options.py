"""Refuses options that an agent does not take, before it is asked."""

from collections.abc import Collection

from chatapi.agent.ports import Agent, OptionName, Options, TakesOptions
from chatapi.errors.models import OptionNotSupported

NOTHING: frozenset[OptionName] = frozenset()


def check_options(agent: Agent, options: Options) -> None:
    """Raise `OptionNotSupported` for the first option that would not hold."""
    if not (named := options.named):
        return  # nearly always; `isinstance` with a protocol takes longer than all else here
    taken: Collection[OptionName] = agent.options if isinstance(agent, TakesOptions) else NOTHING
    for name in named:
        if name not in taken:
            raise OptionNotSupported(name, agent.model)
