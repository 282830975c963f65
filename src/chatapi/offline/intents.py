"""The meanings that a message can have: the vocabulary between `understanding` and `assistant`."""

from typing import Literal, TypeAlias

from msgspec import Struct

Status: TypeAlias = Literal["all", "pending", "completed"]
Verb: TypeAlias = Literal["complete", "reopen", "delete", "rename", "describe"]


# --- which task -------------------------------------------------------------------------------------------------------


class Position(Struct, frozen=True):
    """A place in the latest list, from 1; negative counts from its end. `ordinal`: "the second", not "task 2"."""

    number: int
    ordinal: bool = False


class It(Struct, frozen=True):
    """The task last touched."""


class Them(Struct, frozen=True):
    """The tasks last touched or shown together."""


class TheOther(Struct, frozen=True):
    """The one of two listed tasks that was not touched."""


class Named(Struct, frozen=True):
    """A task by words of its title; `parts` splits the words in case they name several tasks."""

    text: str
    parts: tuple[str, ...] = ()


class Everything(Struct, frozen=True):
    """All tasks of a status; `about` keeps only the titles that have its words, `but` leaves out its tasks."""

    status: Status = "all"
    about: str = ""
    but: tuple["Target", ...] = ()


class Nothing(Struct, frozen=True):
    """No task was named."""


Target: TypeAlias = Position | It | Them | TheOther | Named | Everything | Nothing


# --- what to do -------------------------------------------------------------------------------------------------------


class Add(Struct, frozen=True):
    """`phrase`: the title is a phrase ("remind me to …") in which "and" does not begin a new command."""

    titles: tuple[str, ...]
    description: str | None = None
    phrase: bool = False
    timed: bool = False


class Offer(Struct, frozen=True):
    """The user named something that could be a task but did not ask for one."""

    titles: tuple[str, ...]


class Change(Struct, frozen=True):
    """Do `verb` to the tasks; `value` is the new title (rename) or description (describe; None clears it)."""

    verb: Verb
    targets: tuple[Target, ...]
    value: str | None = None


class Did(Struct, frozen=True):
    """The user reports something done ("I bought the milk"): `verbs` are possible base forms, `thing` the object."""

    verbs: tuple[str, ...]
    thing: str


class NotDone(Struct, frozen=True):
    """The user says that a task is not done."""

    targets: tuple[Target, ...]


class Undo(Struct, frozen=True):
    """Undo the last change."""


class Correct(Struct, frozen=True):
    """The last change was meant for something else."""

    text: str


class ListTasks(Struct, frozen=True):
    status: Status = "pending"


class CountTasks(Struct, frozen=True):
    status: Status = "all"


class FindTasks(Struct, frozen=True):
    text: str


class ShowTask(Struct, frozen=True):
    targets: tuple[Target, ...]


class Recall(Struct, frozen=True):
    """Quote the history: the `number`-th (negative: from the end) message of `who`."""

    who: Literal["user", "assistant"]
    number: int


class RecallAll(Struct, frozen=True):
    """Quote all that the user has said so far."""


class RecallTouched(Struct, frozen=True):
    """Name the tasks that a tool was last used on."""

    tool: str


class SearchSaid(Struct, frozen=True):
    """Find what was said about something, in any conversation."""

    text: str


class RecallName(Struct, frozen=True):
    """Quote the name that the user gave."""


class Yes(Struct, frozen=True):
    pass


class No(Struct, frozen=True):
    pass


class LeaveAlone(Struct, frozen=True):
    """The user asked not to do something."""


class Suppose(Struct, frozen=True):
    """A condition or a hypothesis: nothing to carry out."""


class HowTo(Struct, frozen=True):
    topic: str


class Talk(Struct, frozen=True):
    """Small talk, and questions about the assistant."""

    topic: str


class Unknown(Struct, frozen=True):
    question: bool = False


Intent: TypeAlias = (
    Add
    | Offer
    | Change
    | Did
    | NotDone
    | Undo
    | Correct
    | ListTasks
    | CountTasks
    | FindTasks
    | ShowTask
    | Recall
    | RecallAll
    | RecallTouched
    | RecallName
    | SearchSaid
    | Yes
    | No
    | LeaveAlone
    | Suppose
    | HowTo
    | Talk
    | Unknown
)
