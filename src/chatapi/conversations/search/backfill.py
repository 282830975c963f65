"""Makes messages searchable that were stored by a version without search, in short transactions.

It goes over all messages twice. Until a roll-out is over, processes of the version before write messages without rows in the
index, also where the first pass has been. Any process may do the next batch, so a pass survives every restart.
"""

import asyncio
import logging
from datetime import timedelta
from functools import partial

from sqlalchemy import and_, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.conversations.search.folding import TITLE, WHOLE, fold
from chatapi.conversations.search.index import index_title, rows_of
from chatapi.db.database import Database
from chatapi.db.failures import is_transient
from chatapi.db.models import Conversation, Message, SearchBackfill, SearchText, now
from chatapi.db.owner import EVERYONE
from chatapi.db.schema import Schema
from chatapi.db.services import insert_unless_there
from chatapi.errors.database import DatabaseUnavailable, SchemaOutdated

log = logging.getLogger(__name__)

SECOND_PASS_AFTER = timedelta(hours=1)  # a roll-out takes minutes
BATCH = 50  # messages in a transaction beside requests, which wait while they are folded: some 20 ms
PAUSE_SECONDS = 0.05  # between two batches
LARGE_BATCH = 500  # by the command
OTHERS_SECONDS = 60.0  # until the next look, while another process does it, or the database is away


class Backfill:
    """The backfill of one database."""

    def __init__(self, database: Database, schema: Schema) -> None:
        self._database = database
        self._schema = schema

    async def run(self) -> None:
        """Do batches as they are due, beside requests, until all is done; the loop of a process."""
        while True:
            try:
                await self._schema.ensure_current()
                pause = await self.step(BATCH)
            except (DatabaseUnavailable, SchemaOutdated):
                pause = OTHERS_SECONDS
            except Exception as error:
                if not is_transient(error):
                    log.exception("A defect in the search backfill")
                pause = OTHERS_SECONDS
            if pause is None:
                return
            await asyncio.sleep(pause)

    async def finish(self) -> None:
        """Do all that is left at once, one whole pass at the least; for the command."""
        await self._database.run(EVERYONE, make_due)
        while (pause := await self.step(LARGE_BATCH)) is not None:
            if pause > PAUSE_SECONDS:
                await asyncio.sleep(PAUSE_SECONDS)
                await self._database.run(EVERYONE, make_due)

    async def step(self, batch: int) -> float | None:
        """Do the next batch, if one is due; returns the seconds until the next, or None when all is done."""
        return await self._database.run(EVERYONE, partial(step, batch=batch))


async def make_due(session: AsyncSession) -> None:
    """Let the next batch be due now; where all was done, begin another pass."""
    state = SearchBackfill
    await session.execute(update(state).where(state.passes_left == 0).values(passes_left=1, place=0))
    await session.execute(update(state).values(due_at=now()))


async def step(session: AsyncSession, *, batch: int) -> float | None:
    """As `Backfill.step`, in a transaction that is under way."""
    state = await session.scalar(select(SearchBackfill).with_for_update(skip_locked=True))
    if state is None:  # another process has it
        return OTHERS_SECONDS
    if state.passes_left == 0:
        return None
    if (wait := (state.due_at - now()).total_seconds()) > 0:
        return wait
    of_batch = select(Message.id).where(Message.id > state.place).order_by(Message.id).limit(batch)
    ids = (await session.scalars(of_batch)).all()
    if ids:
        await index_messages(session, state.place, ids[-1])
        await index_titles(session, state.place, ids[-1])
        state.place = ids[-1]
        return PAUSE_SECONDS
    log.info("Search: a pass over all messages is done")
    state.passes_left -= 1
    state.place = 0
    state.due_at = now() + SECOND_PASS_AFTER
    return None if state.passes_left == 0 else SECOND_PASS_AFTER.total_seconds()


async def index_messages(session: AsyncSession, after: int, until: int) -> None:
    """Insert the rows of those messages between these ids that have none."""
    text = SearchText
    has_rows = exists().where(
        text.user_id == Message.user_id,
        text.conversation_id == Message.conversation_id,
        text.message_id == Message.id,
        text.part >= WHOLE,
    )
    missing = await session.execute(
        select(Message.user_id, Message.conversation_id, Message.id, Message.content).where(
            Message.id > after, Message.id <= until, ~has_rows
        )
    )
    if rows := [each for message in missing for each in rows_of(*message)]:
        await session.execute(insert_unless_there(session, SearchText), rows)


async def index_titles(session: AsyncSession, after: int, until: int) -> None:
    """Mend the rows of the titles of those conversations that have messages between these ids."""
    these = exists().where(
        Message.user_id == Conversation.user_id,
        Message.conversation_id == Conversation.id,
        Message.id > after,
        Message.id <= until,
    )
    title = and_(
        SearchText.user_id == Conversation.user_id,
        SearchText.conversation_id == Conversation.id,
        SearchText.part == TITLE,
    )
    titles = await session.execute(
        select(Conversation.user_id, Conversation.id, Conversation.title, SearchText.words)
        .outerjoin(SearchText, title)
        .where(these)
    )
    for user_id, conversation_id, given, indexed in titles.all():
        if indexed != (None if given is None else fold(given)):
            await index_title(session, user_id, conversation_id, given)
