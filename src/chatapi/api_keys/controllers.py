"""API keys over REST."""

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from chatapi.api_keys.schemas import APIKey, MadeAPIKey, NewAPIKey
from chatapi.api_keys.service import APIKeyService
from chatapi.audit import name_subject
from chatapi.db.dependencies import service_dependency
from chatapi.db.paging import Page
from chatapi.openapi import PageCursor, PageSize, problems


class APIKeyController(Controller):
    path = "/keys"
    tags = ("API keys",)
    dependencies = service_dependency(APIKeyService, "keys")
    opt = {"needs_user": True}  # noqa: RUF012 - as Litestar types it

    @get(operation_id="listKeys", summary="List my API keys", responses=problems(422))
    async def list_keys(
        self,
        user_id: FromPath[str],
        keys: NamedDependency[APIKeyService],
        limit: PageSize = 20,
        cursor: PageCursor = None,
    ) -> Page[APIKey]:
        """By id, ascending; never the keys themselves."""
        return await keys.page(user_id, limit=limit, cursor=cursor)

    @post(
        operation_id="makeKey", summary="Make an API key", responses=problems(413, 415, 422), act="key.made"
    )
    async def make_key(
        self, user_id: FromPath[str], keys: NamedDependency[APIKeyService], data: JSONBody[NewAPIKey]
    ) -> MadeAPIKey:
        """The answer has the `key`, which acts for its user until it expires or is revoked. It is never shown again."""
        made = await keys.make(user_id, data)
        name_subject(made)
        return made

    @delete(
        "/{key_id:int}",
        operation_id="revokeKey",
        summary="Revoke an API key",
        responses=problems(404),
        act="key.revoked",
    )
    async def revoke_key(
        self, user_id: FromPath[str], key_id: FromPath[int], keys: NamedDependency[APIKeyService]
    ) -> None:
        """From now on the key is refused, by every process."""
        await keys.revoke(user_id, key_id)
