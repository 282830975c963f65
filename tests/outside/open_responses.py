"""The compliance tests of the Open Responses project (https://www.openresponses.org), run against this service.

`python -m tests.outside.open_responses` fetches them from their repository, at the commit below, into build/; they
come with no package. `python -m tests.outside.open_responses CHECKOUT` takes them from a checkout that is there. Needs git, npm and Node.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from chatapi.agent.ports import AgentEvent, File, OptionName, Prompt, TextDelta, Tools, Wait
from tests.support.serving import REPOSITORY, serve, settings_for, token_for

SOURCE = "https://github.com/openresponses/openresponses"
COMMIT = "18e565604fdf7a08ad3a06bbc30d1ddaee999ea4"
TOOLS = ("bun@1.3.14", "zod@3.25.76")  # what runs them, and what they check with
INTO = REPOSITORY / "build" / "open-responses"


class ObligingAgent:
    """Calls the caller's tool if there is one, and else says three words: the tests are about the API, and not about a model."""

    model = "obliging"
    options = get_args(OptionName)

    async def check_files(self, files: list[File]) -> None:
        """Takes all files."""

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        theirs = [spec.name for spec in tools.specs if spec.is_callers]
        if theirs:
            known = None if prompt.resumed is None else prompt.resumed.state
            where = {"location": "San Francisco, CA"}
            call = await tools.call(theirs[0], where, call_id=known, may_wait=True)
            if call.waits:
                yield Wait(call.id)
                return
        for word in ("Hello ", "there, ", "Alice."):
            yield TextDelta(word)


def fetch(into: Path) -> Path:
    """Fetch the tests; returns their checkout."""
    checkout = into / "source"
    checkout.mkdir(parents=True, exist_ok=True)
    for command in (
        ("init", "--quiet"),
        ("fetch", "--quiet", "--depth", "1", SOURCE, COMMIT),
        ("checkout", "--quiet", "FETCH_HEAD"),
    ):
        subprocess.run(["git", *command], cwd=checkout, check=True)
    return checkout


def install(beside: Path) -> Path:
    """Install what runs the tests in the folder above their checkout, where they look for it; returns the program."""
    command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(beside), *TOOLS]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return beside / "node_modules" / ".bin" / "bun"


async def results(checkout: Path, program: Path) -> list[dict[str, Any]]:
    with TemporaryDirectory() as directory:
        settings = settings_for(f"sqlite+aiosqlite:///{directory}/chatapi.db", files_url=f"{directory}/files")
        async with serve(settings, ObligingAgent()) as url:
            running = await asyncio.create_subprocess_exec(
                str(program),
                *("bin/compliance-test.ts", "--json"),
                *("--base-url", f"{url}/v1", "--model", ObligingAgent.model, "--api-key", token_for("alice")),
                cwd=checkout,
                stdout=asyncio.subprocess.PIPE,
            )
            told, _ = await running.communicate()
    found: list[dict[str, Any]] = json.loads(told)["results"]
    return found


def main() -> None:
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else fetch(INTO)
    found = asyncio.run(results(checkout.resolve(), install(checkout.resolve().parent)))
    for each in found:
        print(each["status"], "-", each["name"], *each.get("errors", ()), sep="  ")
    sys.exit(any(each["status"] == "failed" for each in found) or not found)


if __name__ == "__main__":
    main()
