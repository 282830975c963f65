"""Schemathesis over the whole API with a good token: what the document allows, what it doesn't, and sequences of both.

No answer may be a 5xx, undocumented, or of another form than the document says.
"""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from chatapi.offline import OfflineAgent
from tests.support.serving import serve, settings_for, token_for

pytestmark = pytest.mark.slow

# Without the id, no generated path would be the token's. What a cursor has to be, or a confirmation, no schema can say:
# that an opaque one is refused is no finding; and neither is a key that was used before, with another request, a range of days
# that is too long, feedback on a question, an answer of two kinds, or an expiry that is past. In a form a number is a text, and so a file like another.
CONFIGURATION = """
[parameters]
"path.user_id" = "alice"

[[operations]]
include-operation-id = ["listConversations", "listMessages", "listTasks", "eraseAccount", "addFile", "deleteConversations", "search", "chat", "chatAsTokenUser", "regenerateTurn", "listTurns", "answerTurn", "readUsage", "giveFeedback", "takeFeedbackBack", "listKeys", "makeKey", "createChatCompletion", "createResponse", "createConversation"]
checks.positive_data_acceptance.enabled = false

[[operations]]
include-operation-id = ["addFile"]
checks.negative_data_rejection.enabled = false
"""


async def test_no_request_gets_an_answer_that_is_not_documented(
    empty_database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    settings = settings_for(
        empty_database_url, rate_limit="off", rate_limit_chat="off", rate_limit_search="off"
    )
    async with serve(settings, OfflineAgent()) as url:
        options = ["--mode=all", "--max-examples=6", "--seed=1", "--workers=1", "--no-color"]
        # A slow machine is no finding, neither of the fuzzer's generator nor of the service.
        options += ["--suppress-health-check=too_slow", "--request-timeout=120"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/docs/openapi.json"),
            *(*options, f"--header=Authorization: Bearer {token_for('alice')}", "--output-truncate=false"),
            cwd=tmp_path,
            # The fuzzer's own lines are not those whose coverage is asked for.
            env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    report = output.decode()
    assert process.returncode == 0, report
    requests = re.search(r"(\d+) generated", report)
    assert requests is not None, report
    assert int(requests[1]) > 300
