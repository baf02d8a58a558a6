"""The clients of a scene: they act beside the test, and one that fails ends it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias


class Actor(Protocol):
    """A publisher or a watcher."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...


Enter: TypeAlias = Callable[[Sequence[Actor]], None]


@asynccontextmanager
async def acting() -> AsyncIterator[Enter]:
    """Let actors run until the end of the block."""
    actors: list[Actor] = []
    async with asyncio.TaskGroup() as group:

        def enter(more: Sequence[Actor]) -> None:
            actors.extend(more)
            for actor in more:
                group.create_task(actor.run())

        try:
            yield enter
        finally:
            for actor in actors:
                actor.stop()
