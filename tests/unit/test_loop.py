"""What waits, on both event loops: asyncio's and the small one must behave alike."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from sdbox import loop
from sdbox.errors import TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

# Never reached, unless something hangs.
LONG = 60.0


@pytest.fixture(params=[asyncio.run, loop.run], ids=["asyncio", "small"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on one loop, then on the other."""
    which: Run = request.param
    return which


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


class Cleanup:
    """Work that never ends; notes that it was cancelled."""

    def __init__(self) -> None:
        self.begun = False
        self.ended: BaseException | None = None

    async def work(self) -> None:
        self.begun = True
        try:
            await loop.running().create_future()
        except BaseException as error:
            self.ended = error
            raise


async def add(one: int, other: int) -> int:
    await loop.turn()
    return one + other


async def fail() -> None:
    await loop.turn()
    raise ValueError("as it must")


def test_a_result(run: Run) -> None:
    assert run(add(1, 2)) == 3


def test_an_error(run: Run) -> None:
    with pytest.raises(ValueError, match="as it must"):
        run(fail())


def test_an_exit_is_not_kept_by_a_task(run: Run) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        run(leave())


def test_results_come_in_order(run: Run) -> None:
    async def main() -> list[int]:
        return await loop.gather(add(1, 1), add(2, 2), add(3, 3))

    assert run(main()) == [2, 4, 6]


def test_gathered_work_is_cancelled_by_a_failure(run: Run) -> None:
    other = Cleanup()

    async def main() -> None:
        with pytest.raises(ValueError, match="as it must"):
            await loop.gather(fail(), other.work())
        await loop.turn()

    run(main())
    assert loop_cancelled(other)


def test_timers_go_off_in_order(run: Run) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        done = loop.running().create_future()
        loop.running().call_later(0.02, done.set_result, None)
        loop.running().call_later(0.01, seen.append, "second")
        loop.running().call_later(0.005, seen.append, "never").cancel()
        loop.running().call_soon(seen.append, "first")
        await done
        return seen

    assert run(main()) == ["first", "second"]


def test_timers_that_were_cancelled_are_not_kept() -> None:
    async def main() -> int:
        running: Any = loop.running()
        running.call_later(LONG, print)
        for _ in range(1000):
            running.call_later(2 * LONG, print).cancel()
        return len(running._timers)

    assert loop.run(main()) < 200


def test_a_deadline_that_passes(run: Run) -> None:
    cleanup = Cleanup()

    async def main() -> None:
        with pytest.raises(TimedOut, match=r"the end: not done after 0\.01 s"):
            async with loop.within(0.01, "the end"):
                await cleanup.work()
        # It is over with the deadline: what comes next can wait again.
        await loop.sleep(0)

    run(main())
    assert cleanup.ended is not None


def test_a_deadline_that_does_not_pass(run: Run) -> None:
    async def main() -> int:
        async with loop.within(LONG, "adding"):
            return await add(2, 3)

    assert run(main()) == 5


def test_the_inner_deadline_is_told_from_the_outer(run: Run) -> None:
    async def main() -> None:
        async with loop.within(LONG, "outer"):
            with pytest.raises(TimedOut, match="inner"):
                async with loop.within(0.01, "inner"):
                    await loop.sleep(LONG)

    run(main())


def test_the_outer_deadline_is_told_from_the_inner(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(TimedOut, match="outer"):
            async with loop.within(0.01, "outer"), loop.within(LONG, "inner"):
                await loop.sleep(LONG)

    run(main())


def test_an_error_within_a_deadline(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="as it must"):
            async with loop.within(LONG, "failing"):
                await fail()

    run(main())


def test_a_cancellation_is_no_deadline(run: Run) -> None:
    async def patient() -> None:
        async with loop.within(LONG, "waiting"):
            await loop.sleep(LONG)

    async def main() -> bool:
        task = loop.running().create_task(patient())
        await loop.turn()
        task.cancel()
        try:
            await task
        except BaseException as error:
            return loop.is_cancellation(error)
        return False

    assert run(main())


def test_shielded_work_goes_on(run: Run) -> None:
    async def main() -> int:
        done = loop.running().create_future()

        async def work() -> int:
            await done
            return 7

        inner = loop.running().create_task(work())
        waiter = loop.running().create_task(loop.shield(inner))
        await loop.turn()
        waiter.cancel()
        await loop.turn()
        await loop.turn()
        assert waiter.cancelled()
        done.set_result(None)
        return await inner

    assert run(main()) == 7


def test_shielded_work_tells_its_result_and_its_error(run: Run) -> None:
    async def main() -> int:
        with pytest.raises(ValueError, match="as it must"):
            await loop.shield(fail())
        return await loop.shield(add(3, 3))

    assert run(main()) == 6


def test_what_is_left_is_cancelled_at_the_end(run: Run) -> None:
    cleanup = Cleanup()
    tasks = []

    async def main() -> None:
        tasks.append(loop.running().create_task(cleanup.work()))
        await loop.turn()

    run(main())
    assert cleanup.begun
    assert loop_cancelled(cleanup)


def test_a_task_that_never_began_is_cancelled(run: Run) -> None:
    cleanup = Cleanup()

    async def main() -> None:
        task = loop.running().create_task(cleanup.work())
        task.cancel()
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - its type is the loop's own
            await task
        assert loop.is_cancellation(caught.value)

    run(main())
    assert not cleanup.begun


def test_reading_and_writing(run: Run, pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair

    async def main() -> list[str]:
        seen: list[str] = []
        written = loop.running().create_future()

        def write() -> None:
            loop.running().remove_writer(one)
            one.send(b"!")
            written.set_result(None)

        loop.running().add_reader(one.fileno(), seen.append, "read")
        loop.running().add_writer(one, write)
        await written
        await loop.readable(other.fileno())
        assert other.recv(8) == b"!"
        assert loop.running().remove_reader(one.fileno())
        assert not loop.running().remove_reader(one.fileno())
        other.send(b"?")
        await loop.turn()
        await loop.turn()
        return seen

    assert run(main()) == []


def test_a_reader_is_called_at_a_hang_up(run: Run, pair: tuple[socket.socket, ...]) -> None:
    one, other = pair

    async def main() -> bytes:
        other.close()
        async with loop.within(LONG, "the hang-up"):
            await loop.readable(one.fileno())
        return one.recv(8)

    assert run(main()) == b""


def test_a_reader_that_is_removed_in_the_same_turn_is_not_called(run: Run) -> None:
    fds = [os.eventfd(1), os.eventfd(1)]
    seen: list[int] = []

    def first_come(own: int, other: int) -> None:
        seen.append(own)
        loop.running().remove_reader(own)
        loop.running().remove_reader(other)

    async def main() -> None:
        for own, other in (fds, reversed(fds)):
            loop.running().add_reader(own, first_come, own, other)
        for _ in range(3):
            await loop.turn()

    try:
        run(main())
    finally:
        for fd in fds:
            os.close(fd)
    assert len(seen) == 1


def test_a_semaphore_lets_so_many_in(run: Run) -> None:
    async def main() -> tuple[int, int]:
        semaphore = loop.Semaphore(3)
        inside = most = done = 0

        async def visit() -> None:
            nonlocal inside, most, done
            await semaphore.acquire()
            inside += 1
            most = max(most, inside)
            await loop.turn()
            inside -= 1
            done += 1
            semaphore.release()

        await loop.gather(*(visit() for _ in range(20)))
        return most, done

    assert run(main()) == (3, 20)


@pytest.mark.parametrize("given", [False, True], ids=["still waiting", "just given"])
def test_one_who_is_cancelled_at_a_semaphore_takes_no_place(run: Run, given: bool) -> None:
    async def main() -> None:
        semaphore = loop.Semaphore(1)
        await semaphore.acquire()
        waiter = loop.running().create_task(semaphore.acquire())
        await loop.turn()
        if given:
            semaphore.release()
        waiter.cancel()
        await loop.turn()
        await loop.turn()
        assert waiter.cancelled()
        if not given:
            semaphore.release()
        async with loop.within(LONG, "the place that is free"):
            await semaphore.acquire()

    run(main())


def test_no_loop() -> None:
    with pytest.raises(RuntimeError):
        loop.running()


def test_a_failing_callback_ends_the_small_loop() -> None:
    cleanup = Cleanup()

    def fail_at_once() -> None:
        raise ValueError("as it must")

    async def main() -> None:
        loop.running().call_soon(fail_at_once)
        await cleanup.work()

    with pytest.raises(ValueError, match="as it must"):
        loop.run(main())
    assert loop_cancelled(cleanup)


def loop_cancelled(cleanup: Cleanup) -> bool:
    return type(cleanup.ended).__name__ == "CancelledError"
