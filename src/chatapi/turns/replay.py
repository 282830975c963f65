"""The events of a stored message: its stream again, though in other pieces."""

from collections.abc import Sequence

from msgspec import UNSET
from msgspec.structs import replace

from chatapi.agent.ports import ToolCall
from chatapi.parts import Call, Part, Reasoning, Step, Text, usual
from chatapi.turns.log import ReasoningAdded, TextAdded, ToolEnded, ToolStarted, TurnEvent

NOT_MADE = "The call was not made: nobody had answered when the turn ended ({})."


def events_of(outline: Sequence[Part] | None, content: str, calls: Sequence[ToolCall]) -> list[TurnEvent]:
    """Events whose stream shows what the message's own stream has shown."""
    made = {call.id: call for call in calls}
    events: list[TurnEvent] = []
    ended: list[ToolEnded] = []  # the outcomes of the step's calls; text after an outcome would begin a step
    begins_step = False
    place = 0
    before: Part | None = None
    for part in usual(content, calls) if outline is None else outline:
        match part:
            case Step():
                events += in_order(ended)
                ended = []
            case Text(length=length, text=text, taken_back=taken_back):
                if isinstance(before, Text) and not before.taken_back:  # versions before did not say so
                    events.append(TextAdded("", was_reasoning=True))
                said = content[place : place + length] if text is UNSET else text
                place += length
                events.append(TextAdded(said, begins_step))
                if taken_back:
                    events.append(TextAdded("", was_reasoning=True))
            case Reasoning(text=text):
                events.append(ReasoningAdded(text, begins_step))
            case Call():
                call = made.get(part.id) or ToolCall(id=part.id, name=part.name, arguments=part.arguments)
                events.append(
                    ToolStarted(
                        id=call.id,
                        name=call.name,
                        arguments=call.arguments,
                        begins_step=begins_step,
                        asks=part.asks,
                        approval=part.approval,
                    )
                )
                if not call.waits:
                    ended.append(ToolEnded(call, part.wait))
        before, begins_step = part, isinstance(part, Step)
    return events + in_order(ended)


def in_order(ended: Sequence[ToolEnded]) -> list[ToolEnded]:
    """Outcomes that came at once, and then those for which the turn has waited."""
    return sorted(ended, key=lambda event: event.wait)


def rest_of(events: Sequence[TurnEvent], told: Sequence[TurnEvent]) -> list[TurnEvent]:
    """What is left of a turn's events when `told`, a beginning of them in other pieces, has been told."""
    characters = sum(len(event.text) for event in told if isinstance(event, TextAdded | ReasoningAdded))
    started = {(event.id, event.asks) for event in told if isinstance(event, ToolStarted)}
    ended = {event.call.id for event in told if isinstance(event, ToolEnded)}
    rest: list[TurnEvent] = []
    outcomes: list[TurnEvent] = []
    late: list[
        TurnEvent
    ] = []  # outcomes that came after what was told: before the rest of a text they would cut it in two
    for event in events:
        left: TextAdded | ReasoningAdded | ToolStarted | None = None
        match event:
            case ToolEnded(call=call):
                outcomes += [] if call.id in ended else [event]
                continue
            case ToolStarted(id=id_, asks=asks):
                is_new = (id_, asks) not in started
                left = event if is_new else None
            case TextAdded() | ReasoningAdded():
                size, is_new = len(event.text), not characters
                if size > characters:
                    left = type(event)(event.text[characters:], event.begins_step and is_new)
                elif not size and is_new:
                    left = event
                characters = max(characters - size, 0)
        if is_new:
            rest += [*late, *outcomes] if event.begins_step else outcomes
            late = [] if event.begins_step else late
        else:
            late += outcomes
        outcomes = []
        rest += [] if left is None else [left]
    return [*rest, *late, *outcomes]


def joined(events: Sequence[TurnEvent]) -> list[TurnEvent]:
    """The same events, with consecutive deltas of a step joined into one."""
    result: list[TurnEvent] = []
    for event in events:
        last = result[-1] if result else None
        if (
            isinstance(event, TextAdded | ReasoningAdded)
            and type(event) is type(last)
            and not (event.begins_step or was_taken_back(event) or was_taken_back(last))
        ):
            result[-1] = replace(last, text=last.text + event.text)
        else:
            result.append(event)
    return result


def was_taken_back(event: TextAdded | ReasoningAdded) -> bool:
    return isinstance(event, TextAdded) and event.was_reasoning


def denied(events: Sequence[TurnEvent], reason: str, *, wait: int = 0) -> list[TurnEvent]:
    """The events of a turn that ends before its calls were answered: these calls are denied for that reason."""
    ended = {event.call.id for event in events if isinstance(event, ToolEnded)}
    told: list[TurnEvent] = []
    outcomes: list[TurnEvent] = []
    for event in events:
        if not isinstance(event, ToolStarted) or event.asks is None or event.id in ended:
            told.append(event)
            continue
        approval = event.approval
        if approval is not None and approval.approved is UNSET:
            approval = replace(approval, approved=False, reason=reason)
        told.append(replace(event, approval=approval))
        call = ToolCall(
            id=event.id, name=event.name, arguments=event.arguments, error=NOT_MADE.format(reason)
        )
        outcomes.append(ToolEnded(call, wait))
    return told + outcomes
