"""Turns as agents may make them: texts, reasoning, steps, calls in parallel, and an end at any place."""

from collections.abc import Sequence
from random import Random

from chatapi.agent.ports import ToolCall
from chatapi.turns.log import ReasoningAdded, TextAdded, ToolEnded, ToolStarted, TurnEvent

WORDS = ("Hm", " the", " list ", "of", " tasks", ".", "\n\n", "Grüße", "🙂")


def events_of_a_turn(seed: int) -> list[TurnEvent]:
    """The events of one turn, always the same for a seed."""
    chance = Random(seed)
    events: list[TurnEvent] = []
    running: list[ToolStarted] = []
    calls = 0
    begins_step = chance.random() < 0.8
    said = False
    for _ in range(chance.randrange(14)):
        match chance.choice(("text", "text", "reasoning", "call", "outcome", "step", "retraction")):
            case "text":
                events.append(TextAdded(chance.choice(WORDS), begins_step))
                said, begins_step = True, False
            case "reasoning":
                events.append(ReasoningAdded(chance.choice(WORDS), begins_step))
                begins_step = False
            case "call":
                started = ToolStarted(
                    id=f"call_{calls}",
                    name="add_task",
                    arguments={"title": str(calls)},
                    begins_step=begins_step,
                )
                calls += 1
                events.append(started)
                running.append(started)
                begins_step = False
            case "outcome" if running:
                events.append(ToolEnded(ended(running.pop(chance.randrange(len(running))), chance)))
            case "step" if not running:
                begins_step, said = True, False
            case "retraction" if said and not begins_step and isinstance(events[-1], TextAdded):
                events.append(TextAdded("", was_reasoning=True))
                said = False
            case _:
                pass
    return events


def ended(started: ToolStarted, chance: Random) -> ToolCall:
    call = ToolCall(id=started.id, name=started.name, arguments=started.arguments)
    outcome = {"error": "It failed."} if chance.random() < 0.3 else {"result": {"done": started.id}}
    return ToolCall(id=call.id, name=call.name, arguments=call.arguments, **outcome)


def calls_of(events: Sequence[TurnEvent]) -> list[ToolCall]:
    """The calls with outcomes, in the journal's order."""
    return [event.call for event in events if isinstance(event, ToolEnded)]
