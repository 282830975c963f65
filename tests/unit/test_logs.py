"""How an exception is told in the log."""

import pytest
from sqlalchemy.exc import DBAPIError

from chatapi.errors.database import DatabaseUnavailable
from chatapi.logs import told

WRITTEN = "what a user wrote"


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def lines_of(error: BaseException, *, all_texts: bool = False) -> str:
    return "".join(told(error, all_texts=all_texts))


def test_the_frames_are_told_and_the_type_and_not_the_text() -> None:
    lines = lines_of(raised(ValueError(WRITTEN)))
    assert lines.startswith("Traceback (most recent call last):\n")
    assert "in raised\n    raise error from cause" in lines
    assert lines.endswith("\nbuiltins.ValueError\n")


def test_the_text_is_told_where_one_develops() -> None:
    assert lines_of(raised(ValueError(WRITTEN)), all_texts=True).endswith(f"builtins.ValueError: {WRITTEN}\n")


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError("refused"), AttributeError("no attribute x"), DatabaseUnavailable()]
)
def test_texts_that_cannot_quote_a_user_are_told(error: Exception) -> None:
    assert lines_of(error).endswith(f": {error}\n")


def test_a_database_error_is_told_by_its_state_and_its_statement() -> None:
    class Original(Exception):
        sqlstate = "23505"

    error = DBAPIError("INSERT INTO tasks (title) VALUES ($1)", (WRITTEN,), Original(WRITTEN))
    assert lines_of(error).endswith("DBAPIError: SQLSTATE 23505, INSERT INTO tasks (title) VALUES ($1)\n")


def test_what_led_to_it_is_told_first() -> None:
    lines = lines_of(raised(TypeError("second"), raised(KeyError(WRITTEN))))
    first, second = lines.split("\nThe above exception was the direct cause of the following exception:\n\n")
    assert first.endswith("builtins.KeyError\n")
    assert second.endswith("builtins.TypeError: second\n")


def test_what_it_came_upon_is_told_first_unless_it_is_hidden() -> None:
    def fail(*, hidden: bool) -> BaseException:
        try:
            try:
                raise KeyError(WRITTEN)
            except KeyError:
                if hidden:
                    raise ValueError from None
                raise ValueError  # noqa: B904 - that is the case
        except ValueError as error:
            return error

    assert "During handling of the above exception" in lines_of(fail(hidden=False))
    assert "KeyError" not in lines_of(fail(hidden=True))


def test_each_of_a_group_is_told() -> None:
    group = ExceptionGroup(WRITTEN, [ValueError(WRITTEN), OSError("gone")])
    lines = lines_of(group)
    assert WRITTEN not in lines
    assert lines.index("builtins.ExceptionGroup") < lines.index("builtins.ValueError")
    assert lines.endswith("builtins.OSError: gone\n")


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert lines_of(first).count("builtins.ValueError") == 1
