"""Where the history begins that a model is shown: at an edge that stays for turns on end, so that providers' caches hit.

The window grows to its limit of turns, then falls to half. `conversations.window_after` names the last turn that has fallen
out of it. A run that finds too many turns shows half of them, and stores the new edge when it ends, however it ends. Until
one has, every run finds the same turns and shows the same half. docs/adr/0026-the-window-falls-to-half.md says why.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import ColumnElement, case, func, literal, select

from chatapi.agent.ports import HistoryMessage
from chatapi.db.models import Conversation

# The last turn outside of the window of a conversation; 0 if nothing has fallen out.
EDGE = func.coalesce(Conversation.window_after, 0).label("edge")


class Window(Struct, frozen=True, kw_only=True):
    """The turn of each message that is shown, oldest first; and the new edge, None if it has not moved.

    `was_after` is the edge that was stored. `summary` is shown first, if there is one: it covers the turns up to `summed_up`.
    `falls_next` is the edge to which the window will soon fall, because its model takes hardly more.
    """

    turn_ids: Sequence[int] = ()
    edge: int | None = None
    was_after: int = 0
    falls_next: int | None = None
    summary: Sequence[HistoryMessage] = ()
    summed_up: int = 0

    @property
    def after(self) -> int:
        """The last turn that has fallen out of it; 0 if it has the whole conversation."""
        return self.was_after if self.edge is None else self.edge

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the conversation that the end of the run sets."""
        return {} if self.edge is None else moved(literal(self.edge, Conversation.window_after.type))

    def without(self, messages: int, soon: int = 0) -> "Window":
        """The window without its oldest messages; its edge is at a turn's edge, and so some of them may stay.

        Of the messages before, so many will fall out `soon`.
        """
        edge, falls_next = self._edge_after(messages), self._edge_after(soon)
        if edge is None:
            return replace(self, falls_next=falls_next)
        return replace(self, turn_ids=self.turn_ids[messages:], edge=edge, falls_next=falls_next)

    def _edge_after(self, messages: int) -> int | None:
        """The last turn that is among so many messages with all of its own."""
        kept = self.turn_ids[messages:]
        gone = [turn_id for turn_id in self.turn_ids[:messages] if turn_id not in kept[:1]]
        return gone[-1] if gone else None


def edge_of(user_id: Any, conversation_id: Any) -> ColumnElement[int]:
    """`EDGE` of this conversation."""
    return (
        select(EDGE)
        .where(Conversation.id == conversation_id, Conversation.user_id == user_id)
        .scalar_subquery()
    )


def moved(edge: ColumnElement[int | None]) -> dict[str, Any]:
    """As `Window.columns`, for statements that are compiled once; a summary may have moved the edge further meanwhile."""
    before = Conversation.window_after
    return {"window_after": case((edge > func.coalesce(before, 0), edge), else_=before)}


def turns_to_read(limit: int) -> int:
    """One more than the window holds: by that it is seen to be too full, and nothing has to be counted."""
    return limit + 1 if limit else 0


def new_edge(turn_ids: Iterable[int], limit: int) -> int | None:
    """The edge of a window that has read these turns, oldest first; None if they fit.

    Half of an odd limit is rounded up: a window of one turn still shows it.
    """
    turns = list(dict.fromkeys(turn_ids))
    return None if len(turns) <= limit else turns[-1 - (limit + 1) // 2]
