"""Things that are not there (somebody else's are told the same), and what takes too long to look for."""

from chatapi.errors.base import AppError
from chatapi.errors.requests import NotFound


class ConversationNotFound(NotFound):
    type = "conversation-not-found"
    title = "No such conversation"
    when = "You have no conversation with this id: it is not there, was deleted, or is somebody else's"
    remedy = "Begin a new one: leave `conversation_id` out"

    def __init__(self, conversation_id: int | str) -> None:
        super().__init__(f"There is no conversation {conversation_id} of yours.")


class MessageNotFound(NotFound):
    type = "message-not-found"
    title = "No such message"
    when = "You have no message with this id"
    remedy = "List the conversation's messages"

    def __init__(self, message_id: int) -> None:
        super().__init__(f"There is no message {message_id} of yours.")


class TaskNotFound(NotFound):
    type = "task-not-found"
    title = "No such task"
    when = "You have no task with this id"
    remedy = "List your tasks"

    def __init__(self, task_id: int) -> None:
        super().__init__(f"There is no task {task_id} of yours.")


class KeyNotFound(NotFound):
    type = "key-not-found"
    title = "No such API key"
    when = "You have no API key with this id: it is not there, was revoked, or is somebody else's"
    remedy = "List your keys"

    def __init__(self, key_id: int) -> None:
        super().__init__(f"There is no API key {key_id} of yours.")


class SearchTooLong(AppError):
    status = 503
    type = "search-too-long"
    title = "The search took too long"
    when = "A search was stopped, because you have very much, or the database is very busy"
    remedy = "Search in one conversation (`conversation_id`), or again after `Retry-After`: what was read once is read faster"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The search was stopped after {seconds:g} s.", retry_after=5)
