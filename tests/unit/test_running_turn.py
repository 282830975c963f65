"""What of a running turn is handed over to be written for readers elsewhere."""

from typing import cast

from chatapi.agent.ports import TextDelta
from chatapi.chat.running import RunningTurn
from chatapi.chat.store import Run
from chatapi.db.config import Database

RUN = Run(turn_id=1, run_id="run", user_id="alice", conversation_id=1, message="Hello", history=[])
NO_DATABASE = cast("Database", None)


def test_a_write_that_may_have_been_done_is_repeated_as_it_was() -> None:
    """Whoever reads elsewhere may have gone on from it: with more in it, the rest would never be read."""
    turn = RunningTurn(RUN, NO_DATABASE, {})
    assert turn.unwritten() is None
    turn.log.add(TextDelta("One"))
    first = turn.unwritten()
    assert first is not None
    assert (first.position, list(first.events)) == (0, [TextDelta("One")])
    turn.log.add(TextDelta("two"))
    assert turn.unwritten() == first
    turn.wrote()
    second = turn.unwritten()
    assert second is not None
    assert (second.position, list(second.events)) == (1, [TextDelta("two")])
    turn.wrote()
    assert turn.unwritten() is None
