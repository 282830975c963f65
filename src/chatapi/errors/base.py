"""The error that all others are kinds of, and the catalogue of these kinds."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, Self

PROBLEM_TYPE_PREFIX = "urn:chatapi:problem:"
STORED = ("detail", "retry_after", "policy")

_kinds: dict[str, type["AppError"]] = {}


class TurnIds(NamedTuple):
    turn_id: int
    conversation_id: int


class AppError(Exception):
    """An error with a meaning for the caller. Only its kinds are raised; each has a problem type of its own.

    A kind gives `status`, `type` and `title` of its problem document. `when` it is raised and what the caller can do about
    it (`remedy`) are what docs/errors.md and the OpenAPI document say of it, in Markdown. `act` is set for refusals: what
    the audit trail calls them.

    An error is a value: nobody changes one that was raised. `detail` is one sentence that says what to mend. `retry_after`
    is in whole seconds, and both a header and a member of the problem document, since not every client can read headers.
    `turn` names the turn that the error is about. Further members appear in the document under their own names.
    """

    status: ClassVar[int]
    type: ClassVar[str]
    title: ClassVar[str]
    when: ClassVar[str]
    remedy: ClassVar[str]
    act: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        if not {"type", "title", "when", "remedy"} <= vars(cls).keys() or cls.type in _kinds:
            raise TypeError(f"{cls.__name__} needs a type, a title, a when and a remedy of its own")
        _kinds[cls.type] = cls

    def __init__(self, detail: str, *, retry_after: int | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.detail: Final = detail
        self.retry_after: Final = retry_after
        self.turn: Final[TurnIds | None] = None
        self.members: Final[Mapping[str, Any]] = MappingProxyType(members)

    def with_turn(self, turn_id: int, conversation_id: int) -> Self:
        """The same error about this turn."""
        copy = type(self).__new__(type(self), *self.args)
        vars(copy).update(vars(self), turn=TurnIds(turn_id, conversation_id))
        return copy

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
            **({} if self.turn is None else self.turn._asdict()),
            **self.members,
        }

    @property
    def stored(self) -> dict[str, Any]:
        """What `restored` makes the error from."""
        document = self.document
        return {"type": self.type} | {name: document[name] for name in STORED if name in document}


class Defect(AppError):
    """Nobody has thought of this; the log has the reasons."""

    status = 500
    type = "internal-error"
    title = "Internal error"
    when = "A defect of the service"
    remedy = "Report it, with the response's `X-Request-ID`"


def catalogue() -> Sequence[type[AppError]]:
    """All kinds of errors, by status."""
    return sorted(_kinds.values(), key=lambda kind: kind.status)


def restored(stored: Mapping[str, Any]) -> AppError:
    """The error of which `stored` was kept; versions before kept no `retry_after`."""
    kind = _kinds.get(stored["type"], Defect)  # a replica of the next version may know more types
    error = kind.__new__(kind, stored["detail"])
    # A kind's own constructor would ask for what it made the detail of.
    AppError.__init__(error, **{name: stored[name] for name in STORED if name in stored})
    return error
