"""An event loop for one command: the part of asyncio's that sdbox uses, in a tenth of its import.

Importing asyncio takes a third of a whole launch, most of it for what a command never needs: TLS,
threads, subprocesses, logging. Futures, tasks and loop have asyncio's names and meaning, so that
what runs here runs there, too. One difference: an exception in a callback ends run().
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from typing import Any


# So many that were cancelled are no matter.
_FEW_TIMERS = 100


class CancelledError(BaseException):
    """A task was cancelled. As asyncio's."""


class InvalidStateError(Exception):
    """A future was asked for what it can't give. As asyncio's."""


class Future:
    """What will be done, once. As asyncio's."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Any], object]] = []

    def done(self) -> bool:
        """Whether it has a result, an exception, or was cancelled."""
        return self._done

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return isinstance(self._error, CancelledError)

    def result(self) -> Any:
        """Return the result, or raise the exception."""
        if not self._done:
            raise InvalidStateError("not done")
        if self._error is not None:
            raise self._error
        return self._result

    def exception(self) -> BaseException | None:
        """Return the exception, if there is one."""
        if not self._done or self.cancelled():
            self.result()
        return self._error

    def set_result(self, result: Any) -> None:
        """Be done with a result."""
        self._settle(result, None)

    def set_exception(self, error: BaseException) -> None:
        """Be done with an exception."""
        self._settle(None, error)

    def cancel(self) -> bool:
        """Be done without either, unless it is done already."""
        if self._done:
            return False
        self._settle(None, CancelledError())
        return True

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Have a function called, in a later turn, with this future when it is done."""
        if self._done:
            self._loop.call_soon(callback, self)
        else:
            self._callbacks.append(callback)

    def __await__(self) -> Generator[Future, None, Any]:
        if not self._done:
            yield self
        return self.result()

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self._done:
            raise InvalidStateError("done already")
        self._done, self._result, self._error = True, result, error
        for callback in self._callbacks:
            self._loop.call_soon(callback, self)
        self._callbacks.clear()


class Task(Future):
    """A coroutine that runs. As asyncio's."""

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, Any]) -> None:
        super().__init__(loop)
        self._coroutine = coroutine
        self._waits_for: Future | None = None
        self._to_cancel = False
        self._cancellations = 0
        loop.call_soon(self._step)

    def cancel(self) -> bool:
        """Have the coroutine raise CancelledError where it waits."""
        if self._done:
            return False
        self._cancellations += 1
        if self._waits_for is None or not self._waits_for.cancel():
            self._to_cancel = True
        return True

    def cancelling(self) -> int:
        """Return how many cancellations there were that uncancel() has not taken back."""
        return self._cancellations

    def uncancel(self) -> int:
        """Take one cancellation back; return how many remain."""
        self._cancellations = max(self._cancellations - 1, 0)
        return self._cancellations

    def _step(self, _: object = None) -> None:
        self._waits_for = None
        self._loop.current_task = self
        try:
            waits_for = self._run()
        except StopIteration as stop:
            self._settle(stop.value, None)
        except BaseException as error:
            self._settle(None, error)
            if not isinstance(error, (Exception, CancelledError)):
                raise
        else:
            self._wait(waits_for)
        finally:
            self._loop.current_task = None

    def _run(self) -> Future:
        if not self._to_cancel:
            return self._coroutine.send(None)  # type: ignore[no-any-return]
        self._to_cancel = False
        return self._coroutine.throw(CancelledError())  # type: ignore[no-any-return]

    def _wait(self, waits_for: Future) -> None:
        self._waits_for = waits_for
        waits_for.add_done_callback(self._step)
        if self._to_cancel and waits_for.cancel():
            self._to_cancel = False


class Timer:
    """A call that will be made. As asyncio's TimerHandle."""

    def __init__(
        self, loop: Loop, callback: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        self._loop = loop
        self._callback: Callable[..., object] | None = callback
        self._arguments = arguments

    def cancel(self) -> None:
        """Don't make it."""
        if self._callback is not None:
            self._loop.timer_cancelled()
        self._callback = None
        self._arguments = ()

    def cancelled(self) -> bool:
        """Whether it will not be made."""
        return self._callback is None

    def run(self) -> None:
        """Make it."""
        if self._callback is not None:
            self._callback(*self._arguments)


class Loop:
    """Waits for file descriptors and times, and runs what waits for them. As asyncio's."""

    def __init__(self) -> None:
        self.current_task: Task | None = None
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._cancelled_timers = 0
        self._order = itertools.count()
        self._epoll = select.epoll()
        # By descriptor: what to call when it can be read, and when it can be written.
        self._watched: dict[int, dict[int, tuple[Callable[..., object], tuple[Any, ...]]]] = {}
        # Tasks that nobody else holds are not to vanish.
        self._tasks: set[Task] = set()

    def time(self) -> float:
        """Return the time that timers go by."""
        return time.monotonic()

    def create_future(self) -> Future:
        """Return a future of this loop."""
        return Future(self)

    def create_task(self, coroutine: Coroutine[Any, Any, Any], *, name: str = "") -> Task:
        """Have a coroutine run, from a later turn on."""
        task = Task(self, coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Have a function called in the next turn."""
        self._ready.append((callback, arguments))

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Have a function called after so long, unless the returned timer is cancelled."""
        timer = Timer(self, callback, arguments)
        heapq.heappush(self._timers, (self.time() + seconds, next(self._order), timer))
        return timer

    def timer_cancelled(self) -> None:
        """Forget those that were cancelled when they are most, however late they would be."""
        self._cancelled_timers += 1
        if 2 * self._cancelled_timers > len(self._timers) > _FEW_TIMERS:
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def add_reader(self, fd: Any, callback: Callable[..., object], *arguments: Any) -> None:
        """Have a function called whenever a descriptor can be read."""
        self._watch(fd, select.EPOLLIN, (callback, arguments))

    def add_writer(self, fd: Any, callback: Callable[..., object], *arguments: Any) -> None:
        """Have a function called whenever a descriptor can be written."""
        self._watch(fd, select.EPOLLOUT, (callback, arguments))

    def remove_reader(self, fd: Any) -> bool:
        """Undo add_reader()."""
        return self._unwatch(fd, select.EPOLLIN)

    def remove_writer(self, fd: Any) -> bool:
        """Undo add_writer()."""
        return self._unwatch(fd, select.EPOLLOUT)

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, and what it has left behind; return its result."""
        task = self.create_task(main)
        try:
            self._run_until_done([task])
            return task.result()
        finally:
            left = list(self._tasks)
            for other in left:
                other.cancel()
            self._run_until_done(left)
            self._epoll.close()

    def _run_until_done(self, tasks: list[Task]) -> None:
        while not all(task.done() for task in tasks):
            self._turn()

    def _turn(self) -> None:
        if self._watched or not self._ready:
            self._poll()
        now = self.time()
        while self._timers and (self._timers[0][0] <= now or self._timers[0][2].cancelled()):
            self._pop_timer()
        # What these call for is for the next turn.
        for _ in range(len(self._ready)):
            callback, arguments = self._ready.popleft()
            callback(*arguments)

    def _pop_timer(self) -> None:
        timer = heapq.heappop(self._timers)[2]
        if timer.cancelled():
            self._cancelled_timers -= 1
        else:
            self.call_soon(timer.run)

    def _poll(self) -> None:
        wait: float | None = None
        if self._ready:
            wait = 0
        elif self._timers:
            wait = max(self._timers[0][0] - self.time(), 0)
        for fd, events in self._epoll.poll(wait):
            watched = self._watched.get(fd, {})
            for kind, (callback, arguments) in watched.items():
                # An error or a hang-up is for both to find.
                if events & (kind | select.EPOLLERR | select.EPOLLHUP):
                    self.call_soon(self._call_watcher, fd, kind, callback, arguments)

    def _call_watcher(
        self, fd: int, kind: int, callback: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        # It may have been removed, or replaced, by what ran since the poll.
        if self._watched.get(fd, {}).get(kind) == (callback, arguments):
            callback(*arguments)

    def _watch(
        self, fd: Any, kind: int, call: tuple[Callable[..., object], tuple[Any, ...]]
    ) -> None:
        number = _number(fd)
        watched = self._watched.setdefault(number, {})
        known = bool(watched)
        watched[kind] = call
        if known:
            self._epoll.modify(number, sum(watched))
        else:
            self._epoll.register(number, kind)

    def _unwatch(self, fd: Any, kind: int) -> bool:
        number = _number(fd)
        watched = self._watched.get(number, {})
        if watched.pop(kind, None) is None:
            return False
        if watched:
            self._epoll.modify(number, sum(watched))
        else:
            del self._watched[number]
            self._epoll.unregister(number)
        return True


def _number(fd: Any) -> int:
    return fd if isinstance(fd, int) else fd.fileno()
