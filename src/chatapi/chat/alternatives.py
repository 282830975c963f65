"""Answering the last turn anew: the same message or an edited one, with what came before it as history."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.chat import store
from chatapi.chat.schemas import AnswerAnew, ChatAnswer, ChatRequest
from chatapi.db.models import Turn
from chatapi.errors import TurnNotFound, TurnSuperseded


async def begin(
    session: AsyncSession, user_id: str, request: AnswerAnew, key: store.Key | None, claim: store.Claim
) -> store.Run | ChatAnswer:
    """As `store.begin`, and raises `TurnNotFound`, and `TurnSuperseded` when the conversation has gone on.

    The turn that is answered anew stays as it is: which of several answers counts is seen from their order.
    """
    if (again := await store.begin_again(session, user_id, key, claim)) is not None:
        return again
    of_user = Turn.user_id == user_id
    turn = await session.scalar(select(Turn).where(Turn.id == request.turn_id, of_user))
    if turn is None:
        raise TurnNotFound(request.turn_id)
    first = turn.alternative_of or turn.id
    await store.touch_conversation(session, user_id, turn.conversation_id)
    last = (
        select(func.coalesce(Turn.alternative_of, Turn.id))
        .where(of_user, Turn.conversation_id == turn.conversation_id)
        .order_by(Turn.id.desc())
        .limit(1)
    )
    if await session.scalar(last) != first:
        raise TurnSuperseded(
            "The conversation has gone on since; only its last turn can be answered anew.",
            turn_id=turn.id,
            conversation_id=turn.conversation_id,
        )
    message = request.message or await store.message_of(session, turn)
    return await store.begin_new(
        session,
        user_id,
        ChatRequest(message=message, conversation_id=turn.conversation_id),
        key,
        claim,
        alternative_of=first,
    )
