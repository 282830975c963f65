"""Test data that is valid and otherwise random."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from msgspec import UNSET
from polyfactory.factories.msgspec_factory import MsgspecFactory
from polyfactory.factories.sqlalchemy_factory import SQLAlchemyFactory

from chatapi.db.models import QueuedTurn, Summary, Wait
from chatapi.tasks.schemas import NewTask
from chatapi.turns.schemas import ChatRequest


class NewTaskFactory(MsgspecFactory[NewTask]):
    completed = False

    @classmethod
    def title(cls) -> str:
        return cls.__faker__.sentence(nb_words=3)

    @classmethod
    def description(cls) -> str:
        return cls.__faker__.paragraph()


class ChatRequestFactory(MsgspecFactory[ChatRequest]):
    conversation_id = None
    client_tools = UNSET
    files = UNSET
    when_busy = UNSET
    # These come through OpenAI's API alone.
    options = approvals = own_tools = before = shown = source = after = fingerprint = UNSET

    @classmethod
    def message(cls) -> str:
        return "say " + cls.__faker__.sentence()


class WaitFactory(SQLAlchemyFactory[Wait]):
    """A turn's wait; `turn_id`, `user_id` and `conversation_id` must be those of a turn."""

    number = 1
    calls: ClassVar[list[Any]] = []
    answers: ClassVar[dict[str, Any]] = {}
    keys: ClassVar[dict[str, str]] = {}
    events: ClassVar[list[Any]] = []
    client_tools: ClassVar[list[Any]] = []
    state = None
    began_at = datetime(2026, 11, 29, tzinfo=UTC)
    expires_at = datetime(2100, 1, 1, tzinfo=UTC)
    ended_at = None
    ended_by = None


class SummaryFactory(SQLAlchemyFactory[Summary]):
    """A conversation's summary; `user_id`, `conversation_id` and `turn_id` must be given."""

    number = 1
    content = "They live in Rome."
    model = "m"
    failures = 0
    due_at = None
    created_at = datetime(2026, 11, 29, tzinfo=UTC)


class QueuedTurnFactory(SQLAlchemyFactory[QueuedTurn]):
    """A turn that is queued; `id`, `user_id` and `conversation_id` must be given."""

    request: ClassVar[dict[str, Any]] = {"message": "say Hello."}
    idempotency_key = None
    request_hash = None
    created_at = datetime(2026, 11, 29, tzinfo=UTC)
    taken_out_at = None
