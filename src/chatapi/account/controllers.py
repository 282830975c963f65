"""All of a user's data over REST."""

from dataclasses import dataclass
from typing import Annotated, Literal

from litestar import Controller, delete, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Operation
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from chatapi.account.service import erase, export, export_tar
from chatapi.db.database import Database
from chatapi.errors.requests import Invalid
from chatapi.files.service import FileService
from chatapi.openapi import add_headers, header, problems

NDJSON = "application/x-ndjson"
TAR = "application/x-tar"


@dataclass
class ExportOperation(Operation):
    """An operation that answers with a file to save."""

    def __post_init__(self) -> None:
        disposition = header("`attachment`, and a name for the file.", always=True)
        add_headers(self, "200", {"Content-Disposition": disposition})


class AccountController(Controller):
    tags = ("Account",)

    @get(
        "/export",
        operation_id="exportAccount",
        summary="Take out all of my data",
        media_type=NDJSON,
        operation_class=ExportOperation,
        responses={
            # Making up an example would import a library that takes a fifth of a second.
            200: ResponseSpec(str, description="Lines of JSON.", media_type=NDJSON, generate_examples=False),
            **problems(422),
        },
    )
    async def export_account(
        self,
        user_id: FromPath[str],
        state: State,
        files: NamedDependency[FileService],
        format: FromQuery[Literal["ndjson", "tar"]] = "ndjson",  # noqa: A002 - the name of the parameter
    ) -> Stream:
        """Lines of JSON, each with its kind in `record`; with `format=tar` an archive of them and of all files' bytes.

        First `export` (with `version` and `user_id`), then every `conversation`, `turn`, `message`, `feedback`,
        `tool_call`, `queued_turn`, `file`, `task`, `api_key`, `usage_day` and `usage_conversation`, and last `end` (with their number
        in `records`): without that line the export was cut off.
        """
        database: Database = state.database
        await database.ping()  # so that an absent database is a 503, not a stream without an end
        if format == "tar":
            return Stream(
                export_tar(database, files, user_id),
                media_type=TAR,
                headers={"Content-Disposition": 'attachment; filename="chatapi-export.tar"'},
            )
        return Stream(
            export(database, user_id),
            media_type=NDJSON,
            headers={"Content-Disposition": 'attachment; filename="chatapi-export.ndjson"'},
        )

    @delete(
        "/",
        operation_id="eraseAccount",
        summary="Erase all of my data",
        responses=problems(422),
        act="account.erased",
        needs_user=True,
    )
    async def erase_account(
        self,
        user_id: FromPath[str],
        state: State,
        files: NamedDependency[FileService],
        confirm: Annotated[str, QueryParameter(description="The user id again: erasure cannot be undone")],
    ) -> None:
        """API keys, conversations, turns, messages, feedback, tool calls, files, tasks, usage.

        Turns under way are cancelled and leave nothing.
        """
        if confirm != user_id:
            raise Invalid(("confirm", "must be the user id; erasure cannot be undone"))
        await erase(state.database, files, user_id)
