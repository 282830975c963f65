"""What users think of answers: one rating a message, by the user whose message it is."""

import msgspec
from sqlalchemy import ColumnElement, and_, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.conversations.schemas import Feedback, NewFeedback
from chatapi.db import models
from chatapi.db.models import now
from chatapi.db.services import insert_into
from chatapi.errors.domains import MessageNotFound
from chatapi.errors.requests import Invalid


def of_message() -> ColumnElement[bool]:
    """Joins a message with its feedback by the feedback's key."""
    return and_(
        models.Feedback.user_id == models.Message.user_id,
        models.Feedback.conversation_id == models.Message.conversation_id,
        models.Feedback.message_id == models.Message.id,
    )


class FeedbackService:
    """Every method takes the owner first."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def give(self, user_id: str, message_id: int, given: NewFeedback) -> tuple[Feedback, bool]:
        """Store the feedback in the place of any earlier; returns it, and whether the rating is another than before.

        Raises `MessageNotFound`, and `Invalid` for a message that is no answer.
        """
        conversation_id, before = await self._answer(user_id, message_id)
        feedback = Feedback(rating=given.rating, comment=given.comment, updated_at=now())
        content = msgspec.structs.asdict(feedback)
        key = {"user_id": user_id, "conversation_id": conversation_id, "message_id": message_id}
        await self._session.execute(
            insert_into(self._session, models.Feedback)
            .values(**key, **content)
            .on_conflict_do_update(index_elements=list(key), set_=content)
        )
        return feedback, before != given.rating

    async def take_back(self, user_id: str, message_id: int) -> None:
        """Delete the feedback, if there is any; raises as `give` does."""
        conversation_id, _ = await self._answer(user_id, message_id)
        feedback = models.Feedback
        await self._session.execute(
            delete(feedback).where(
                feedback.user_id == user_id,
                feedback.conversation_id == conversation_id,
                feedback.message_id == message_id,
            )
        )

    async def _answer(self, user_id: str, message_id: int) -> tuple[int, str | None]:
        """The answer's conversation, and its rating so far."""
        message = models.Message
        found = await self._session.execute(
            select(message.conversation_id, message.role, models.Feedback.rating)
            .outerjoin(models.Feedback, of_message())
            .where(message.id == message_id, message.user_id == user_id)
        )
        if (row := found.one_or_none()) is None:
            raise MessageNotFound(message_id)
        conversation_id, role, rating = row
        if role != "assistant":
            raise Invalid(("message_id", "is a question; feedback is given on answers"))
        return conversation_id, rating
