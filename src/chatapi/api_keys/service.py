"""The one place where API keys are made, listed and revoked; `auth.api_keys` finds out whose one is."""

from datetime import UTC, datetime
from typing import Any

from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import delete, insert

from chatapi.api_keys.schemas import APIKey, MadeAPIKey, NewAPIKey
from chatapi.auth.api_keys import make_key
from chatapi.db import models
from chatapi.db.paging import Id, Page, decode_cursor, page_of
from chatapi.db.services import Service, insert_for_user
from chatapi.errors.domains import KeyNotFound
from chatapi.errors.requests import Invalid


class APIKeyService(Service[models.APIKey, "APIKeyService.Repository"]):
    """Every method takes the owner first."""

    class Repository(SQLAlchemyAsyncRepository[models.APIKey]):
        model_type = models.APIKey

    repository_type = Repository

    async def make(self, user_id: str, new: NewAPIKey) -> MadeAPIKey:
        """Raises `Invalid` for an expiry that is past, or too late for any clock."""
        expires_at = new.expires_at and in_utc(new.expires_at)
        made = make_key()
        key = insert(models.APIKey).values(
            user_id=user_id, name=new.name, prefix=made.prefix, hash=made.hash, expires_at=expires_at
        )
        row = await insert_for_user(self.session, user_id, key.returning(models.APIKey))
        return MadeAPIKey(key=made.key, **shown(row))

    async def page(self, user_id: str, *, limit: int = 20, cursor: str | None = None) -> Page[APIKey]:
        """Keys by id, ascending; those that have expired, too."""
        filters = [models.APIKey.user_id == user_id]
        if (after := decode_cursor(cursor, Id)) is not None:
            filters.append(models.APIKey.id > after)
        rows = await self.get_many(
            *filters, order_by=("id", False), statement=self.repository.statement.limit(limit + 1)
        )
        return page_of(rows, limit, lambda row: APIKey(**shown(row)), lambda row: row.id)

    async def revoke(self, user_id: str, key_id: int) -> None:
        """Delete the key, which then holds nowhere; raises `KeyNotFound`."""
        gone = await self.session.scalar(
            delete(models.APIKey)
            .where(models.APIKey.id == key_id, models.APIKey.user_id == user_id)
            .returning(models.APIKey.id)
        )
        if gone is None:
            raise KeyNotFound(key_id)


def shown(row: models.APIKey) -> dict[str, Any]:
    return {name: getattr(row, name) for name in APIKey.__struct_fields__}


def in_utc(expires_at: datetime) -> datetime:
    try:
        moment = expires_at.astimezone(UTC)
    except OverflowError:
        raise Invalid(("expires_at", "is beyond all dates")) from None
    if moment <= datetime.now(UTC):
        raise Invalid(("expires_at", "must be in the future"))
    return moment
