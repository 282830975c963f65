"""The page at `/`, used as people do, in a real Chromium."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from chatapi.app import app_of
from chatapi.playground.built import assets
from chatapi.services import Services
from chatapi.settings import EmbeddedDefault, Settings
from tests.support import browser as browsers
from tests.support import npm
from tests.support.agents import CommandedAgent, Gate
from tests.support.browser import PHONE, opened, shot
from tests.support.files import png
from tests.support.proxy import proxy
from tests.support.serving import (
    GATED,
    REPOSITORY,
    SECRET,
    SLOW_MACHINE,
    Client,
    Process,
    serve,
    serving,
    settings_for,
    token_for,
)

pytestmark = pytest.mark.slow

if why := browsers.missing():
    pytest.skip(why, allow_module_level=True)

AXE = REPOSITORY / "tests/browser/node_modules/axe-core/axe.min.js"
ADD = 'call add_task {"title": "milk"}'
BAD_MARKDOWN = """say <img src=x onerror="alert(1)"> <script>alert(1)</script>
say [run](javascript:alert(1)) [data](data:text/html,hi) [out](https://example.com/)
say ![told](https://example.com/secret.png) ![told](//example.com/secret.png) ![told](/api/me)"""

MARKDOWN = """# Title

- one

- two

```python
x = 1

print(x)
```

| a | b |
|---|---|
| 1 | 2 |

So it is said.[^1]

[^1]: By some.
"""


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browsers.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with serve(embedded(tmp_path_factory.mktemp("page"))) as url:
        yield url


def embedded(directory: Path, **changes: Any) -> Settings:
    return EmbeddedDefault(
        database_url=f"sqlite:///{directory}/chatapi.db",
        better_auth_secret=SECRET,
        log_level="WARNING",
        model_prices='{"commanded": {"input": 1, "output": 2.5}}',
        **changes,
    )


@pytest.fixture
def user() -> str:
    return f"alice-{uuid4().hex[:8]}"


@pytest.fixture
def gate(user: str) -> Gate:
    return CommandedAgent.gates[user]


@pytest.fixture
async def page(chromium: Browser, url: str, user: str) -> AsyncIterator[Page]:
    async with opened(chromium, url, user) as page:
        yield page


@pytest.fixture
async def alice(url: str, user: str) -> AsyncIterator[Client]:
    async with Client(url, user) as client:
        yield client


def field(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


async def say(page: Page, text: str) -> None:
    await field(page).fill(text)
    await field(page).press("Enter")


async def come_back(page: Page) -> None:
    """The tab is shown again; and again, since it looks for nothing new while it reads."""
    await page.evaluate("""() => {
      const come = () => document.dispatchEvent(new Event("visibilitychange"));
      come();
      setInterval(come, 500);
    }""")


def answers(page: Page) -> Locator:
    return page.get_by_role("article", name="Assistant")


def waiting(page: Page) -> Locator:
    """The messages that are queued."""
    return page.get_by_role("article", name="Waits for its turn")


async def test_the_first_minute_of_a_newcomer(chromium: Browser, directory: Path) -> None:
    """As after `make run`: nothing is configured, and the page signs in by itself."""
    async with Process(directory) as service, opened(chromium, await service.ready()) as page:
        await expect(page.get_by_role("heading", name="What can I do for you?")).to_be_visible()
        await expect(page.get_by_text("No conversations yet.")).to_be_visible()
        await shot(page, "welcome")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.removeprefix(page.url.rstrip("/"))))
        await page.reload()
        await expect(page.get_by_text("No conversations yet.")).to_be_visible()
        assert [path for path in asked if not path.startswith("blob:")] == [
            "/",
            *(f"/playground/assets/{name}" for name in assets()),
            "/playground/session",  # the list comes with it
        ]
        await page.get_by_role("button", name="Add milk and bread to my list").click()
        await expect(answers(page)).to_contain_text('Added "milk" and "bread".')
        tasks = page.get_by_role("complementary", name="Tasks")
        await expect(tasks.get_by_role("checkbox")).to_have_count(2)
        await say(page, "I finished the second one")
        await expect(answers(page).last).to_contain_text('Completed "bread".')
        await expect(tasks.get_by_text("Done (1)")).to_be_visible()
        await shot(page, "playground")  # the README's picture
        await answers(page).last.get_by_text("complete task").click()
        await expect(answers(page).last.get_by_text('"title": "bread"')).to_be_visible()
        await tasks.get_by_label("Add a task").fill("Water the plants")
        await tasks.get_by_label("Add a task").press("Enter")
        await tasks.get_by_role("checkbox", name="Water the plants").click()
        await expect(tasks.get_by_text("Done (2)")).to_be_visible()
        await shot(page, "first-minute")
        await page.reload()
        await expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(1)


async def sign_in(page: Page, token: str) -> None:
    await page.get_by_label("Token", exact=True).fill(token)
    await page.get_by_role("button", name="Sign in").click()


class TestSignIn:
    async def test_by_a_token_where_the_service_does_not_do_it(
        self, chromium: Browser, directory: Path
    ) -> None:
        settings = settings_for(f"sqlite:///{directory}/chatapi.db", playground="on")
        async with serve(settings) as url, opened(chromium, url) as page:
            await expect(page.get_by_text("chatapi token YOUR_NAME")).to_be_visible()
            await shot(page, "sign-in")
            await sign_in(page, "nonsense")
            await expect(page.get_by_role("alert")).to_contain_text("token")
            token = token_for("carol")
            await sign_in(page, f"Bearer {token[:40]}\n{token[40:]}")  # as copied from a narrow terminal
            await expect(field(page)).to_be_visible()
            await page.reload()
            await expect(page.get_by_role("button", name="carol")).to_be_visible()
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_label("Token", exact=True)).to_be_visible()

    async def test_again_when_the_token_has_ended_loses_nothing_that_was_written(
        self, chromium: Browser, directory: Path, user: str, gate: Gate
    ) -> None:
        ended = {"authorization": f"Bearer {token_for(user, lasts=timedelta(hours=-1))}"}

        async def end(route: Route) -> None:
            await route.continue_(headers={**route.request.headers, **ended})

        settings = settings_for(f"sqlite:///{directory}/chatapi.db", playground="on")
        async with serve(settings) as url, opened(chromium, url) as page:
            await sign_in(page, token_for(user))
            await page.route("**/chat", end)
            await say(page, f"say Once\ngate {user}")
            await expect(page.get_by_role("alert")).to_contain_text("expired")
            await page.unroute("**/chat")
            await sign_in(page, token_for(user))
            await expect(field(page)).to_have_value(f"say Once\ngate {user}")
            await field(page).press("Enter")
            await expect(answers(page)).to_contain_text("Once")
            await page.route("**/chat", end)
            await say(page, "say Second.")
            await expect(page.get_by_role("alert")).to_contain_text("expired")
            await field(page).fill("say Third.")
            await page.get_by_role("button", name="Try again").click()
            await page.unroute("**/chat")
            await sign_in(page, token_for(user))
            await expect(field(page)).to_have_value("say Second.\n\nsay Third.")
            gate.opened.set()
            await page.route("**/messages?*", end)
            await page.reload()
            await expect(page.get_by_role("alert")).to_contain_text("expired")
            await expect(page.get_by_role("button", name="Sign in")).to_be_visible()

    async def test_as_the_demo_user(self, chromium: Browser, directory: Path) -> None:
        settings = settings_for(f"sqlite:///{directory}/chatapi.db", demo_mode=True)
        async with serve(settings) as url, opened(chromium, url) as page:
            await say(page, "say Hello.")
            await expect(answers(page)).to_contain_text("Hello.")


class TestAnswer:
    async def test_goes_on_after_a_reload_in_its_middle(self, page: Page, user: str, gate: Gate) -> None:
        await say(page, f"{ADD}\nsay Once upon a time\ngate {user}\nsay  there was.")
        await expect(answers(page)).to_contain_text("Once upon a time")
        await page.reload()
        await expect(answers(page)).to_contain_text("Once upon a time")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        gate.opened.set()
        await expect(answers(page)).to_contain_text("Once upon a time there was.")
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        await expect(answers(page)).to_have_count(1)

    async def test_is_seen_in_two_tabs(self, page: Page, user: str, gate: Gate) -> None:
        await say(page, f"say Once\ngate {user}\nsay  and for all.")
        await expect(answers(page)).to_contain_text("Once")
        other = await page.context.new_page()
        await other.goto(page.url)
        await expect(answers(other)).to_contain_text("Once")
        gate.opened.set()
        for tab in (page, other):
            await expect(answers(tab)).to_contain_text("Once and for all.")
        await say(other, "say Next.")
        await expect(answers(other)).to_have_count(2)
        await come_back(page)
        await expect(answers(page).last).to_contain_text("Next.")

    async def test_is_stopped(self, page: Page, user: str, alice: Client) -> None:
        await say(page, f"say Once\ngate {user}")
        await expect(answers(page)).to_contain_text("Once")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        stored = await alice.messages(int(page.url.partition("#")[2]))
        assert {message["status"] for message in stored} == {"cancelled"}
        await say(page, "say Next.")
        await expect(answers(page).last).to_contain_text("Next.")

    async def test_is_waited_for_by_messages_that_outlive_the_page(
        self, page: Page, user: str, gate: Gate, alice: Client
    ) -> None:
        await say(page, f"say Once\ngate {user}\nsay  and for all.")
        for text in ("say Second.", "say Third.", "say Fourth."):
            await say(page, text)  # the first of them before the conversation is there
        await expect(waiting(page)).to_contain_text(["say Second.", "say Third.", "say Fourth."])
        await shot(page, "queue")
        await page.reload()
        await expect(waiting(page)).to_contain_text(["say Second.", "say Third.", "say Fourth."])
        await say(page, "say Fifth.")
        await expect(waiting(page)).to_have_count(4)
        other = await page.context.new_page()
        await other.goto(page.url)
        await expect(waiting(other)).to_have_count(4)
        await waiting(other).nth(1).get_by_role("button", name="Remove").click()
        left = ["say Second.", "say Fourth.", "say Fifth."]
        await expect(waiting(other)).to_contain_text(left)
        await come_back(page)
        await expect(waiting(page)).to_contain_text(left)
        gate.opened.set()
        for tab in (page, other):
            await expect(answers(tab)).to_contain_text(["Once and for all.", "Second.", "Fourth.", "Fifth."])
            await expect(waiting(tab)).to_have_count(0)
            await expect(tab.get_by_role("button", name="Send")).to_be_visible()
            said = tab.get_by_role("article", name="You")
            await expect(said).to_contain_text(["say Once", *left])
        stored = await alice.messages(int(page.url.partition("#")[2]))
        assert [each["content"] for each in stored if each["role"] == "user"][1:] == left

    async def test_is_ended_for_a_message_that_waits(
        self, page: Page, user: str, gate: Gate, alice: Client
    ) -> None:
        await say(page, f"say Once\ngate {user}-never")
        await say(page, f"fail\ngate {user}-never")
        await say(page, f"say Third\ngate {user}")
        await expect(waiting(page)).to_have_count(2)
        await waiting(page).get_by_role("button", name="Answer now").click()
        await expect(answers(page).last).to_contain_text("Third")
        await expect(page.get_by_text("The answer failed.")).to_be_visible()
        await expect(waiting(page)).to_have_count(0)
        gate.opened.set()
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        stored = await alice.messages(int(page.url.partition("#")[2]))
        assert [each["status"] for each in stored if each["role"] == "user"] == [
            *("cancelled", "failed", "completed"),
        ]

    async def test_is_waited_for_by_as_many_as_the_queue_takes(self, page: Page, user: str) -> None:
        await say(page, f"say Once\ngate {user}-never")
        for number in range(9):
            await say(page, f"say Number {number}")
        await expect(page.get_by_text("The conversation's queue is full")).to_be_visible()
        await expect(waiting(page)).to_have_count(9)
        await expect(waiting(page).last).to_contain_text("Not sent")
        await waiting(page).nth(3).get_by_role("button", name="Remove").click()
        await expect(waiting(page)).to_have_count(8)
        await page.get_by_role("button", name="Try again", exact=True).click()
        await expect(waiting(page).last).to_contain_text(re.compile("Number 8.*Answered after this"))
        await page.get_by_role("button", name="Stop").click()
        await expect(answers(page).last).to_contain_text("Number 8")
        await expect(waiting(page)).to_have_count(0)
        await expect(answers(page)).to_have_count(9)

    async def test_is_edited_and_given_again(self, page: Page) -> None:
        await say(page, "say Helo.")
        again = page.get_by_role("button", name="Another answer")
        await expect(again).to_be_visible()  # the turn has ended
        await field(page).press("ArrowUp")
        editor = page.get_by_label("Edit the message")
        await editor.fill("say Hello.")
        await editor.press("Enter")
        await expect(answers(page)).to_contain_text(["Hello."])
        await again.click()
        pager = page.get_by_role("group", name="Answers")
        await expect(pager).to_contain_text("2 / 2")
        await pager.get_by_label("Answer before").click()
        await expect(pager).to_contain_text("1 / 2")
        await page.reload()
        await expect(pager).to_contain_text("2 / 2")

    async def test_leaves_the_keys_where_the_next_message_is_written(self, page: Page) -> None:
        await field(page).fill("say Helo.")
        await page.get_by_role("button", name="Send").click()
        await expect(field(page)).to_be_focused()
        await expect(page.get_by_role("button", name="Another answer")).to_be_visible()
        for key in ("Escape", "Enter"):
            await page.keyboard.press("ArrowUp")
            await expect(page.get_by_label("Edit the message")).to_be_focused()
            await page.keyboard.press(key)
            await expect(field(page)).to_be_focused()

    async def test_is_followed_from_where_its_question_is_sent(self, page: Page) -> None:
        long = "line\n\n" * 100
        await say(page, f"write {json.dumps(long)}")
        await expect(page.get_by_role("button", name="Another answer")).to_be_visible()
        await page.locator(".scroller").evaluate("box => box.scrollTo(0, 0)")
        await expect(page.get_by_role("button", name="Go to the end")).to_be_visible()
        await say(page, "say Hello.")
        await expect(answers(page).last).to_contain_text("Hello.")
        await expect(answers(page).last).to_be_in_viewport()

    async def test_can_neither_run_nor_call_out(self, page: Page) -> None:
        await say(page, BAD_MARKDOWN)
        await expect(answers(page)).to_contain_text('onerror="alert(1)"')
        links = answers(page).get_by_role("link")
        assert [await link.get_attribute("href") for link in await links.all()] == ["https://example.com/"]
        assert "noopener" in str(await links.first.get_attribute("rel"))
        assert await answers(page).locator("img, script").count() == 0

    async def test_is_laid_out_as_it_is_written(self, page: Page) -> None:
        long = "".join(f"\n\nParagraph {each}" for each in range(200))  # such a text is read in pieces
        for number, text in enumerate((MARKDOWN, MARKDOWN + long)):
            await say(page, f"think Hm.\nwrite {json.dumps(text)}")
            answer = answers(page).nth(number)
            await expect(answer.locator("p", has_text="Paragraph")).to_have_count(text.count("Paragraph"))
            await expect(answer.get_by_text("Thoughts")).to_be_visible()
            await expect(answer.get_by_role("heading", level=1)).to_have_text("Title")
            await expect(answer.get_by_role("list").first.get_by_role("listitem")).to_have_text(
                ["one", "two"]
            )
            await expect(answer.locator(".code-head")).to_contain_text("python")
            await expect(answer.locator("pre > code")).to_have_text("x = 1\n\nprint(x)\n")
            await expect(answer.get_by_role("table").get_by_role("cell")).to_have_text(["1", "2"])
            heading = answer.get_by_role("heading", name="Footnotes")
            assert await heading.evaluate("each => each.offsetWidth") <= 1  # it is for screen readers
        await say(page, "שלום עולם")
        assert await page.get_by_text("שלום עולם", exact=True).last.evaluate(
            "each => each.matches(':dir(rtl)')"
        )


class TestDraft:
    async def test_is_there_again_where_it_was_written(self, page: Page, user: str, gate: Gate) -> None:
        await say(page, f"say Once\ngate {user}")
        await field(page).fill("and then")
        await expect(answers(page)).to_contain_text("Once")
        await page.get_by_role("button", name="New conversation").click()
        await expect(answers(page)).to_have_count(0)
        await expect(field(page)).to_have_value("")
        await field(page).fill("elsewhere")
        await page.go_back()
        await expect(field(page)).to_have_value("and then")
        await page.reload()
        await expect(field(page)).to_have_value("and then")
        gate.opened.set()
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        await say(page, "say Well.")
        await expect(answers(page).last).to_contain_text("Well.")
        await page.get_by_role("button", name="New conversation").click()
        await expect(field(page)).to_have_value("elsewhere")
        await page.go_back()
        await expect(answers(page).last).to_contain_text("Well.")
        await expect(field(page)).to_have_value("")


class TestApproval:
    async def test_is_given_after_a_restart_of_the_service(self, chromium: Browser, directory: Path) -> None:
        environ = {"CHAT_MODEL": f"{GATED}:GatedAgent", "TOOL_APPROVAL": "destructive"}
        async with Process(directory, environ, program=GATED) as service:
            url = await service.ready()
            async with opened(chromium, url) as page:
                await say(page, f'{ADD}\nask delete_task {{"task_id": 1}}\nwait\nsay So it is.')
                await expect(page.get_by_role("button", name="Approve")).to_be_visible()
                await shot(page, "approval")
                service.kill()
                await service.wait()
                port = int(url.rsplit(":", 1)[1])
                async with Process(directory, environ, program=GATED, port=port) as again:
                    await again.ready()
                    await page.reload()
                    await page.get_by_role("button", name="Approve").click()
                    await expect(answers(page)).to_contain_text("delete_task: done. So it is.")
                    await expect(page.get_by_text("Nothing to do.")).to_be_visible()

    async def test_is_refused_with_a_reason(self, chromium: Browser, directory: Path, user: str) -> None:
        async with (
            serve(embedded(directory, tool_approval="all")) as url,
            opened(chromium, url, user) as page,
        ):
            await say(page, 'ask add_task {"title": "milk"}\nwait\nsay Well.')
            await page.get_by_label("Reason").fill("I have some.")
            await page.get_by_role("button", name="Deny").click()
            await expect(answers(page)).to_contain_text("I have some.. Well.")
            await expect(answers(page).get_by_text("denied", exact=True)).to_be_visible()
            await say(page, 'ask add_task {"title": "milk"}\nwait\nsay Well.')
            await expect(page.get_by_role("button", name="Deny")).to_be_visible()
            await say(page, "say Never mind.")
            await expect(answers(page).last).to_contain_text("Never mind.")
            await expect(page.get_by_role("button", name="Deny")).to_have_count(0)

    async def test_that_is_given_too_late_shows_what_another_tab_has_said(
        self, chromium: Browser, directory: Path, user: str
    ) -> None:
        async with (
            serve(embedded(directory, tool_approval="all")) as url,
            opened(chromium, url, user) as page,
        ):
            await say(page, 'ask add_task {"title": "milk"}\nwait\nsay Well.')
            await expect(page.get_by_role("button", name="Deny")).to_be_visible()
            other = await page.context.new_page()
            await other.goto(page.url)
            await expect(other.get_by_role("button", name="Deny")).to_be_visible()
            await page.get_by_role("button", name="Approve").click()
            await expect(answers(page)).to_contain_text("add_task: done. Well.")
            await other.get_by_role("button", name="Deny").click()
            await expect(answers(other)).to_contain_text("add_task: done. Well.")
            await expect(other.get_by_role("alert")).to_have_count(0)

    async def test_is_not_needed_for_what_the_page_does_itself(self, page: Page, alice: Client) -> None:
        await say(page, "ask browser_time_zone {}\nwait\nsay Thanks.")
        await expect(answers(page)).to_contain_text("browser_time_zone: done. Thanks.")
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        stored = await alice.messages(int(page.url.partition("#")[2]))
        assert stored[1]["tool_calls"][0]["result"]["time_zone"]


class TestToolsOfThePage:
    async def test_are_used_once_for_a_call_that_is_read_again(
        self, page: Page, user: str, gate: Gate
    ) -> None:
        copied: list[str] = []

        def copy(text: str) -> None:
            copied.append(text)

        await page.context.expose_function("copy", copy)
        await page.context.add_init_script("navigator.clipboard.writeText = (text) => copy(text)")
        await page.reload()
        await say(
            page, f'ask copy_to_clipboard {{"text": "milk"}}\nwait\nsay Copied.\ngate {user}\nsay  And on.'
        )
        await expect(answers(page)).to_contain_text("Copied.")
        await page.reload()
        other = await page.context.new_page()
        await other.goto(page.url)
        for tab in (page, other):
            await expect(answers(tab)).to_contain_text("Copied.")
        gate.opened.set()
        for tab in (page, other):
            await expect(answers(tab)).to_contain_text("And on.")
        assert copied == ["milk"]

    async def test_are_used_by_a_page_that_finds_the_turn_waiting(self, page: Page) -> None:
        await page.route("**/answers", lambda route: route.abort())
        async with page.expect_event("requestfailed"):
            await say(page, "ask browser_time_zone {}\nwait\nsay Thanks.")
        await page.wait_for_url(re.compile("#"))
        address = page.url
        await page.goto("about:blank")
        await page.unroute("**/answers")
        await page.goto(address)
        await expect(answers(page)).to_contain_text("browser_time_zone: done. Thanks.")


GIVE = """(field, {{ name, type, data }}) => {{
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(atob(data), (each) => each.charCodeAt(0))], name, {{ type }}));
  field.dispatchEvent(new {event}("{name}", {{ {key}: files, bubbles: true, cancelable: true }}));
}}"""


class TestFiles:
    async def test_are_sent_by_button_paste_and_drop(
        self, page: Page, user: str, alice: Client, tmp_path: Path
    ) -> None:
        picture = {"name": "a.png", "type": "image/png", "data": base64.b64encode(png()).decode()}
        text = {"name": "b.txt", "type": "text/plain", "data": base64.b64encode(b"milk").decode()}
        drop = GIVE.format(event="DragEvent", name="drop", key="dataTransfer")
        paste = GIVE.format(event="ClipboardEvent", name="paste", key="clipboardData")
        await field(page).evaluate(drop, picture)
        await field(page).evaluate(paste, text)
        await page.locator("input[type=file]").set_input_files(
            {"name": "c.md", "mimeType": "text/markdown", "buffer": b"# Bread"}
        )
        chosen = page.get_by_role("list", name="Files").get_by_role("listitem")
        await expect(chosen).to_have_count(3)
        await page.get_by_role("button", name="Leave out c.md").click()
        await page.locator("input[type=file]").set_input_files(
            {"name": "d.exe", "mimeType": "application/x-msdownload", "buffer": b"MZ\x90\x00"}
        )
        await expect(chosen.last).to_contain_text("d.exe: ")
        await shot(page, "files")
        await say(page, "files")
        await expect(answers(page)).to_contain_text('["b.txt", "milk"]')
        for _ in range(2):
            await expect(page.get_by_role("img", name="a.png")).to_be_visible()
            async with page.expect_download() as saved:
                await page.get_by_role("button", name="b.txt").click()
            assert (await (await saved.value).path()).read_bytes() == b"milk"
            await page.reload()
        stored = await alice.messages(int(page.url.partition("#")[2]))
        assert [each["name"] for each in stored[0]["files"]] == ["a.png", "b.txt"]

    async def test_are_taken_wherever_they_are_dropped_and_texts_are_not(self, page: Page) -> None:
        text = {"name": "b.txt", "type": "text/plain", "data": base64.b64encode(b"milk").decode()}
        drop = GIVE.format(event="DragEvent", name="drop", key="dataTransfer")
        await page.get_by_role("heading", name="What can I do for you?").evaluate(drop, text)
        await expect(page.get_by_role("list", name="Files")).to_contain_text("b.txt")
        left_to_the_browser = await field(page).evaluate("""field => {
          const dataTransfer = new DataTransfer();
          dataTransfer.setData("text/plain", "milk");
          const event = (name) => new DragEvent(name, { dataTransfer, bubbles: true, cancelable: true });
          return field.dispatchEvent(event("dragover")) && field.dispatchEvent(event("drop"));
        }""")
        assert left_to_the_browser


class TestTrouble:
    async def test_of_a_limit_counts_down(self, chromium: Browser, directory: Path, user: str) -> None:
        now = 0.0
        settings = embedded(directory, rate_limit_chat="1/minute")
        services = Services.of(settings, SLOW_MACHINE, CommandedAgent(), clock=lambda: now)
        async with serving(app_of(services)) as url, opened(chromium, url, user) as page:
            await page.clock.install()
            await page.reload()
            await say(page, "say One.")
            await expect(answers(page)).to_contain_text("One.")
            await say(page, "say Two.")
            again = page.get_by_role("button", name="Try again in")
            await expect(again).to_be_disabled()
            await shot(page, "limited")
            now = 61.0
            await page.clock.run_for(61_000)
            await page.get_by_role("button", name="Try again", exact=True).click()
            await expect(answers(page).last).to_contain_text("Two.")

    async def test_of_a_limit_leaves_what_is_tried_again_as_it_was(
        self, chromium: Browser, directory: Path, user: str, gate: Gate
    ) -> None:
        """After a reload, so that the page has no key of it."""
        now = 0.0
        settings = embedded(directory, rate_limit_chat="1/minute")
        services = Services.of(settings, SLOW_MACHINE, CommandedAgent(), clock=lambda: now)
        async with serving(app_of(services)) as url, opened(chromium, url, user) as page:
            await say(page, f"say Half\ngate {user}\nfail")
            await expect(page).to_have_url(re.compile("#"))
            await gate.reached.wait()
            await page.reload()
            await expect(answers(page)).to_contain_text("Half")
            gate.opened.set()
            await page.get_by_role("button", name="Try again", exact=True).click()
            await expect(page.get_by_role("alert")).not_to_contain_text("bad day")
            await expect(answers(page)).to_contain_text(re.compile("Half.*The answer failed."))
            await expect(field(page)).to_have_value("")
            now = 61.0
            await say(page, "say Hello.")
            await expect(answers(page).last).to_contain_text("Hello.")
            await expect(page.get_by_role("button", name="Send")).to_be_visible()

    async def test_of_the_network_mends_itself(
        self, chromium: Browser, url: str, user: str, gate: Gate
    ) -> None:
        async with (
            proxy(int(url.rsplit(":", 1)[1])) as between,
            opened(chromium, f"http://127.0.0.1:{between.port}", user) as page,
        ):
            await say(page, f"say Once\ngate {user}\nsay  and for all.")
            await expect(answers(page)).to_contain_text("Once")
            between.cut()
            await expect(page.get_by_text("The connection was lost. Reading on…")).to_be_visible()
            between.heal()
            gate.opened.set()
            await expect(answers(page)).to_contain_text("Once and for all.")
            await page.context.set_offline(True)
            await say(page, "say Next.")
            await expect(page.get_by_text("You are offline.")).to_be_visible()
            await page.context.set_offline(False)
            await expect(answers(page).last).to_contain_text("Next.")
            await expect(answers(page)).to_have_count(2)

    async def test_of_the_network_keeps_no_message_out_of_the_queue(
        self, page: Page, user: str, gate: Gate
    ) -> None:
        await say(page, f"say Once\ngate {user}")
        await expect(answers(page)).to_contain_text("Once")
        await page.context.set_offline(True)
        for text in ("say Second.", "say Third."):
            await say(page, text)
        await expect(waiting(page)).to_contain_text(["Not sent", "Not sent"])
        await page.context.set_offline(False)
        await expect(waiting(page)).to_contain_text(["say Second.Answered", "say Third.Answered"])
        gate.opened.set()
        await expect(answers(page)).to_contain_text(["Once", "Second.", "Third."])

    async def test_of_the_network_hides_no_end_that_came_meanwhile(
        self, chromium: Browser, url: str, user: str, gate: Gate, alice: Client
    ) -> None:
        async with (
            proxy(int(url.rsplit(":", 1)[1])) as between,
            opened(chromium, f"http://127.0.0.1:{between.port}", user) as page,
        ):
            first = CommandedAgent.gates[f"{user}-first"]
            await say(page, f"say One\ngate {user}-first")
            await say(page, f"say Half\ngate {user}\nsay  and whole.")
            await expect(waiting(page)).to_have_count(1)
            first.opened.set()
            await expect(answers(page).last).to_contain_text("Half")
            await page.route("**/stream*", lambda route: route.abort())  # it is not read on in
            between.cut()
            await expect(page.get_by_text("The connection was lost. Reading on…")).to_be_visible()
            gate.opened.set()
            await alice.get(alice.mine(f"/chat/{page.url.partition('#')[2]}/stream"))  # to its end
            between.heal()
            await come_back(page)
            await expect(answers(page).last).to_contain_text("Half and whole.")
            await expect(page.get_by_role("button", name="Another answer")).to_be_visible()

    async def test_of_a_message_that_is_too_long_leaves_it_whole(self, page: Page) -> None:
        await field(page).focus()
        await page.keyboard.insert_text(f"say {'x' * 10_000}.")
        await expect(page.get_by_role("alert")).to_have_text("The message has 5 characters too many.")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Send")).to_be_disabled()
        for _ in range(5):
            await page.keyboard.press("Backspace")
        await expect(page.get_by_role("alert")).to_have_count(0)
        await page.keyboard.press("Enter")
        await expect(answers(page)).to_contain_text("xxx")

    async def test_of_a_turn_is_told_and_tried_again(self, page: Page) -> None:
        await say(page, "once fail\nsay Better.")
        await expect(page.get_by_role("alert")).to_contain_text("The model is having a bad day.")
        await page.get_by_role("button", name="Try again").click()
        await expect(answers(page)).to_contain_text("Better.")

    async def test_of_another_tabs_turn_is_tried_again_and_not_what_this_tab_has_sent(
        self, page: Page, user: str, gate: Gate
    ) -> None:
        await say(page, "say One.")
        await expect(page.get_by_role("button", name="Another answer")).to_be_visible()
        other = await page.context.new_page()
        await other.goto(page.url)
        await say(other, f"say So far.\nonce gate {user}\nonce fail {user}\nsay Better.")
        await expect(answers(other).last).to_contain_text("So far.")
        await come_back(page)
        await expect(answers(page).last).to_contain_text("So far.")
        gate.opened.set()
        await page.get_by_role("button", name="Try again").click()
        await expect(answers(page)).to_contain_text(["One.", "So far.Better."])
        await expect(page.get_by_role("button", name="Send")).to_be_visible()


class TestConversations:
    async def test_are_used_by_keys_alone(self, page: Page, alice: Client) -> None:
        await expect(field(page)).to_be_focused()
        await page.keyboard.type("say Hello.")
        await page.keyboard.press("Enter")
        await expect(answers(page)).to_contain_text("Hello.")
        await expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(1)
        await page.get_by_role("navigation").get_by_role("link").focus()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("menuitem", name="Rename")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.type("Greetings")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Greetings")
        await page.get_by_role("button", name="More for Greetings").focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("ArrowUp")
        await expect(page.get_by_role("menuitem", name="Delete")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("Deleted “Greetings”.")).to_be_visible()
        await expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(0)
        await page.get_by_role("button", name="Undo").press("Enter")
        await page.get_by_role("link", name="Greetings").press("Enter")
        await expect(answers(page)).to_contain_text("Hello.")
        assert [
            each["title"] for each in (await alice.get(alice.mine("/conversations"))).json()["items"]
        ] == ["Greetings"]

    async def test_are_deleted_for_good_when_the_page_goes(self, page: Page, alice: Client) -> None:
        await alice.said("say Hello.")
        await page.reload()
        await page.get_by_role("button", name="More for").click()
        await page.get_by_role("menuitem", name="Delete").click()
        await page.goto("about:blank")
        while (await alice.get(alice.mine("/conversations"))).json()["items"]:
            pass  # the request outlives the page, which cannot tell when it has arrived

    async def test_that_cannot_be_changed_say_why(self, page: Page, alice: Client) -> None:
        await alice.said("say Hello.")
        await page.reload()
        link = page.get_by_role("navigation").get_by_role("link")
        name = await link.inner_text()
        await page.route("**/conversations**", lambda route: route.abort())
        await page.get_by_role("button", name="More for").click()
        await page.get_by_role("menuitem", name="Rename").click()
        await page.get_by_label("Title").fill("Greetings")
        await page.get_by_label("Title").press("Enter")
        await expect(page.get_by_text("The service was not reached.")).to_be_visible()
        await expect(link).to_have_text(name)
        await page.get_by_role("button", name="Close").click()
        await expect(page.get_by_text("The service was not reached.")).to_have_count(0)
        await page.clock.install()
        await page.get_by_role("button", name="More for").click()
        await page.get_by_role("menuitem", name="Delete").click()
        await expect(page.get_by_text("Deleted")).to_be_visible()
        await page.clock.run_for(6_000)
        await expect(page.get_by_text("The service was not reached.")).to_be_visible()

    async def test_are_opened_as_links_are(self, page: Page, alice: Client) -> None:
        await alice.said("say Hello.")
        await page.reload()
        link = page.get_by_role("navigation").get_by_role("link")
        async with page.context.expect_page() as opening:
            await link.click(modifiers=["Control"])
        await expect(answers(await opening.value)).to_contain_text("Hello.")
        await expect(answers(page)).to_have_count(0)
        for _ in range(3):
            await link.click()
        await expect(answers(page)).to_contain_text("Hello.")
        await page.go_back()
        await expect(page.get_by_role("heading", name="What can I do for you?")).to_be_visible()

    async def test_are_found_pinned_and_put_away(self, page: Page, alice: Client) -> None:
        for said in ("say The Äpfel are ripe.", "say Pears.", "say Plums."):
            await alice.said(said)
        await page.reload()
        links = page.get_by_role("navigation").get_by_role("link")
        await expect(links).to_have_count(3)
        await page.get_by_label("Search conversations").fill("apfel ri")
        await expect(links.first.locator("mark").first).to_have_text("Äpfel")
        await links.first.click()
        await expect(answers(page)).to_contain_text("The Äpfel are ripe.")
        await page.get_by_label("Search conversations").fill("")
        for choice in ("Pin", "Archive"):
            await links.last.hover()
            await page.get_by_role("button", name="More for").last.click()
            await page.get_by_role("menuitem", name=choice, exact=True).click()
            if choice == "Pin":
                await expect(page.get_by_role("heading", name="Pinned")).to_be_visible()
        await expect(links).to_have_count(2)
        await page.get_by_role("button", name="Archived").click()
        await expect(links).to_have_count(1)
        stored = (await alice.get(alice.mine("/conversations"), params={"archived": "any"})).json()["items"]
        assert sorted((each["pinned"], each["archived"]) for each in stored) == [
            *((False, False), (False, True), (True, False)),
        ]

    async def test_are_listed_once_each_and_for_as_long_as_they_are_there(
        self, page: Page, alice: Client
    ) -> None:
        for number in range(36):
            await alice.said(f"say {number}")
        await page.clock.install()
        await page.reload()
        links = page.get_by_role("navigation").get_by_role("link")
        await expect(links).to_have_count(30)
        async with page.expect_response(re.compile("conversations")):  # the list, read again
            await say(page, "say Hello.")
        await page.get_by_role("button", name="Older ones").dblclick()
        await expect(links).to_have_count(37)
        listed = [str(await link.get_attribute("href")) for link in await links.all()]
        assert len(set(listed)) == 37
        await page.clock.pause_at(await page.evaluate("Date.now() / 1_000") + 60)
        await page.get_by_role("button", name="More for").nth(34).click()
        await page.get_by_role("menuitem", name="Archive", exact=True).click()
        await expect(links).to_have_count(36)
        await page.get_by_role("button", name="More for").nth(34).click()
        await page.get_by_role("menuitem", name="Delete").click()
        await page.get_by_role("button", name="Archived").press("Enter")  # the notice covers it
        await expect(links).to_have_count(1)
        async with page.expect_response(re.compile("archived=")):
            await page.clock.run_for(6_000)
        await expect(links).to_have_count(1)
        await page.get_by_role("button", name="Archived").press("Enter")
        await expect(links).to_have_count(30)
        await page.get_by_role("button", name="Older ones").click()
        await expect(links).to_have_count(35)
        assert (await alice.get(alice.mine(f"/conversations/{listed[35][1:]}"))).status_code == 404

    async def test_add_up_to_what_is_told(self, page: Page, user: str) -> None:
        await say(page, "say Hello.")
        await expect(answers(page)).to_contain_text("0 in · 1 out · $0.0000025")
        await page.get_by_role("button", name=user).click()
        await expect(page.get_by_text("0 tokens read, 1 written")).to_be_visible()
        await page.reload()
        await expect(answers(page)).to_contain_text("0 in · 1 out · $0.0000025")

    async def test_have_answers_that_are_rated(self, page: Page, alice: Client) -> None:
        await say(page, "say Hello.")
        await page.get_by_role("button", name="Good answer").click()
        await expect(page.get_by_role("button", name="Good answer", pressed=True)).to_be_visible()
        await page.reload()
        await page.get_by_role("button", name="Bad answer").click()
        await page.reload()
        await expect(page.get_by_role("button", name="Bad answer", pressed=True)).to_be_visible()
        await page.get_by_role("button", name="Bad answer").click()
        await expect(page.get_by_role("button", name="Bad answer", pressed=False)).to_be_visible()
        await page.get_by_role("button", name="Another answer").click()
        await page.get_by_role("button", name="Answer before").click()
        await expect(page.get_by_role("button", name="Bad answer")).to_have_count(0)  # it is the last one's
        await page.get_by_role("button", name="Answer after").click()
        await expect(page.get_by_role("button", name="Bad answer")).to_be_visible()


class TestTasks:
    async def test_are_all_shown(self, page: Page, alice: Client) -> None:
        await asyncio.gather(
            *(alice.post(alice.mine("/tasks"), json={"title": f"number {each}"}) for each in range(100))
        )
        await page.get_by_role("button", name="Show tasks").click()
        tasks = page.get_by_role("complementary", name="Tasks")
        await expect(tasks.get_by_role("checkbox")).to_have_count(100)
        await tasks.get_by_label("Add a task").fill("The last one")
        await tasks.get_by_label("Add a task").press("Enter")
        await expect(tasks.get_by_role("checkbox")).to_have_count(101)
        await expect(tasks.get_by_role("checkbox").last).to_have_accessible_name("The last one")

    async def test_that_are_not_taken_are_told(self, page: Page) -> None:
        await page.get_by_role("button", name="Show tasks").click()
        tasks = page.get_by_role("complementary", name="Tasks")
        await tasks.get_by_label("Add a task").fill("milk")
        await page.route("**/tasks", lambda route: route.abort())
        await tasks.get_by_label("Add a task").press("Enter")
        await expect(tasks.get_by_role("alert")).to_have_text("The service was not reached.")
        await expect(tasks.get_by_label("Add a task")).to_have_value("milk")
        await page.unroute("**/tasks")
        await tasks.get_by_label("Add a task").press("Enter")
        milk = tasks.get_by_role("checkbox", name="milk")
        await expect(milk).to_be_visible()
        await expect(tasks.get_by_role("alert")).to_have_count(0)
        await page.route("**/tasks**", lambda route: route.abort())
        await milk.click()
        await expect(tasks.get_by_role("alert")).to_be_visible()
        await expect(milk).not_to_be_checked()


class TestEverybody:
    async def test_loads_what_is_seen_and_nothing_else(self, chromium: Browser, url: str, user: str) -> None:
        async with opened(chromium, url, user) as page:
            await expect(page.get_by_text("No conversations yet.")).to_be_visible()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url.removeprefix(url)))
            await page.reload()
            await expect(page.get_by_text("No conversations yet.")).to_be_visible()
            of_the_service = sorted(path for path in asked if not path.startswith("blob:"))
            mine = f"/api/{user}"
            assert of_the_service == [
                "/",
                f"{mine}/conversations?limit=30&archived=false&source=app",
                "/api/me",
                *(f"/playground/assets/{name}" for name in assets()),
            ]
            assert len(assets()) == 1
            await page.get_by_role("button", name="Show tasks").click()
            await expect(page.get_by_text("Nothing to do.")).to_be_visible()
            assert asked[-1] == f"{mine}/tasks?limit=100"

    async def test_uses_it_by_plain_http_from_another_machine(self, page: Page) -> None:
        """Browsers leave these out of such pages."""
        await page.add_init_script("delete Crypto.prototype.randomUUID; delete Navigator.prototype.clipboard")
        await page.reload()
        await say(page, "say Hello.")
        await expect(answers(page)).to_contain_text("Hello.")
        await answers(page).get_by_role("button", name="Copy").click()
        await expect(answers(page).get_by_role("button", name="Copied")).to_be_focused()
        await field(page).press("ControlOrMeta+v")
        await expect(field(page)).to_have_value("Hello.")

    async def test_uses_it_on_a_phone(self, chromium: Browser, url: str, user: str) -> None:
        async with opened(chromium, url, user, viewport=PHONE, has_touch=True, is_mobile=True) as page:
            await field(page).fill(f"{ADD}\nsay {'wide ' * 30}{'x' * 300}")
            await page.get_by_role("button", name="Send").tap()
            await expect(answers(page)).to_contain_text("wide")
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            await page.get_by_role("button", name="Show conversations").tap()
            await page.get_by_role("button", name="New conversation").tap()
            await expect(page.get_by_role("navigation")).to_be_hidden()
            await page.get_by_role("button", name="Show conversations").tap()
            await page.keyboard.press("Escape")
            await expect(page.get_by_role("navigation")).to_be_hidden()
            await page.get_by_role("button", name="Show tasks").tap()
            await expect(page.get_by_role("checkbox", name="milk")).to_be_visible()
            await shot(page, "phone")
            await page.touchscreen.tap(20, 400)
            await expect(page.get_by_role("complementary")).to_be_hidden()
            await page.get_by_role("button", name="Show conversations").tap()
            await page.get_by_role("button", name="More for").tap()
            await page.get_by_role("menuitem", name="Delete").tap()
            await page.touchscreen.tap(380, 400)
            await expect(page.get_by_role("button", name="Undo")).to_be_visible()
            await field(page).tap(timeout=4_000)  # nothing covers it

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    async def test_finds_what_is_on_it(self, chromium: Browser, url: str, user: str, scheme: str) -> None:
        """By axe: contrast, names, roles, and the order of headings."""
        if npm.missing("axe"):
            pytest.skip("axe left out: it needs npm on PATH")
        npm.install(REPOSITORY / "tests/browser")
        async with opened(chromium, url, user, color_scheme=scheme, bypass_csp=True) as page:
            await say(
                page,
                f'think Hm.\n{ADD}\nwrite "\\n\\n- [x] milk\\n\\n"\nsay Here: `code`, [a link](https://example.com/).',
            )
            await expect(answers(page)).to_contain_text("a link")
            await expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(1)
            await page.get_by_role("button", name="More for").click()
            await page.add_script_tag(path=str(AXE))
            assert await serious(page) == []
            await page.keyboard.press("Escape")
            await say(page, f"gate {user}-never")
            await say(page, "say Next.")
            await expect(waiting(page)).to_have_count(1)
            assert await serious(page) == []


async def serious(page: Page) -> list[dict[str, Any]]:
    """What axe finds."""
    found = await page.evaluate("axe.run().then(({ violations }) => violations)")
    return [each for each in found if each["impact"] in {"serious", "critical"}]
