"""The files of a turn: taken by it when it begins, and its until its conversation is deleted."""

from collections.abc import Sequence

from sqlalchemy import and_, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import File
from chatapi.db import models
from chatapi.db.models import Turn, now
from chatapi.errors.files import FileNotFound
from chatapi.errors.requests import Invalid
from chatapi.files.schemas import FileRef
from chatapi.files.service import is_there


async def attach(
    session: AsyncSession, user_id: str, turn_id: int, conversation_id: int, file_ids: Sequence[int]
) -> list[File]:
    """Give the user's files to the turn; raises `FileNotFound`, and `Invalid` for a file of another conversation.

    A file may be sent again in its conversation, and anywhere if the turn that it was sent with has failed. It is then the
    last turn's.
    """
    if not file_ids:
        return []
    file = models.File
    may_take = exists().where(
        Turn.id == file.turn_id,
        Turn.user_id == user_id,
        or_(Turn.conversation_id == conversation_id, Turn.status == "failed"),
    )
    # An update and not a look, so that a deletion of the file either comes first or finds it taken.
    taken = (
        update(file)
        .where(
            file.user_id == user_id,
            file.id.in_(file_ids),
            is_there(),
            or_(file.turn_id.is_(None), may_take),
        )
        .values(turn_id=turn_id, sent_at=now())
        .returning(file.id, file.name, file.media_type, file.size)
    )
    found = {
        id_: File(id=id_, name=name, media_type=media_type, size=size)
        for id_, name, media_type, size in await session.execute(taken)
    }
    for file_id in file_ids:
        if file_id not in found:
            there = select(file.id).where(and_(file.user_id == user_id, file.id == file_id, is_there()))
            if await session.scalar(there) is None:
                raise FileNotFound(file_id)
            raise Invalid(("parts", f"file {file_id} belongs to another conversation; upload it again"))
    return [found[file_id] for file_id in file_ids]


async def still_there(session: AsyncSession, user_id: str, files: Sequence[FileRef]) -> list[int]:
    """The ids of those of an earlier message's files that were not deleted since."""
    if not files:
        return []
    there = select(models.File.id).where(
        models.File.user_id == user_id, models.File.id.in_([file.id for file in files]), is_there()
    )
    found = set(await session.scalars(there))
    return [file.id for file in files if file.id in found]
