"""What the MCP project's own programs make of the server: the conformance suite and the inspector's command line."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import mcp_suites
from tests.support.serving import REPOSITORY, serve, settings_for, token_for

REASON = mcp_suites.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]

PASSED = {
    "2025-06-18": {
        *("server-initialize", "server-session-lifecycle", "ping", "tools-list", "resources-list"),
        "prompts-list",
    },
    "2025-11-25": {
        *("server-initialize", "server-session-lifecycle", "ping", "tools-list", "resources-list"),
        *("server-sse-polling", "server-sse-multiple-streams", "dns-rebinding-protection", "prompts-list"),
    },
    "2026-07-28": {
        *("tools-list", "resources-list", "server-sse-multiple-streams", "sep-2164-resource-not-found"),
        *("dns-rebinding-protection", "http-header-validation", "prompts-list", "caching"),
        *("input-required-result-ignore-extra-params", "input-required-result-unsupported-methods"),
        *("input-required-result-missing-input-response", "input-required-result-validate-input"),
    },
}
# Scenarios of which a part applies, and the checks that do not: they want tools of the suite's own.
PARTLY = {
    "server-stateless": {
        "sep-2575-server-rejects-undeclared-capability",
        "sep-2575-missing-capability-http-400",
        "sep-2575-http-server-no-independent-requests-on-stream",
        "sep-2575-server-no-log-without-loglevel",
    },
}
# The rest call tools, prompts and resources of the suite's own reference server; docs/mcp.md says which and why.
NOT_APPLICABLE = (
    *("tools-call-", "resources-read-", "resources-templates-read", "json-schema-2020-12"),
    *("http-custom-header-server-validation", "prompts-get-", "completion-complete", "logging-set-level"),
    *("resources-subscribe", "resources-unsubscribe", "elicitation-", "input-required-result-"),
)


@pytest.fixture(scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """In demo mode, because the conformance suite sends no token."""
    await asyncio.to_thread(mcp_suites.install)
    database = tmp_path_factory.mktemp("suites") / "chatapi.db"
    async with serve(settings_for(f"sqlite:///{database}", demo_mode=True)) as base_url:
        yield base_url


@pytest.mark.parametrize("version", PASSED)
async def test_conformance(service: str, tmp_path: Path, version: str) -> None:
    results = await mcp_suites.conformance(f"{service}/mcp", version, tmp_path)
    assert {name for name, failed in results.items() if not failed} == PASSED[version]
    for name, failed in results.items():
        if failed and not name.startswith(NOT_APPLICABLE):
            assert failed == PARTLY[name], name


def test_the_document_gives_a_reason_for_each_that_does_not_apply() -> None:
    document = (REPOSITORY / "docs/mcp.md").read_text()
    for name in (*NOT_APPLICABLE, *PARTLY):
        assert f"`{name.rstrip('-')}" in document, name


async def test_the_inspector_lists_and_calls_the_tools(service: str, tmp_path: Path) -> None:
    bearer = ("--header", f"Authorization: Bearer {token_for('inspector')}")
    target = ("--cli", f"{service}/mcp", "--transport", "http", *bearer)
    status, listed = await mcp_suites.run(
        mcp_suites.INSPECTOR, *target, "--method", "tools/list", home=tmp_path
    )
    assert status == 0, listed
    assert all(name in listed for name in ("add_task", "list_tasks", "update_task"))
    call = ("--method", "tools/call", "--tool-name", "add_task", "--tool-arg", "title=milk")
    status, called = await mcp_suites.run(mcp_suites.INSPECTOR, *target, *call, home=tmp_path)
    assert status == 0, called
    assert json.loads(called)["structuredContent"]["title"] == "milk"
