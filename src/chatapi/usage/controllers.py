"""A user's usage over REST."""

from datetime import date
from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from chatapi.db.dependencies import service_dependency
from chatapi.openapi import problems
from chatapi.usage.schemas import By, UsageReport
from chatapi.usage.service import UsageService


class UsageController(Controller):
    path = "/usage"
    tags = ("Account",)
    dependencies = service_dependency(UsageService, "usage")

    @get(operation_id="readUsage", summary="What have my turns used?", responses=problems(422))
    async def read_usage(
        self,
        user_id: FromPath[str],
        usage: NamedDependency[UsageService],
        from_: Annotated[
            date | None,
            QueryParameter(name="from", description="The first day, by UTC; 29 days before the last"),
        ] = None,
        to: Annotated[date | None, QueryParameter(description="The last day; today")] = None,
        by: FromQuery[By] = "day",
    ) -> UsageReport:
        """Tokens and cost, by day, model or conversation; a year at the most.

        What is not there yet are the turns under way. Deleting a conversation changes nothing here.
        """
        return await usage.report(user_id, from_, to, by)
