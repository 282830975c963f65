"""The limit of messages: each counts once, however often it is sent."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from chatapi.errors.requests import RateLimited
from chatapi.errors.turns import KeyInProgress, KeyReused, TurnCancelled
from chatapi.limits.limiter import Limiter

BegunT = TypeVar("BegunT")
AnswerT = TypeVar("AnswerT")

SENT_BEFORE = (KeyReused, KeyInProgress, TurnCancelled)


class MessageLimit:
    """How many messages a user may send."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def count(
        self,
        user_id: str,
        begin: Callable[[], Awaitable[BegunT | AnswerT]],
        find: Callable[[], Awaitable[AnswerT | None]],
        answer: type[AnswerT],
    ) -> BegunT | AnswerT:
        """Count one and give what `begin` gives; raises `RateLimited` when it is one too many.

        One that was sent before counts for nothing: its answer comes instead, or one of `SENT_BEFORE` is raised. To
        look for its key first would cost each new message a round trip, so it is counted, and given back when `begin`
        finds its key. Where nothing is left, `find` looks for the key before the message is refused.
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
