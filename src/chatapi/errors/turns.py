"""A turn that cannot begin, has ended without an answer, or can be read elsewhere."""

from chatapi.errors.base import AppError
from chatapi.errors.requests import NotFound


class TurnNotFound(NotFound):
    type = "turn-not-found"
    title = "No such turn"
    when = "You have no turn with this id"
    remedy = "Turn ids are with the messages"

    def __init__(self, turn_id: int) -> None:
        super().__init__(f"There is no turn {turn_id} of yours.")


class TurnInProgress(AppError):
    status = 409
    type = "turn-in-progress"
    title = "A turn is in progress"
    when = "The conversation's turn before this one is not finished; `turn_id` names it"
    remedy = "Wait for `Retry-After` and send again, or send it with `when_busy`. Nothing was stored"

    def __init__(self) -> None:
        super().__init__("The conversation's turn before this one is not finished.", retry_after=1)


class QueueFull(AppError):
    status = 429
    type = "queue-full"
    title = "The conversation's queue is full"
    when = "As many messages as a conversation may have are queued in it"
    remedy = "Wait for `Retry-After` and send again, or take one out. Nothing was stored"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} messages are queued in this conversation; no more are taken until one begins.",
            retry_after=1,
        )


class NotQueued(AppError):
    status = 409
    type = "not-queued"
    title = "The turn is not queued"
    when = "The turn that was to be taken out of its queue has begun, or has ended"
    remedy = "Cancel it, if it is still running"

    def __init__(self) -> None:
        super().__init__("The turn has begun; only one that is queued can be taken out.")


class KeyInProgress(AppError):
    status = 409
    type = "key-in-progress"
    title = "A request with this key is in progress"
    when = "The first request with this `Idempotency-Key` is not finished"
    remedy = "Wait for `Retry-After` and send the same again: it gets the answer then"

    def __init__(self) -> None:
        super().__init__("The first request with this Idempotency-Key is not finished.", retry_after=1)


class KeyReused(AppError):
    status = 422
    type = "idempotency-key-reused"
    title = "The idempotency key belongs to another request"
    when = "This `Idempotency-Key` was sent with another message or conversation"
    remedy = "Make a new key for each new request"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was sent with another message or conversation; use a new one.")


class TurnSuperseded(AppError):
    status = 409
    type = "turn-superseded"
    title = "The conversation has gone on"
    when = (
        "The turn of this `Idempotency-Key` failed, or the turn that was to be answered anew is not the last, "
        "and the conversation has gone on since"
    )
    remedy = "Send the message anew, with a new key"


class TurnCancelled(AppError):
    status = 409
    type = "turn-cancelled"
    title = "The turn was cancelled"
    when = (
        "The turn ended before it had its answer: it was cancelled, interrupted or taken out of the queue, its "
        "conversation was deleted, or another process took over"
    )
    remedy = "Look at the conversation, if it is still there, before sending again"

    def __init__(self) -> None:
        super().__init__("The turn was cancelled before it had its answer.")


class NotWaiting(AppError):
    status = 409
    type = "not-waiting"
    title = "The turn does not wait for this answer"
    when = "The turn does not wait for answers, or was given another one to this call before"
    remedy = (
        "Look at the conversation: the turn has gone on, or has ended. Sending the same again will not help"
    )

    def __init__(self, detail: str = "The turn does not wait for answers.") -> None:
        super().__init__(detail)


class WaitExpired(AppError):
    status = 504
    type = "wait-expired"
    title = "Nobody has answered in time"
    when = "The turn has waited for answers for longer than `WAIT_TIMEOUT`; its calls were not made"
    remedy = "Send the message again"

    def __init__(self) -> None:
        super().__init__("The turn has waited for answers for too long; its calls were not made.")


class TurnEnded(AppError):
    status = 409
    type = "turn-ended"
    title = "The turn has ended"
    when = "The turn that was to be cancelled has ended already"
    remedy = "Nothing; it is over"

    def __init__(self) -> None:
        super().__init__("The turn has ended; there is nothing left to cancel.")


class Interrupted(AppError):
    """The process ends, or has died, before the turn did; the user's message is kept."""

    status = 503
    type = "interrupted"
    title = "The turn was interrupted"
    when = "The service was stopped, and the turn took longer than it could wait"
    remedy = "Send the message again; see below"

    def __init__(self, detail: str = "The service is restarting; send the message again.") -> None:
        super().__init__(detail, retry_after=1)


class Restarting(AppError):
    """The turn itself goes on for as long as it can."""

    status = 503
    type = "restarting"
    title = "The service is restarting"
    when = "In a stream: the process it was read from ends, and the turn goes on for as long as it can"
    remedy = (
        "Resume the stream: `GET …/chat/{conversation_id}/stream?turn_id=…`; see [frontend.md](frontend.md)"
    )

    def __init__(self) -> None:
        super().__init__("The service is restarting; resume the stream.", retry_after=1)


class StreamNotRead(AppError):
    """The process has stopped following a turn that runs elsewhere, because nobody read it."""

    status = 503
    type = "stream-not-read"
    title = "The stream was read too late"
    when = "In a stream: the process it is read from had stopped following the turn, which goes on elsewhere"
    remedy = "Resume the stream, as after `restarting`"

    def __init__(self) -> None:
        super().__init__("The stream was read too late; resume it.", retry_after=1)


class NothingToSummarize(AppError):
    status = 409
    type = "nothing-to-summarize"
    title = "There is nothing to sum up"
    when = (
        "The conversation has no answered turn, before its last one, that its newest summary does not cover"
    )
    remedy = "Nothing; the model is shown all that is not summed up"

    def __init__(self) -> None:
        super().__init__(
            "Nothing in the conversation is to be summed up: its last turn stays as it was said."
        )


class SummariesOff(AppError):
    status = 409
    type = "summaries-off"
    title = "No summaries are made here"
    when = (
        "A summary was asked for, and `COMPACT` is `off`, or the assistant has no model that could make one"
    )
    remedy = "Operator: see `COMPACT`"

    def __init__(self) -> None:
        super().__init__("This service makes no summaries of conversations.")
