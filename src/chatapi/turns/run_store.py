"""What a run needs of a store: the turns', or the one that stores nothing but what was used (`turns.stateless`)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from chatapi.agent.ports import ToolCall
from chatapi.db.database import Work
from chatapi.turns.schemas import WaitingAnswer
from chatapi.turns.store import Finished, Run, Said, Shown
from chatapi.turns.store.answers import Waiting
from chatapi.usage.counting import Spent


class CallStore(Protocol):
    """What calls of tools need; `turns.store.TurnStore` says what each method does."""

    async def hold(self, run: Run) -> None: ...

    async def call(
        self, run: Run, position: int, effect: Work[ToolCall], spent: Sequence[Spent] = (), *, writes: bool
    ) -> ToolCall: ...

    async def settle_call(self, run: Run, position: int, call: ToolCall) -> None: ...


class RunStore(CallStore, Protocol):
    """What a run needs, likewise."""

    async def finish(self, run: Run, said: Said, shown: Shown) -> Finished: ...

    async def wait(self, run: Run, said: Said, waiting: Waiting) -> WaitingAnswer: ...

    async def cancel(self, run: Run, said: Said) -> bool: ...

    async def fail(self, run: Run, said: Said, error: dict[str, Any]) -> bool: ...

    async def count_lost(self, run: Run, said: Said, since: datetime) -> None: ...
