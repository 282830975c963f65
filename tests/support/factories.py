"""Test data that is valid and otherwise random."""

from polyfactory.factories.msgspec_factory import MsgspecFactory

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

    @classmethod
    def message(cls) -> str:
        return "say " + cls.__faker__.sentence()
