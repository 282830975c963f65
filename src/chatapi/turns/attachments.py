"""Files of messages: checked before a turn begins, and bound to where their bytes are before an agent sees them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from chatapi.agent.inputs import check_kinds
from chatapi.agent.options import check_options
from chatapi.agent.ports import Agent, AgentEvent, File, Options, Prompt, TakesFiles, Tools
from chatapi.errors.files import FileNotSupported
from chatapi.errors.requests import Invalid
from chatapi.files.reading import FileReader, FilesOf
from chatapi.files.service import FileService
from chatapi.settings import Settings
from chatapi.turns.schemas import AnswerAnew, ChatRequest


class AgentWithFiles:
    """Implements `agent.ports.Agent` around another agent: its prompts' files can be read."""

    def __init__(self, agent: Agent, files: FileService, settings: Settings) -> None:
        self._agent = agent
        self._files = files
        self.reader = FileReader(files)
        self._most = settings.files_per_message
        self._input = settings.input_kinds

    @property
    def model(self) -> str:
        return self._agent.model

    def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        if prompt.files or any(message.files for message in prompt.history):
            history = [
                replace(message, files=self.bound(prompt.user_id, message.files))
                if message.files
                else message
                for message in prompt.history
            ]
            prompt = replace(prompt, files=self.bound(prompt.user_id, prompt.files), history=history)
        return self._agent.reply(prompt, tools)

    async def check(
        self,
        user_id: str,
        request: ChatRequest | AnswerAnew,
        answered: Callable[[], Awaitable[object | None]],
    ) -> None:
        """Refuse options that the agent does not take, and files that are too many, not there, or not taken either.

        `answered` looks whether the request was answered before: then its files are not looked at. Raises `Invalid`,
        `OptionNotSupported`, `FileNotFound`, `FileNotSupported` and `FilesUnavailable`.
        """
        self.check_options(request.terms.options)
        if request.files is UNSET or await answered() is not None:
            return
        if len(request.files) > self._most:
            raise Invalid(("parts", f"has {len(request.files)} files; a message takes {self._most}"))
        files = [
            File(id=ref.id, name=ref.name, media_type=ref.media_type, size=ref.size)
            for ref in await self._files.refs(user_id, request.files)
        ]
        await self.check_files(self.bound(user_id, files))

    def check_options(self, options: Options) -> None:
        """Raise `OptionNotSupported`."""
        check_options(self._agent, options)

    async def check_files(self, files: Sequence[File]) -> None:
        """Refuse files that the agent does not take; raises `FileNotSupported`."""
        if isinstance(self._agent, TakesFiles):
            await self._agent.check_files(files)
        elif self._input is not None:
            check_kinds(files, self._input, self.model)
        else:
            raise FileNotSupported("The assistant takes no files.")

    def bound(self, user_id: str, files: Sequence[File]) -> Sequence[File]:
        """The files of the user with where their bytes are, so that they can be read."""
        source = FilesOf(self.reader, user_id)
        return [replace(file, source=source) if file.source is None else file for file in files]
