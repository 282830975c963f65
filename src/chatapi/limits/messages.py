"""The limit on messages: each counts once, however often it is sent."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from chatapi.errors.requests import RateLimited
from chatapi.errors.turns import KeyInProgress, KeyReused, TurnCancelled
from chatapi.limits.limiter import Limiter

BegunT = TypeVar("BegunT")
AnswerT = TypeVar("AnswerT")

SENT_BEFORE = (KeyReused, KeyInProgress, TurnCancelled)


class MessageLimit:
    """Limits how many messages a user may send."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def count(
        self,
        user_id: str,
        begin: Callable[[], Awaitable[BegunT | AnswerT]],
        find: Callable[[], Awaitable[AnswerT | None]],
        answer: type[AnswerT],
    ) -> BegunT | AnswerT:
        """Count one message and return the result of `begin`; raises `RateLimited` if it is one too many.

        A message that was sent before does not count: its answer is returned, or one of `SENT_BEFORE` is raised.
        Looking for its key first would cost each new message a round trip, so it is counted, and uncounted if `begin`
        finds its key. If nothing is left, `find` looks for the key before the message is refused.
        """
        try:
            await self._limiter.hit("chat", user_id)
        except RateLimited:
            if (earlier := await find()) is not None:
                return earlier
            raise
        try:
            begun = await begin()
        except SENT_BEFORE:
            await self._limiter.give_back("chat", user_id)
            raise
        if isinstance(begun, answer):
            await self._limiter.give_back("chat", user_id)
        return begun
