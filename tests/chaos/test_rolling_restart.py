"""A new version goes out under load: no turn fails, and nothing is sticky."""

import asyncio
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from tests.chaos.harness import Server
from tests.chaos.rolling import roll
from tests.support.haproxy import PROGRAM

pytestmark = pytest.mark.slow


@pytest.mark.skipif(PROGRAM is None, reason="HAProxy is not installed")
async def test_no_turn_fails_while_replicas_are_restarted(server: Server, directory: Path) -> None:
    name = await asyncio.to_thread(server.new_database)
    report = await roll(directory, server.url(name), rounds=1)
    assert report.exit_codes == {0}
    failures = sum((talk.again + talk.unanswered for talk in [*report.keyed, *report.plain]), Counter[str]())
    assert "503" not in failures, f"a turn that had begun was cut off:\n{report}"
    # A connection that the kernel takes in the instant in which a replica stops listening is lost: docs/scaling.md.
    assert failures.total() <= report.restarts, str(report)
    connection = await asyncpg.connect(server.admin_url(name))
    for talk in report.keyed:
        assert len(talk.answered) > 3, str(report)
        rows = await connection.fetch(
            "SELECT content FROM messages WHERE user_id = $1 AND role = 'assistant' ORDER BY id", talk.user_id
        )
        assert [row["content"] for row in rows] == [f"add_task: done. {title}" for title in talk.answered]
        tasks = await connection.fetch("SELECT title FROM tasks WHERE user_id = $1 ORDER BY id", talk.user_id)
        assert [row["title"] for row in tasks] == talk.answered
    workers = await connection.fetchval(
        "SELECT count(DISTINCT worker_id) FROM turns WHERE user_id = $1", report.keyed[0].user_id
    )
    assert workers >= 2, "one conversation went over several replicas"
    await connection.close()
