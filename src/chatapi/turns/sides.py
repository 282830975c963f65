"""A conversation whose sides take turns: user, assistant, user, …

Some providers take no other order. Messages of one side in a row are put together.
"""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from chatapi.agent.ports import HistoryMessage, Prompt

# Some providers refuse a conversation that an assistant begins.
OPENING = "(The assistant speaks first.)"
# The state of an assistant's message that nobody's model has given (`turns.store.added`).
ADDED_STATE = {"added": True}


def paragraphs(*texts: str) -> str:
    """The texts as one, each a paragraph; empty ones are left out."""
    return "\n\n".join(filter(None, texts))


def is_added(state: Any) -> bool:
    return bool(state == ADDED_STATE)


def joined(said: Sequence[HistoryMessage]) -> list[HistoryMessage]:
    """The messages, those of one side in a row put together."""
    messages: list[HistoryMessage] = []
    for each in said:
        if messages and messages[-1].role == each.role:
            messages[-1] = together(messages[-1], each)
        else:
            messages.append(each)
    return messages


def together(one: HistoryMessage, other: HistoryMessage) -> HistoryMessage:
    return replace(
        one,
        content=paragraphs(one.content, other.content),
        files=[*one.files, *other.files],
        tool_calls=[*one.tool_calls, *other.tool_calls],
        provider_state=None,  # it is the state of one of the two
    )


def opened(said: Sequence[HistoryMessage]) -> Sequence[HistoryMessage]:
    """The messages, the first one a user's."""
    if said and said[0].role == "assistant":
        return [HistoryMessage(role="user", content=OPENING), *said]
    return said


def taking_turns(
    said: Sequence[HistoryMessage], turn_ids: Sequence[int]
) -> tuple[Sequence[HistoryMessage], Sequence[int]]:
    """Stored messages as a model is shown them, with their turns; of several that are put together, the last one's.

    Only those that were added are in no order, or say nothing by themselves.
    """
    messages: list[HistoryMessage] = []
    turns: list[int] = []
    for each, turn_id in zip(said, turn_ids, strict=True):
        if is_added(each.provider_state) and not (each.content or each.tool_calls):
            continue
        if messages and messages[-1].role == each.role:
            messages[-1], turns[-1] = together(messages[-1], each), turn_id
            continue
        messages.append(each)
        turns.append(turn_id)
    shown = opened(messages)
    return shown, [*turns[: len(shown) - len(messages)], *turns]


def well_formed(prompt: Prompt) -> Prompt:
    """The prompt with a history of whole turns: what was added last, and has no answer, becomes a part of what follows it."""
    question = HistoryMessage(role="user", content=prompt.message, files=prompt.files)
    *before, last = joined([*prompt.history, question])
    if len(before) == len(prompt.history):
        return prompt
    return replace(prompt, history=before, message=last.content, files=last.files)
