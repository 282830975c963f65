"""Answers to the calls of a response that waits: what the input says of them, in the words of the turn."""

from collections.abc import Sequence

from msgspec import UNSET

from chatapi.errors.requests import Invalid
from chatapi.openai_api.context import Entry, Outcome, Spoken
from chatapi.openai_api.items import Item, turn_of_item
from chatapi.openai_api.response_input import Given
from chatapi.turns.schemas import Answer


def answers_at_end(entries: Sequence[Entry | Given]) -> list[Given | Outcome]:
    """The answers to calls of ours that come after the last message of the user."""
    last = max(
        (place for place, each in enumerate(entries) if isinstance(each, Spoken) and each.role == "user"),
        default=-1,
    )
    return [
        each
        for each in entries[last + 1 :]
        if isinstance(each, Given)
        # The outcome of a call of the service's own comes back with the history, and answers nothing.
        or (isinstance(each, Outcome) and each.call_id.startswith("call_") and turn_of_item(each.call_id))
    ]


def known(answer: Given | Outcome) -> tuple[int, int]:
    """The turn and the number of the item that is answered; raises `Invalid` for what is no id of ours."""
    found = turn_of_item(answer.request_id if isinstance(answer, Given) else answer.call_id)
    if found is None:
        raise unknown_call(answer)
    return found


def item_of(answer: Given | Outcome, items: Sequence[Item]) -> Item:
    _, number = known(answer)
    kind = "mcp_approval_request" if isinstance(answer, Given) else "function_call"
    if not 0 < number <= len(items) or items[number - 1].kind != kind:
        raise unknown_call(answer)
    return items[number - 1]


def unknown_call(answer: Given | Outcome) -> Invalid:
    if isinstance(answer, Given):
        return Invalid((answer.path, f"There is no approval request {answer.request_id!r} of yours."))
    return Invalid((answer.path, f"No tool call found for the call id {answer.call_id!r}."))


def answer_of(answer: Given | Outcome, item: Item) -> Answer:
    assert item.call is not None  # noqa: S101 - it asks for an answer
    if isinstance(answer, Outcome):
        return Answer(id=item.call.id, output=answer.output)
    return Answer(
        id=item.approval_id or "",
        approved=answer.approved,
        reason=UNSET if answer.reason is None else answer.reason,
    )


def called(item: Item) -> str:
    return item.call_id if item.kind == "function_call" else item.id
