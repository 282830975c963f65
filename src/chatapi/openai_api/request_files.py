"""The files that a request sends or names, as what an assistant can read."""

from collections.abc import Sequence

from msgspec.structs import asdict, replace

from chatapi.agent.ports import File, HistoryMessage
from chatapi.files.service import FileService
from chatapi.turns.stateless import Stateless


class RequestFiles:
    """Finds and stores the files of requests."""

    def __init__(self, files: FileService, stateless: Stateless) -> None:
        self._files = files
        self._stateless = stateless

    async def resolved(
        self, user_id: str, files: Sequence[File], history: Sequence[HistoryMessage], *, store: bool
    ) -> tuple[Sequence[File], list[HistoryMessage]]:
        """The files of a message and of those before it: the user's own by their ids; those in the request are stored, or held.

        Raises `FileNotFound`, and what `FileService.add_bytes` raises.
        """
        all_ = [file for each in (files, *(message.files for message in history)) for file in each]
        if not all_:
            return files, list(history)
        refs = await self._files.refs(user_id, sorted({file.id for file in all_ if file.source is None}))
        own = [File(**asdict(ref)) for ref in refs]
        found = {file.id: file for file in (own if store else self._stateless.bind(user_id, own))}
        for file in all_:
            if file.source is not None and store:
                added = await self._files.add_bytes(user_id, file.name, await file.read())
                found[file.id] = File(
                    id=added.id, name=added.name, media_type=added.media_type, size=added.size
                )
            elif file.source is not None:
                found[file.id] = file
        before = [replace(each, files=[found[file.id] for file in each.files]) for each in history]
        return [found[file.id] for file in files], before
