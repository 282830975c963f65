"""The journal: a call of a tool and its effect are one transaction."""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET
from sqlalchemy import insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import ToolCall
from chatapi.db.models import ToolCallEntry, Turn, now
from chatapi.db.services import is_distributed
from chatapi.errors.turns import TurnCancelled
from chatapi.turns.store.rows import Run, Said, is_ours
from chatapi.usage.counting import Spent, count


async def hold(session: AsyncSession, run: Run) -> None:
    """Keep the turn ours until the transaction ends; raises `TurnCancelled` when it no longer is."""
    held = await session.scalar(
        select(Turn.id).where(is_ours(run.turn_id, run.user_id, run.run_id)).with_for_update(read=True)
    )
    if held is None:
        raise TurnCancelled


async def record_call(
    session: AsyncSession, run: Run, position: int, call: ToolCall, spent: Sequence[Spent] = ()
) -> None:
    """Journal a call in the transaction of its effect; keeps the turn ours until that ends, as `hold` does.

    Also counts what was spent until then: a process that dies later loses none of it.

    Raises `TurnCancelled` when the turn is no longer ours, which takes the effect back.
    """
    values = entry_of(run, position, call)
    if is_distributed(session):
        await hold(session, run)
        await session.execute(insert(ToolCallEntry).values(turn_id=run.turn_id, **values))
    else:
        columns = ToolCallEntry.__table__.c
        held = (
            select(Turn.id, *(literal(value, columns[name].type) for name, value in values.items()))
            .where(is_ours(run.turn_id, run.user_id, run.run_id))
            .with_for_update(read=True)
        )
        entry = insert(ToolCallEntry).from_select(["turn_id", *values], held, include_defaults=False)
        if await session.scalar(entry.returning(ToolCallEntry.turn_id)) is None:
            raise TurnCancelled
    await count(session, run.user_id, run.conversation_id, spent)


def entry_of(run: Run, position: int, call: ToolCall) -> dict[str, Any]:
    """The columns of a call's entry, but for the turn's id."""
    return {
        "position": position,
        "user_id": run.user_id,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "result": None if call.result is UNSET else call.result,
        "error": None if call.error is UNSET else call.error,
        "created_at": now(),
    }


async def settle(session: AsyncSession, run: Run, position: int, call: ToolCall) -> None:
    """Write the outcome of a call that was journaled when it began; raises `TurnCancelled` as `hold` does."""
    await hold(session, run)
    await session.execute(
        update(ToolCallEntry)
        .where(
            ToolCallEntry.turn_id == run.turn_id,
            ToolCallEntry.user_id == run.user_id,
            ToolCallEntry.position == position,
        )
        .values(
            result=None if call.result is UNSET else call.result,
            error=None if call.error is UNSET else call.error,
        )
    )


async def written(session: AsyncSession, run: Run, position: int) -> ToolCall | None:
    """The journal's entry at this position, if there is one; raises `TurnCancelled` as `hold` does."""
    await hold(session, run)
    calls = await read_journal(session, run.user_id, run.turn_id)
    return calls[position] if len(calls) > position else None


async def uncounted(session: AsyncSession, run: Run, said: Said) -> Sequence[Spent]:
    """What no call of the run has counted: the COMMIT of the last one may have gone through unheard."""
    if said.unheard is None:
        return said.spent
    entry = select(ToolCallEntry.position).where(
        ToolCallEntry.turn_id == run.turn_id,
        ToolCallEntry.user_id == run.user_id,
        ToolCallEntry.position == said.unheard.position,
    )
    return said.spent if await session.scalar(entry) is None else said.spent[said.unheard.answers :]


async def read_journal(session: AsyncSession, user_id: str, turn_id: int) -> list[ToolCall]:
    """The turn's calls with their outcomes, in the order in which they were made."""
    entries = await session.scalars(
        select(ToolCallEntry)
        .where(ToolCallEntry.turn_id == turn_id, ToolCallEntry.user_id == user_id)
        .order_by(ToolCallEntry.position)
    )
    return [
        ToolCall(id=entry.call_id, name=entry.name, arguments=entry.arguments, result=entry.result)
        if entry.error is None
        else ToolCall(id=entry.call_id, name=entry.name, arguments=entry.arguments, error=entry.error)
        for entry in entries
    ]
