"""Search: the same results on both databases, whatever is asked for and whoever else there is."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, insert, select

from chatapi.conversations.deletion import forget_messages
from chatapi.conversations.search.backfill import Backfill
from chatapi.conversations.search.folding import NotSearchable, fold, needles_of
from chatapi.conversations.search.index import index_message
from chatapi.conversations.search.service import WINDOW, SearchService
from chatapi.conversations.search.snippets import END, START
from chatapi.db.database import Database
from chatapi.db.models import Conversation, Message, SearchText, Turn, User
from chatapi.db.owner import EVERYONE
from chatapi.db.schema import Schema
from chatapi.patience import Patience
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database
from tests.support.serving import SLOW_MACHINE, Client, command, execute, serve, settings_for

LONG_WORD = "x" * 2_000
# What is said, and what finds it. A query may find several.
TEXTS = {
    "The quick brown fox jumps over the lazy dog": [
        "fox quick", "jumps la", "QUICK Fox", '"brown fox"', "brown fox", 'fox "', "“brown fox”", "fox*", "-fox",
        "fox & | ! ( ) : * < > ·", "\ue000fox", "fox\0", "brown -dog", "+fox ^brown",
    ],
    "brown bread, and a fox hunt; foxes everywhere": [
        "brown fox", '"brown bread" hunt', 'fox "', "fox AND", "fox*", "-fox", "fox & | ! ( ) : * < > ·", "\ue000fox",
        "fox\0", "+fox ^brown",
    ],
    "Un café crème à la française, s'il vous plaît: l’été": [
        "cafe creme", "CAFÉ", "cafe\u0301", "café", "francaise", "ete", "l'été",
    ],
    "Zoe\u0308’s re\u0301sume\u0301, nai\u0308ve fac\u0327ade": ["zoe resume", "façade"],
    "Die Straße nach Fußach; Größe und Übermut": ["strasse", "STRAẞE", '"straße"', "fussach", "grosse", "ubermut"],
    "STRASSENBAHN": ["strasse", "STRAẞE"],
    "ISPARTA'da ılık bir gün, İstanbul'da DIŞ kapı": [
        "isparta", "ısparta", "İSPARTA", "istanbul", "ilik", "dış", "KAPI",
    ],
    "Ο ΟΔΟΣ και ο οδός· Σίσυφος": ["οδος", "ΟΔΌΣ", "σισυφοσ"],
    "Ёлка стоит, ещё зелёная": ["елка еще"],
    "السَّلامُ عَلَيْكُم يا مُحَمَّد، كتـــاب": ["السلام", "محمد", "كتاب"],
    "می‌خواهم کتاب بخوانم": ["میخواهم"],
    "שָׁלוֹם עולם": ["שלום"],
    "हिन्दी में क़लम और ज़िंदगी १२३": ["हिन्दी", "हि", "ह", "कलम", "जिंदगी", "123"],
    "ฉันรักเมืองไทย น้ำตกสวย": ["เมือง", "รักเมือง", "น้ำ"],
    "我想学习中文语法和书法。": ["中文", "书法", "语法和书", "语", "中文 书法"],
    "ＡＢＣ１２３ ﾃﾞｰﾀ ㍿": ["abc123", "データ", "株式"],
    "東京タワーへ行きたいです。ガラス": ["京タ", "東京 です", "ガラ", "東京"],
    "학교에서 공부합니다": ["학교", "공부"],
    "Tiếng Việt Đà Nẵng": ["viet", "da nang"],
    "Łódź, żółć": ["lodz zolc"],
    "Rødgrød på Æbeltoft": ["rodgrod", "aebel"],
    "Write to Anna.B@example.org or see https://example.org/a/report.final-v2.pdf": [
        "anna.b@example.org", "example", "report.final-v2.pdf", "final", "https://example.org/a/",
    ],
    "invoice 2024-117 costs 1,234.50; v2.68.0 of 10:30": ["2024-117", "1,234.50", "v2.68", "68"],
    "user_id = getUser(); C++ and C#; __init__.py": ["user_id", "getuser", "init py"],
    "don't stop, O'Brien": ["don't", "brien"],
    "go 🚀 rocket 👩‍💻 ❤️ love": ["rocket love"],
    f"{LONG_WORD} tail": ["x" * 500, "tail xx"],
    "the cat " * 1_200 + "ends on zebra": ["zebra", '"cat ends on"', '"the cat the cat ends"', "zebra cat"],
    "Wir treffen uns in 東京 am Bahnhof": ["東京", "treffen 東京"],
}  # fmt: skip
FRUIT = "plum pear fig kiwi apple lime lemon orange grape melon cherry date mango quince guava papaya"
NOWHERE = [
    "jum lazy", '"fox brown"', '"unclosed fo', "groesse", "नदी", "नाद", "ไทยฉัน", "法语", "か", "カ", "117-2024", "2.68",
    "AND OR NOT NEAR(", "title:fox", "fox'); drop table messages; --", "quick 中文",
]  # fmt: skip
REFUSED = [
    "",
    " ",
    "%",
    "_",
    '"',
    "🙂",
    "\\",
    "\0",
    "a " * 501,
    " ".join(f"w{number}" for number in range(17)),
]


@pytest.fixture
async def url(database_url: str) -> AsyncIterator[str]:
    """A service on the shared database, without a limit on searches."""
    async with serve(settings_for(database_url, rate_limit_search="off")) as url:
        yield url


@pytest.fixture
async def alice(url: str, alice: Client) -> AsyncIterator[Client]:
    async with Client(url, alice.user_id) as client:
        yield client


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(settings_for(database_url))
    yield database
    await database.close()


async def found(client: Client, query: str, **parameters: Any) -> list[dict[str, Any]]:
    response = await client.get(client.mine("/search"), params={"q": query, **parameters})
    assert response.status_code == 200, (query, response.text)
    items: list[dict[str, Any]] = response.json()["items"]
    return items


async def walk(client: Client, query: str, limit: int) -> AsyncIterator[dict[str, Any]]:
    parameters: dict[str, Any] = {"q": query, "limit": limit}
    while True:
        page = (await client.get(client.mine("/search"), params=parameters)).json()
        for item in page["items"]:
            yield item
        if page["next_cursor"] is None:
            return
        parameters["cursor"] = page["next_cursor"]


def marked(snippet: str) -> list[str]:
    return re.findall(f"{START}(.*?){END}", snippet)


class TestQueries:
    async def test_find_what_the_table_says_and_nothing_else(self, alice: Client, bob: Client) -> None:
        """Nine languages and more; the assistant repeats each text, so each is found twice."""
        said = {(await alice.said(each))["turn_id"]: each for each in TEXTS}
        await bob.said("brown fox 東京")
        queries = {query for each in TEXTS.values() for query in each} | set(NOWHERE)
        for query in queries:
            items = await found(alice, query, limit=100)
            turns = [item["turn_id"] for item in items]
            assert {said[turn] for turn in turns} == {t for t, finds in TEXTS.items() if query in finds}, (
                query
            )
            assert len(turns) == 2 * len(set(turns)), query
            for item in items:
                assert len(marked(item["snippet"])) >= 1, (query, item)
        for query in REFUSED:
            response = await alice.get(alice.mine("/search"), params={"q": query})
            assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "q"), query

    async def test_show_the_place_with_the_most_hits(self, alice: Client) -> None:
        await alice.said("word " * 100 + "the\tCafé\ue000 and the fox\x07 " + "word " * 100)
        (snippet,) = {item["snippet"].removeprefix("…") for item in await found(alice, "cafe fox", limit=1)}
        assert marked(snippet) == ["Café", "fox"]
        assert f"the {START}Café{END} and the {START}fox{END} " in snippet
        assert snippet.endswith("…")
        assert len(snippet) <= 210


class TestResults:
    async def test_are_best_first_and_the_newest_among_equals(self, alice: Client) -> None:
        once = await alice.said("say A kiwi.")
        often = await alice.said("say kiwi kiwi kiwi")
        again = await alice.said("say A kiwi.")
        titled = await alice.said("say Nothing.")
        path = alice.mine(f"/conversations/{titled['conversation_id']}")
        await alice.patch(path, json={"title": "Kiwi", "archived": True})
        items = await found(alice, "kiwi")
        assert [item["turn_id"] for item in items] == [
            *(titled["turn_id"], often["turn_id"], often["turn_id"]),
            *(again["turn_id"], again["turn_id"], once["turn_id"], once["turn_id"]),
        ]
        assert (items[0]["title"], items[0]["snippet"], items[0]["role"]) == (
            "Kiwi",
            f"{START}Kiwi{END}",
            "user",
        )
        here = await found(alice, "kiwi", conversation_id=once["conversation_id"])
        assert [item["role"] for item in here] == ["assistant", "user"]
        await alice.patch(path, json={"title": "Plum"})
        assert [len(await found(alice, query)) for query in ("kiwi", "plum")] == [6, 1]
        await alice.patch(path, json={"title": None})
        assert await found(alice, "plum") == []

    async def test_are_what_any_turn_has_said_and_go_with_it(self, alice: Client) -> None:
        """Failed, cancelled and regenerated ones, too; what a retry takes the place of is gone."""
        key = {"Idempotency-Key": f"search-{alice.user_id}"}
        message = f"say Half a mango.\nonce fail {alice.user_id}\nsay A whole papaya."
        conversation_id = (await alice.chat(message, headers=key)).json()["conversation_id"]
        assert [item["role"] for item in await found(alice, '"half a mango" ')] == ["assistant", "user"]
        retried = await alice.said_with({"headers": key}, message)
        both = await found(alice, '"half a mango"')
        assert [item["message_id"] for item in both if item["role"] == "assistant"] == [retried["message_id"]]
        anew = await alice.post(
            alice.mine(f"/turns/{retried['turn_id']}/regenerate"), json={"message": "say Fig."}
        )
        assert {item["turn_id"] for item in await found(alice, "fig")} == {anew.json()["turn_id"]}
        turn = asyncio.create_task(alice.chat(f"say Lychee.\ngate {alice.user_id}", conversation_id))
        await CommandedAgent.gates[alice.user_id].reached.wait()
        running = (await found(alice, "lychee"))[0]["turn_id"]
        await alice.post(alice.mine(f"/turns/{running}/cancel"))
        await turn
        assert [item["role"] for item in await found(alice, "lychee")] == ["assistant", "user"]
        await alice.delete(alice.mine(f"/conversations/{conversation_id}"))
        for query in ("mango", "papaya", "fig", "lychee"):
            assert await found(alice, query) == []

    async def test_are_by_the_title_whichever_messages_come_and_go(self, alice: Client) -> None:
        """Also by one that was set before there were messages; a first message may come in three ways."""
        made = (await alice.post("/v1/conversations", json={})).json()["id"]
        conversation_id = int(made.removeprefix("conv_"))
        path = alice.mine(f"/conversations/{conversation_id}")
        await alice.patch(path, json={"title": "Kumquat"})
        await alice.patch(path, json={"title": "Tamarind"})
        file_id = (await alice.post(alice.mine("/files"), files={"file": ("a.txt", b"Hi.")})).json()["id"]
        with_file = [{"type": "text", "text": "say Hello."}, {"type": "file", "file_id": file_id}]
        bodies: list[dict[str, Any]] = [{"message": "say Hello."}, {"parts": with_file}]
        for body in bodies:
            assert await found(alice, "tamarind") == []
            said = await alice.post(alice.mine("/chat"), json={**body, "conversation_id": conversation_id})
            later = await alice.said("say Again.", conversation_id)
            for turn_id in (said.json()["turn_id"], later["turn_id"]):
                (item,) = await found(alice, "tamarind")
                assert (item["turn_id"], item["role"]) == (turn_id, "user")
                assert (await alice.delete(f"/v1/responses/resp_{turn_id}")).is_success
        assert await found(alice, "tamarind") == []
        item = {"role": "user", "content": "Hi."}
        await alice.post(f"/v1/conversations/{made}/items", json={"items": [item]})
        assert len(await found(alice, "tamarind")) == 1
        await alice.patch(path, json={"title": "Jujube"})
        assert [len(await found(alice, query)) for query in ("tamarind", "kumquat", "jujube")] == [0, 0, 1]

    async def test_are_ones_own(self, alice: Client, bob: Client) -> None:
        answer = await alice.said("say A secret kumquat.")
        assert await found(bob, "kumquat") == []
        for conversation_id in (answer["conversation_id"], 0, 2**63, 10**30):
            response = await bob.get(
                bob.mine("/search"), params={"q": "kumquat", "conversation_id": conversation_id}
            )
            assert response.status_code == 404
        first = (await alice.get(alice.mine("/search"), params={"q": "kumquat", "limit": 1})).json()
        for query, cursor in (("kumqua", first["next_cursor"]), ("kumquat", "x"), ("kumquat", "W10=")):
            response = await alice.get(alice.mine("/search"), params={"q": query, "cursor": cursor})
            assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "cursor")
        # Only the conversation's rows are looked at for it; a cursor of all is another query's.
        response = await alice.get(
            alice.mine("/search"),
            params={
                "q": "kumquat",
                "cursor": first["next_cursor"],
                "conversation_id": answer["conversation_id"],
            },
        )
        assert response.status_code == 422


async def fill(database: Database, user_id: str, texts: list[str], *, indexed: bool = True) -> list[int]:
    """A conversation with these messages; returns their ids."""
    async with database.transaction(EVERYONE) as session:
        await session.execute(insert(User).values(id=user_id))
        new = insert(Conversation).values(user_id=user_id, title="Old times").returning(Conversation.id)
        conversation_id = (await session.execute(new)).scalar_one()
        turn = {
            "user_id": user_id,
            "conversation_id": conversation_id,
            "status": "completed",
            "worker_id": "w",
        }
        turned = insert(Turn).values(**turn, run_id=user_id, model="m").returning(Turn.id)
        turn_id = (await session.execute(turned)).scalar_one()
        message = {"user_id": user_id, "conversation_id": conversation_id, "turn_id": turn_id, "role": "user"}
        rows = [{**message, "content": each} for each in texts]
        ids = list(await session.scalars(insert(Message).returning(Message.id), rows))
        if indexed:
            words = [
                {**message, "message_id": id_, "part": 0, "words": fold(each)}
                for id_, each in zip(ids, texts, strict=True)
            ]
            for each in words:
                del each["turn_id"], each["role"]
            await session.execute(insert(SearchText), words)
    return ids


class TestPages:
    async def test_show_each_match_once_while_others_come_and_go(
        self, alice: Client, database: Database
    ) -> None:
        """Over three windows of matches, which are ranked one after the other."""
        many = 2 * WINDOW + 50
        ids = await fill(
            database, alice.user_id, [f"plum {'plum ' * (number % 3)}" for number in range(many)]
        )
        conversation_id = (await alice.get(alice.mine("/conversations"))).json()["items"][0]["id"]
        seen: list[int] = []
        gone: set[int] = set()
        number = 0
        async for item in walk(alice, "plum", limit=100):
            seen.append(item["message_id"])
            number += 1
            if (
                number % 150 == 0
            ):  # another that matches, and one that is not there any more, from the other end
                await alice.said("say plum", conversation_id)
                left = [each for each in ids if each not in seen and each not in gone]
                if left:
                    gone.add(left[0])
                    async with database.transaction(alice.user_id) as session:
                        await session.execute(delete(Message).where(Message.id == left[0]))
                        await forget_messages(session, alice.user_id, conversation_id, [left[0]])
        assert len(seen) == len(set(seen))
        assert set(ids) - gone <= set(seen)
        assert set(seen) <= set(ids)


WORDS = st.sampled_from(
    [
        *[
            "fox",
            "brown",
            "Straße",
            "STRASSE",
            "ılık",
            "東京",
            "京タ",
            "हि",
            "เมือง",
            "zebra",
            "x&",
            "2024-117",
        ],
        "cat ends",
        "\u0301",
        "\u200d",
        "ß",
    ]
)
SIGNS = st.sampled_from([*"\"*-+()&|!:^%_\\'’“„ ", "\0", "\ue000", "NEAR", "AND", "\n"])
QUERIES = st.lists(WORDS | SIGNS | st.text(max_size=3), max_size=12).map("".join) | st.lists(
    WORDS | SIGNS, max_size=8
).map(" ".join)


class TestAnyQuery:
    """On a database of its own, which is asked without HTTP; the definition is three lines of Python."""

    @pytest.fixture
    async def texts(self, database: Database, alice: Client) -> dict[int, str]:
        return dict(zip(await fill(database, alice.user_id, list(TEXTS), indexed=False), TEXTS, strict=True))

    async def test_has_the_results_of_the_definition(
        self, database: Database, alice: Client, texts: dict[int, str], loop: asyncio.AbstractEventLoop
    ) -> None:
        async with database.transaction(alice.user_id) as session:
            (conversation_id,) = await session.scalars(
                select(Conversation.id).where(Conversation.user_id == alice.user_id)
            )
            for id_, content in texts.items():
                await index_message(session, alice.user_id, conversation_id, id_, content)

        async def ask(query: str) -> set[int]:
            async with database.transaction(alice.user_id, reads_only=True) as session:
                page = await SearchService(session).search(alice.user_id, query, limit=100, seconds=60)
            return {item.message_id for item in page.items}

        for query in examples_of(QUERIES, 60):
            try:
                needles = needles_of(query)
            except NotSearchable:
                continue
            expected = {
                id_ for id_, content in texts.items() if all(each in fold(content) for each in needles)
            }
            assert await ask(query) == expected, query


def examples_of(strategy: st.SearchStrategy[str], count: int) -> Iterator[str]:
    """So many examples, the same in each run; hypothesis cannot await."""
    drawn: list[str] = []

    @settings(max_examples=count, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def draw(example: str) -> None:
        drawn.append(example)

    draw()
    return iter(drawn)


class TestLimits:
    async def test_a_search_has_a_limit_of_its_own(self, database_url: str) -> None:
        async with (
            serve(settings_for(database_url, rate_limit_search="1/minute")) as url,
            Client(url, "limited") as client,
        ):
            assert (
                (await client.get(client.mine("/search?q=a"))).headers["RateLimit"].startswith('"search";r=0')
            )
            refused = await client.get(client.mine("/search?q=a"))
            assert (refused.status_code, refused.json()["policy"]) == (429, "search")
            assert (await client.get(client.mine("/tasks"))).status_code == 200

    async def test_a_search_that_takes_too_long_is_503_and_the_database_is_not_taken_for_away(
        self, database_url: str, database: Database
    ) -> None:
        user_id = f"much-{id(database)}"
        await fill(database, user_id, [f"{FRUIT} " * 5] * 6_000)
        patience = Patience(search=0.001)
        async with (
            serve(settings_for(database_url), patience=patience) as url,
            Client(url, user_id) as client,
        ):
            for _ in range(3):
                response = await client.get(
                    client.mine("/search"),
                    params={"q": FRUIT},
                )
                assert response.status_code == 503, response.text
                assert response.json()["type"] == "urn:chatapi:problem:search-too-long"
            assert (await client.get(client.mine("/tasks"))).status_code == 200


class TestBackfill:
    async def test_makes_everything_searchable_again_and_again(
        self, empty_database_url: str, tmp_path: Any
    ) -> None:
        """In batches, each a transaction, from where another process was killed; then once more by the command."""
        database = open_database(settings_for(empty_database_url))
        texts = [f"plum {number} " + "very long " * 150 * (number == 3) for number in range(10)]
        await fill(database, "alice", texts, indexed=False)
        backfill = Backfill(database, Schema(database, settings_for(empty_database_url), SLOW_MACHINE))
        assert await backfill.step(4) is not None
        assert await rows(database) == (4, 1)
        again = Backfill(database, Schema(database, settings_for(empty_database_url), SLOW_MACHINE))
        while (pause := await again.step(4)) is not None and pause < 60:
            pass
        assert pause is not None
        assert 3_000 < pause <= 3_600  # the second pass
        assert await rows(database) == (10, 1)
        # An old process wrote a message, and renamed the conversation, where the first pass had been.
        await execute(empty_database_url, "DELETE FROM search_text WHERE message_id = 4")
        await execute(empty_database_url, "UPDATE conversations SET title = 'New times'")
        result = await asyncio.to_thread(command, tmp_path, empty_database_url, "index-search")
        assert (result.returncode, result.stderr.splitlines()[-1]) == (0, "All messages are searchable.")
        assert await rows(database) == (10, 1)
        async with database.transaction("alice") as session:
            (title,) = await session.scalars(select(SearchText.words).where(SearchText.part == -1))
        assert title == " new times "
        assert await backfill.step(4) is None
        await execute(empty_database_url, "UPDATE conversations SET title = NULL")
        await again.finish()
        assert await rows(database) == (10, 0)
        await database.close()

    async def test_is_done_by_a_service_beside_its_requests(self, empty_database_url: str) -> None:
        database = open_database(settings_for(empty_database_url))
        await fill(database, "alice", ["plum"] * 120, indexed=False)
        async with serve(settings_for(empty_database_url)), serve(settings_for(empty_database_url)):
            for _ in range(500):
                if await rows(database) == (120, 1):
                    break
                await asyncio.sleep(0.02)
        assert await rows(database) == (120, 1)
        await database.close()


async def rows(database: Database) -> tuple[int, int]:
    """How many messages and titles have rows."""
    async with database.transaction(EVERYONE) as session:
        messages = select(func.count(func.distinct(SearchText.message_id))).where(SearchText.part >= 0)
        titles = select(func.count()).select_from(SearchText).where(SearchText.part == -1)
        return await session.scalar(messages) or 0, await session.scalar(titles) or 0


async def test_export_leaves_the_index_out(alice: Client) -> None:
    await alice.said("say Hello.")
    response = await alice.get(alice.mine("/export"))
    assert b"words" not in response.content
