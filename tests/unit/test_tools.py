"""A tool's arguments come from the schema of a task, and the audit trail names what a call was about."""

import json
import logging
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.tools import TASK_TOOLS, OneTask, Tool, ToolOutcome, UpdateTask, call_tool
from chatapi.db.database import Work
from chatapi.tasks.schemas import NewTask, Task, TaskChanges, TaskContent
from chatapi.web.auditing import audit_act
from tests.support.logs import heard

NO_SESSION = cast("AsyncSession", None)


def members(type_: type[Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(type_)}


async def carried_out(work: Work[ToolOutcome]) -> None:
    await work(NO_SESSION)


class TestArguments:
    def test_are_what_a_task_is_made_of(self) -> None:
        arguments = {tool.name: tool.arguments for tool in TASK_TOOLS}
        assert arguments["add_task"] is TaskContent
        assert members(arguments["update_task"]) == {
            **members(TaskChanges),
            "task_id": members(OneTask)["task_id"],
        }

    def test_a_task_has_the_same_members_wherever_it_is_told_of(self) -> None:
        assert list(members(TaskChanges)) == list(members(NewTask))
        assert set(members(Task)) == {*members(NewTask), "id", "created_at", "updated_at"}

    @pytest.mark.parametrize(
        ("call", "changes"),
        [
            ({"description": ""}, TaskChanges(description=None)),
            ({"completed": False, "title": "milk"}, TaskChanges(completed=False, title="milk")),
        ],
    )
    def test_with_an_empty_text_take_away_what_may_be_missing(
        self, call: dict[str, Any], changes: TaskChanges
    ) -> None:
        assert UpdateTask(task_id=1, **call).changes == changes


class Note(Struct, frozen=True):
    """Has an `id` that is not a task's."""

    id: int


async def take_note(_: AsyncSession, __: str, call: TaskContent) -> Note:
    return Note(id=len(call.title))


NOTE = Tool(
    name="take_note",
    title="Take a note",
    description="Take a note.",
    arguments=TaskContent,
    result=Note,
    run=take_note,
    act="note.added",
)


class TestAudit:
    @pytest.fixture(autouse=True)
    def _heard(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "chatapi.audit")

    async def test_does_not_take_any_id_for_a_tasks(self) -> None:
        with heard("chatapi.audit") as messages:
            outcome = await call_tool(NOTE, "alice", {"title": "milk"}, carried_out, turn_id=7)
        assert outcome == ToolOutcome(result={"id": 4})
        (event,) = map(json.loads, messages)
        assert event.items() >= {"action": "note.added", "user_id": "alice", "turn_id": 7}.items()
        assert "task_id" not in event

    async def test_does_not_take_an_id_from_an_address(self) -> None:
        scope = {
            "route_handler": SimpleNamespace(opt={"act": "note.added"}),
            "path_params": {"user_id": "alice"},
        }
        headers = [(b"location", b"/api/alice/notes/a-note")]
        message = {"type": "http.response.start", "status": 201, "headers": headers}
        with heard("chatapi.audit") as messages:
            await audit_act(cast("Any", message), cast("Any", scope))
        assert json.loads(messages[0])["action"] == "note.added"


async def test_a_call_with_text_that_is_not_unicode_is_refused() -> None:
    outcome = await call_tool(NOTE, "alice", {"title": "\ud800"}, carried_out)
    assert outcome == ToolOutcome(error="The call holds text that is not Unicode.")
