"""A connection to the bus that is made anew when it is lost, as by a restart of the bus."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.bus import LIMITS_EXCEEDED
from sdbox.errors import (
    ConnectionLost,
    ManagerGone,
    ManagerRefused,
    ManagerUnavailable,
    SdboxError,
    TimedOut,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    from sdbox.bus import Bus

    Dial = Callable[[], Coroutine[Any, Any, Bus]]

# How long a bus may be away, or have as many connections as it takes.
_PATIENCE_SECONDS = 30.0
# How long one may hang up on who has just come: it is being restarted, or will never let us in.
_HANG_UP_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


class Line:
    """The way to a bus. `dial` makes a connection, `greet` says on it what has to be said first.

    `on_lost` is called with each connection that is no more, before those who wait for something
    of it hear of that.
    """

    def __init__(
        self,
        dial: Dial,
        *,
        greet: Callable[[Bus], Coroutine[Any, Any, object]],
        on_lost: Callable[[Bus], object],
    ) -> None:
        self._dial = dial
        self._greet = greet
        self._on_lost = on_lost
        self._bus: Bus | None = None
        self._redialing: asyncio.Task[Bus] | None = None
        self._closed = False

    async def open(self) -> None:
        """Make the first connection. A bus that is not there is not waited for, a full one is."""
        await self._connect(_worth_at_first)

    async def bus(self) -> Bus:
        """Return the connection. Raises ManagerUnavailable when it was lost, and no other comes."""
        if self._bus is not None and (self._closed or not self._bus.closed.done()):
            return self._bus
        if self._redialing is None:
            self._redialing = loop.running().create_task(self._redial())
        # All who need it wait for the same.
        return await loop.shield(self._redialing)

    async def close(self) -> None:
        """Close the connection, for good."""
        self._closed = True
        if self._redialing is not None:
            self._redialing.cancel()
        if self._bus is not None:
            await self._bus.close()

    async def _redial(self) -> Bus:
        try:
            return await self._connect(_worth_again)
        except BaseException:
            if self._closed:
                raise ManagerUnavailable("the connection to the bus is closed") from None
            raise
        finally:
            self._redialing = None

    async def _connect(self, worth: Callable[[SdboxError], float]) -> Bus:
        began = time.monotonic()
        pause = pauses()
        while True:
            try:
                return await self._try()
            except (ManagerUnavailable, ManagerRefused, TimedOut) as error:
                if time.monotonic() - began >= worth(error):
                    raise
            await loop.sleep(next(pause))

    async def _try(self) -> Bus:
        bus = await self._dial()
        try:
            await self._greet(bus)
        except BaseException:
            await bus.close()
            raise
        # Not before: nobody but the greeting has waited for anything of it.
        bus.closed.add_done_callback(lambda _: self._on_lost(bus))
        self._bus = bus
        return bus


def pauses() -> Iterator[float]:
    """How long to wait before each further try of what is refused for the moment."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _worth_at_first(error: SdboxError) -> float:
    """For how long to try again after this error, where nothing was there before."""
    if is_full(error):
        return _PATIENCE_SECONDS
    return _HANG_UP_SECONDS if isinstance(error, ConnectionLost) else 0.0


def _worth_again(error: SdboxError) -> float:
    """For how long to try again after this error, since it was there a moment ago."""
    if isinstance(error, ManagerGone) or (isinstance(error, ManagerRefused) and not is_full(error)):
        return 0.0
    return _PATIENCE_SECONDS


def is_full(error: SdboxError) -> bool:
    """Whether the bus has refused because it has as much of something as it takes."""
    return isinstance(error, ManagerRefused) and error.name == LIMITS_EXCEEDED
