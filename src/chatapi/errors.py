"""What can go wrong, said once: the class carries the status, the stable type and the title of its problem document.

No framework here: services raise these, `web/problems.py` turns them into RFC 9457 responses, and `docs/errors.md`
documents each type.
"""

from typing import Any, ClassVar

PROBLEM_TYPE_PREFIX = "urn:chatapi:problem:"


class AppError(Exception):
    """An error with a meaning for the caller.

    `detail` is one sentence that says what to mend; `retry_after` is in whole seconds, and both a header and a member of
    the problem document, since not every client can read headers; further members appear there under their own names. `act` is set for refusals: what the audit trail calls them.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    act: ClassVar[str | None] = None

    def __init__(self, detail: str, *, retry_after: int | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.members = members

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @property
    def document(self) -> dict[str, Any]:
        """The problem document."""
        return {
            "type": PROBLEM_TYPE_PREFIX + self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **({} if self.retry_after is None else {"retry_after": self.retry_after}),
            **self.members,
        }

    @property
    def stored(self) -> dict[str, Any]:
        """What `restored` makes the error from."""
        document = self.document
        return {"type": self.type} | {
            name: document[name] for name in ("detail", "retry_after") if name in document
        }


class Unauthenticated(AppError):
    """No token (`code` is None), or one that does not hold (RFC 6750, section 3)."""

    status = 401
    type = "unauthenticated"
    title = "Authentication needed"
    act = "sign_in.denied"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.code = code

    @property
    def headers(self) -> dict[str, str]:
        if self.code is None:
            return {"WWW-Authenticate": "Bearer"}
        return {"WWW-Authenticate": f'Bearer error="{self.code}", error_description="{self.detail}"'}


class JWKSUnavailable(AppError):
    """Whether a token holds cannot be told: its issuer's keys have never been fetched."""

    status = 503
    type = "jwks-unavailable"
    title = "The sign-in service's keys are away"


class NotYourPath(AppError):
    status = 403
    type = "not-your-path"
    title = "The path belongs to another user"
    act = "path.denied"


class NotFound(AppError):
    status = 404
    type = "not-found"
    title = "Not found"


class ConversationNotFound(NotFound):
    type = "conversation-not-found"
    title = "No such conversation"

    def __init__(self, conversation_id: int) -> None:
        super().__init__(f"There is no conversation {conversation_id} of yours.")


class TaskNotFound(NotFound):
    type = "task-not-found"
    title = "No such task"

    def __init__(self, task_id: int) -> None:
        super().__init__(f"There is no task {task_id} of yours.")


class UnsupportedMediaType(AppError):
    status = 415
    type = "unsupported-media-type"
    title = "Unsupported media type"


class Invalid(AppError):
    """The request is understood but not acceptable; `errors` lists `{path, message}`."""

    status = 422
    type = "validation-failed"
    title = "The request is not valid"

    def __init__(self, path: str, message: str) -> None:
        super().__init__(
            f"{path}: {message}" if path else message, errors=[{"path": path, "message": message}]
        )


class TurnInProgress(AppError):
    status = 409
    type = "turn-in-progress"
    title = "A turn is in progress"


class KeyInProgress(AppError):
    status = 409
    type = "key-in-progress"
    title = "A request with this key is in progress"


class KeyReused(AppError):
    status = 422
    type = "idempotency-key-reused"
    title = "The idempotency key belongs to another request"


class TurnSuperseded(AppError):
    status = 409
    type = "turn-superseded"
    title = "The conversation has gone on"


class TurnNotFound(NotFound):
    type = "turn-not-found"
    title = "No such turn"

    def __init__(self, turn_id: int) -> None:
        super().__init__(f"There is no turn {turn_id} of yours.")


class TurnEnded(AppError):
    status = 409
    type = "turn-ended"
    title = "The turn has ended"


class TurnCancelled(AppError):
    """The turn was ended before it had its answer: by a cancel, or with its conversation, or by another process."""

    status = 409
    type = "turn-cancelled"
    title = "The turn was cancelled"

    def __init__(self, turn_id: int, conversation_id: int) -> None:
        super().__init__(
            "The turn was cancelled before it had its answer.",
            turn_id=turn_id,
            conversation_id=conversation_id,
        )


class RateLimited(AppError):
    """One request too many; `policy` names the limit, as the header `RateLimit-Policy` does."""

    status = 429
    type = "rate-limited"
    title = "Too many requests"
    act = "rate_limit.exceeded"


class ModelFailed(AppError):
    """The model's answer did not come or cannot be used; the user's message is kept."""

    status = 502
    type = "model-failed"
    title = "The model failed"


class ModelTruncated(ModelFailed):
    """The answer broke off: a stream that ended in the middle, by accident or at the model's own limit of length."""

    type = "model-truncated"
    title = "The model's answer broke off"


class ModelEmpty(ModelFailed):
    """The model ended without a word, though it was asked again."""

    type = "model-empty"
    title = "The model gave an empty answer"


class ModelFiltered(ModelFailed):
    """The provider's content filter, or the model itself, refused; the same message will be refused again."""

    type = "model-filtered"
    title = "The model's provider refused to answer"


class ModelLooped(ModelFailed):
    """The model asked for tools again and again and never answered; what the tools did is done."""

    type = "model-looped"
    title = "The model did not come to an answer"


class ModelMisconfigured(ModelFailed):
    """The provider refused the service's request or key: the operator's to mend, and in the log as an error."""

    type = "model-misconfigured"
    title = "The model is not set up rightly"


class MessageTooLong(AppError):
    """The model does not take the message, even without any history."""

    status = 422
    type = "message-too-long"
    title = "The message is too long for the model"


class ModelBusy(AppError):
    """The provider is overloaded or limits the service; `Retry-After` is its own delay where it tells one."""

    status = 503
    type = "model-busy"
    title = "The model is busy"


class ModelTooSlow(AppError):
    status = 504
    type = "model-too-slow"
    title = "The model took too long"


class Interrupted(AppError):
    """The process ends before the turn did; the user's message is kept."""

    status = 503
    type = "interrupted"
    title = "The service is restarting"


class Restarting(AppError):
    """The process that a stream was read from ends; the turn itself goes on for as long as it can."""

    status = 503
    type = "restarting"
    title = "The service is restarting"

    def __init__(self, turn_id: int, conversation_id: int) -> None:
        super().__init__(
            "The service is restarting; resume the stream.",
            retry_after=1,
            turn_id=turn_id,
            conversation_id=conversation_id,
        )


class DatabaseUnavailable(AppError):
    status = 503
    type = "database-unavailable"
    title = "The database is away"

    def __init__(
        self,
        detail: str = "The database does not answer; try again shortly.",
        *,
        retry_after: int | None = 1,
    ) -> None:
        super().__init__(detail, retry_after=retry_after)


class DatabaseReadOnly(DatabaseUnavailable):
    """It answers, but takes no writes: a standby, a primary that was switched over, or an operator's order."""

    type = "database-read-only"
    title = "The database takes no writes"

    def __init__(self) -> None:
        super().__init__("The database takes no writes at the moment; reading may work.", retry_after=5)


class DatabaseFull(DatabaseUnavailable):
    type = "database-full"
    title = "The database has no room left"

    def __init__(self) -> None:
        super().__init__(
            "The database's disk is full, so nothing can be stored; reading works.", retry_after=30
        )


class DatabaseUntrusted(DatabaseUnavailable):
    """TLS: its certificate is not what `DATABASE_URL` asks for; nothing is sent to it."""

    type = "database-untrusted"
    title = "The database's certificate does not hold"

    def __init__(self) -> None:
        super().__init__(
            "The database's certificate does not hold; the service's log says why.", retry_after=30
        )


class SchemaOutdated(AppError):
    status = 503
    type = "schema-outdated"
    title = "The database schema is not the one this version needs"


def restored(stored: dict[str, Any], **members: Any) -> AppError:
    """An error of which `stored` was kept; versions before kept no `retry_after`."""
    kinds = [AppError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((each for each in kinds if each.type == stored["type"]), AppError)
    error = kind.__new__(kind)  # a kind's own constructor would ask for what it made the detail of
    AppError.__init__(error, stored["detail"], retry_after=stored.get("retry_after"), **members)
    return error
