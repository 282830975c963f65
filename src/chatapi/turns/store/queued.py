"""How a turn begins that was queued."""

from contextlib import suppress
from secrets import token_hex

import msgspec
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import Turn, now
from chatapi.errors.base import AppError
from chatapi.errors.domains import ConversationNotFound
from chatapi.errors.files import FileNotFound
from chatapi.errors.requests import BudgetExceeded, Invalid
from chatapi.turns.schemas import ChatRequest
from chatapi.turns.store import queue
from chatapi.turns.store.begin import ask, start
from chatapi.turns.store.busy import end_at_once, under_way
from chatapi.turns.store.end import touch_conversation
from chatapi.turns.store.requests import asked_of
from chatapi.turns.store.rows import Claim, Run, new_turn


async def begin_queued(session: AsyncSession, user_id: str, conversation_id: int, claim: Claim) -> Run | None:
    """As `TurnStore.begin_queued`, in a transaction that is under way."""
    if not await queue.is_followed(session, user_id, conversation_id):
        return None
    with suppress(ConversationNotFound):
        await touch_conversation(session, user_id, conversation_id)
    turn = await under_way(session, user_id, conversation_id)
    if turn is not None:
        if turn.is_alive:
            return None
        await end_at_once(session, user_id, conversation_id, turn, is_interrupted=False)
    while (row := await queue.first(session, user_id, conversation_id)) is not None:
        request = msgspec.convert(row.request, ChatRequest)
        columns = new_turn(
            user_id=user_id,
            conversation_id=conversation_id,
            key=row.idempotency_key or row.run_id,  # by which `queue.of_claim` finds the turn
            request_hash=row.request_hash,
            claim=claim,
            alternative_of=None,
            asked=asked_of(request),
            at=row.created_at,
        )
        await session.delete(row)
        await session.flush()
        # A replica of the version before may have begun the turn of this key, because it does not see the queue.
        columns["id"] = row.id
        try:
            run = await start(session, columns, request, claim)
        except (FileNotFound, Invalid) as error:  # its files were deleted, or sent elsewhere
            await ask(session, columns, row.id, request, [])
            await fail_at_once(session, user_id, row.id, error)
            continue
        if run is None:
            continue
        try:
            await claim.budgets.check(session, user_id)
        except BudgetExceeded as error:  # used up since it was queued
            await fail_at_once(session, user_id, row.id, error)
            continue
        return run
    return None


async def fail_at_once(session: AsyncSession, user_id: str, turn_id: int, error: AppError) -> None:
    """End a turn that may not begin as failed; those behind it go on with the claim's run id."""
    await session.execute(
        update(Turn)
        .where(Turn.id == turn_id, Turn.user_id == user_id)
        .values(status="failed", run_id=token_hex(16), error=error.stored, finished_at=now())
    )
