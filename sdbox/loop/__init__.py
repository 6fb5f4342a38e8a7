"""What waits, on whichever event loop runs: asyncio's in a program, a small one in a command.

Code that uses this instead of asyncio runs on both, and a command does not pay for asyncio.
"""

from __future__ import annotations

import sys
from _thread import _local
from collections import deque

from sdbox.errors import TimedOut
from sdbox.loop.small import CancelledError, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Coroutine
    from types import TracebackType
    from typing import Any, TypeVar

    T = TypeVar("T")


class _Thread(_local):
    loop: Loop | None = None


_thread = _Thread()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a small loop; return its result."""
    _thread.loop = Loop()
    try:
        return _thread.loop.run(main)  # type: ignore[no-any-return]
    finally:
        _thread.loop = None


def running() -> asyncio.AbstractEventLoop:
    """Return the loop that runs. A small one has only what sdbox uses."""
    if _thread.loop is not None:
        return _thread.loop  # type: ignore[return-value]
    import asyncio

    return asyncio.get_running_loop()


def _current_task() -> asyncio.Task[Any]:
    if _thread.loop is not None:
        return _thread.loop.current_task  # type: ignore[return-value]
    import asyncio

    return asyncio.current_task()  # type: ignore[return-value]


def is_cancellation(error: BaseException | None) -> bool:
    """Whether this is what a cancelled task raises."""
    if _thread.loop is not None:
        return isinstance(error, CancelledError)
    return isinstance(error, sys.modules["asyncio"].CancelledError)


async def sleep(seconds: float) -> None:
    """Wait for so long."""
    done = running().create_future()
    timer = running().call_later(seconds, settle, done)
    try:
        await done
    finally:
        timer.cancel()


async def turn() -> None:
    """Let everything else that is ready have its turn."""
    done = running().create_future()
    running().call_soon(settle, done)
    await done


async def readable(fd: int) -> None:
    """Wait until a descriptor can be read. Nobody else may be waiting for that."""
    ready = running().create_future()
    running().add_reader(fd, settle, ready)
    try:
        await ready
    finally:
        running().remove_reader(fd)


def settle(future: asyncio.Future[None]) -> None:
    """Have a future be done, unless it is."""
    if not future.done():
        future.set_result(None)


def within(seconds: float, what: str) -> _Deadline:
    """Raise TimedOut, naming `what`, when the body of `async with` has not ended after `seconds`.

    The body is cancelled, as by asyncio.timeout().
    """
    return _Deadline(seconds, what)


class _Deadline:
    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._what = what
        self._expired = False

    async def __aenter__(self) -> None:
        self._task = _current_task()
        self._cancellations = self._task.cancelling()
        self._timer = running().call_later(self._seconds, self._expire)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if not self._expired:
            return
        # Somebody else's cancellation, at the same time, goes on.
        others = self._task.uncancel() > self._cancellations
        if is_cancellation(error) and not others:
            raise TimedOut(f"{self._what}: not done after {self._seconds:g} s") from None

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


async def shield(work: Awaitable[T]) -> T:
    """Wait for work that goes on when the wait is cancelled."""
    outer = running().create_future()
    _task(work).add_done_callback(lambda inner: _hand_on(inner, outer))
    return await outer  # type: ignore[no-any-return]


async def gather(*works: Awaitable[Any]) -> list[Any]:
    """Run all at once; return their results. When one fails the others are cancelled."""
    tasks = [_task(work) for work in works]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
            # One error is enough.
            task.add_done_callback(_retrieve)


def _task(work: Awaitable[T]) -> asyncio.Future[T]:
    if hasattr(work, "add_done_callback"):
        return work  # type: ignore[return-value]
    return running().create_task(work)  # type: ignore[arg-type]


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _hand_on(inner: asyncio.Future[Any], outer: asyncio.Future[Any]) -> None:
    if outer.done():
        # Whoever waited has gone: then nobody asks for the error.
        _retrieve(inner)
    elif inner.cancelled():
        outer.cancel()
    elif (error := inner.exception()) is not None:
        outer.set_exception(error)
    else:
        outer.set_result(inner.result())


class Semaphore:
    """So many may hold it at once; the others wait, in their order."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Take a place."""
        if self._free > 0:
            self._free -= 1
            return
        place = running().create_future()
        self._waiting.append(place)
        try:
            await place
        except BaseException:
            # It was given, but the one who waited goes.
            if place.done() and not place.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a place back, to the first who waits and still wants it."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
