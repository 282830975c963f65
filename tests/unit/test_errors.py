"""Errors: each kind has a problem type of its own, and an error that was raised is not changed."""

import pkgutil
import re
from importlib import import_module

import pytest

from chatapi import errors
from chatapi.errors.base import AppError, Defect, TurnIds, catalogue, restored
from chatapi.errors.database import DatabaseFull
from chatapi.errors.domains import TaskNotFound
from chatapi.errors.models import ModelBusy
from chatapi.errors.requests import Invalid, RateLimited
from chatapi.errors.turns import TurnCancelled
from chatapi.turns.log import TurnLog
from tests.support.serving import REPOSITORY


class TestCatalogue:
    def test_has_the_errors_of_all_rooms_wherever_one_is_used(self) -> None:
        before = set(catalogue())
        for room in pkgutil.iter_modules(errors.__path__):
            assert room.name in errors.__all__
            import_module(f"chatapi.errors.{room.name}")
        assert set(catalogue()) == before

    def test_takes_no_kind_without_a_type_of_its_own(self) -> None:
        size = len(catalogue())
        with pytest.raises(TypeError, match="of its own"):
            type("Unnamed", (TaskNotFound,), {})
        with pytest.raises(TypeError, match="of its own"):
            type("Twice", (TaskNotFound,), {**vars(TaskNotFound)})
        assert len(catalogue()) == size

    def test_is_in_the_order_of_statuses(self) -> None:
        statuses = [kind.status for kind in catalogue()]
        assert statuses == sorted(statuses)

    def test_has_no_title_twice(self) -> None:
        titles = [kind.title for kind in catalogue()]
        assert len(titles) == len(set(titles))

    def test_has_what_is_raised_and_nobody_raises_the_error_that_all_are_kinds_of(self) -> None:
        assert AppError not in catalogue()
        for path in (REPOSITORY / "src").rglob("*.py"):
            assert not re.search(r"(?<!class )(?<!case )\bAppError\(|raise AppError", path.read_text()), path


class TestError:
    def test_is_not_changed_by_giving_it_a_turn(self) -> None:
        error = RateLimited("Too many.", retry_after=3, policy="chat")
        of_turn = error.with_turn(1, 2)
        assert error.turn is None
        assert of_turn.turn == TurnIds(turn_id=1, conversation_id=2)
        assert str(of_turn) == "Too many."
        assert of_turn.document == {**error.document, "turn_id": 1, "conversation_id": 2}
        assert type(TaskNotFound(3).with_turn(1, 2)) is TaskNotFound

    def test_has_members_that_nobody_writes_into(self) -> None:
        error = Invalid(("title", "is too long"), ("", "is not JSON"))
        with pytest.raises(TypeError):
            error.members["turn_id"] = 1  # type: ignore[index] # what is tested
        assert error.detail == "title: is too long; is not JSON"

    @pytest.mark.parametrize("error", [ModelBusy("Busy.", retry_after=7), TaskNotFound(4), DatabaseFull()])
    def test_is_the_same_when_it_was_stored_between(self, error: AppError) -> None:
        again = restored(error.stored)
        assert type(again) is type(error)
        assert again.document == error.document
        assert str(again) == str(error)

    def test_of_a_type_that_a_later_version_stored_is_a_defect(self) -> None:
        assert type(restored({"type": "not-yet-thought-of", "detail": "Hm."})) is Defect


def test_a_turn_ends_with_an_error_that_names_it() -> None:
    error = TurnCancelled()
    log = TurnLog(1, 2)
    log.end(error)
    assert isinstance(log.outcome, TurnCancelled)
    assert log.outcome.turn == TurnIds(turn_id=1, conversation_id=2)
    assert error.turn is None
