"""How a turn begins that was queued."""

from contextlib import suppress
from secrets import token_hex
from typing import Any

import msgspec
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import Turn, now
from chatapi.errors.base import AppError
from chatapi.errors.domains import ConversationNotFound
from chatapi.errors.files import FileNotFound
from chatapi.errors.requests import Invalid
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
            key=row.idempotency_key,
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
            await fail_at_once(session, columns, request, error)
        else:
            if run is not None:
                return run
    return None


async def fail_at_once(
    session: AsyncSession, columns: dict[str, Any], request: ChatRequest, error: AppError
) -> None:
    """End a turn that cannot begin as failed, with its message; those behind it go on with the claim's run id."""
    await session.execute(
        update(Turn)
        .where(Turn.id == columns["id"], Turn.user_id == columns["user_id"])
        .values(status="failed", run_id=token_hex(16), error=error.stored, finished_at=now())
    )
    await ask(session, columns, columns["id"], request, [])
