"""The events of a stored message: its stream again, though in other pieces."""

from collections.abc import Sequence

from msgspec import UNSET
from msgspec.structs import replace

from chatapi.agent.ports import ToolCall
from chatapi.parts import Part, shown
from chatapi.turns.log import ReasoningAdded, TextAdded, ToolEnded, ToolStarted, TurnEvent


def events_of(outline: Sequence[Part] | None, content: str, calls: Sequence[ToolCall]) -> list[TurnEvent]:
    """Events whose stream shows what the message's own stream has shown."""
    made = {call.id: call for call in calls}
    events: list[TurnEvent] = []
    ended: list[TurnEvent] = []  # the outcomes of the step's calls; text after an outcome would begin a step
    begins_step = False
    before = ""
    for part in shown(outline, content, calls):
        match part["type"]:
            case "step-start":
                events += ended
                ended = []
                begins_step = True
                before = ""
                continue
            case "text":
                if before == "text":  # the first of the two was taken back as reasoning
                    events.append(TextAdded("", was_reasoning=True))
                events.append(TextAdded(part["text"], begins_step))
            case "reasoning":
                events.append(ReasoningAdded(part["text"], begins_step))
            case "dynamic-tool":
                id_, name, arguments = part["toolCallId"], part["toolName"], part["input"]
                events.append(ToolStarted(id=id_, name=name, arguments=arguments, begins_step=begins_step))
                call = made.get(id_)
                if call is not None and (call.result is not UNSET or call.error is not UNSET):
                    ended.append(ToolEnded(call))
        before, begins_step = part["type"], False
    return events + ended


def rest_of(events: Sequence[TurnEvent], told: Sequence[TurnEvent]) -> list[TurnEvent]:
    """What is left of a turn's events when `told`, a beginning of them in other pieces, has been told."""
    characters = sum(len(event.text) for event in told if isinstance(event, TextAdded | ReasoningAdded))
    started = {event.id for event in told if isinstance(event, ToolStarted)}
    ended = {event.call.id for event in told if isinstance(event, ToolEnded)}
    rest: list[TurnEvent] = []
    for event in events:
        match event:
            case ToolStarted(id=id_):
                if id_ not in started:
                    rest.append(event)
            case ToolEnded(call=call):
                if call.id not in ended:
                    rest.append(event)
            case TextAdded() | ReasoningAdded():
                size = len(event.text)
                if size > characters:
                    begins_step = event.begins_step and not characters
                    rest.append(type(event)(event.text[characters:], begins_step))
                elif not size and not characters:
                    rest.append(event)
                characters = max(characters - size, 0)
    return rest


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
