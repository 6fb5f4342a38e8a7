"""Who comes through a nestable box's door: what is kept for them, and until when."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sdbox import loop
from sdbox.errors import LaunchFailed, ManagerRefused, ManagerUnavailable, SdboxError
from sdbox.init import wire
from sdbox.nesting import door, inner
from sdbox.nesting.door import Door
from sdbox.systemd import around

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 30.0
UNIT, SLICE = "sdbox-a.x.scope", "sdbox-a.slice"


class Manager:
    """One that answers when it is told to."""

    version = 257

    def __init__(self) -> None:
        self.guests = loop.Semaphore(60)
        self.asked: list[tuple[str, ...]] = []
        self.answer = loop.running().create_future()

    async def freeze(self, unit: str, **_: Any) -> None:
        await self._carried_out("freeze", unit)

    async def thaw(self, unit: str, **_: Any) -> None:
        await self._carried_out("thaw", unit)

    async def wait_removed(self, unit: str, **_: Any) -> None:
        await loop.running().create_future()

    async def start_scope(self, unit: str, *_: Any, **given: Any) -> None:
        given["look_again"]()
        await self._carried_out("start", unit)

    async def _carried_out(self, *what: str) -> None:
        self.asked.append(what)
        await loop.shield(self.answer)


class Tree:
    """A cgroup with this process in it."""

    fd = -1

    def __init__(self) -> None:
        self.pids = [os.getpid()]

    def processes(self) -> list[int]:
        return self.pids

    def below(self, _: str) -> Tree:
        return self

    def close(self) -> None:
        pass


class Box:
    """A box with a door, and a manager behind it."""

    def __init__(self, place: Path) -> None:
        self.path = str(place / "socket")
        self.root = place
        self.manager: Any = Manager()
        self.tree: Any = Tree()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.path)
        listener.listen(1000)
        given: dict[str, Any] = {
            "plan": SimpleNamespace(job="a", whole=SLICE, programs=(), cgroup="/x", tree="/x"),
            "endpoint": SimpleNamespace(cgroup_root=str(place), pid_namespace=None),
            "manager": self.manager,
            "tree": self.tree,
        }
        self.door = Door(listener, inits=(), **given)

    def has(self, *units: str) -> None:
        """Have there be units that root has started."""
        for unit in units:
            cgroup = self.root / unit
            cgroup.mkdir(parents=True, exist_ok=True)
            self.door.known[unit] = door.Inside(cgroup=str(cgroup), uid=os.getuid())


class Client:
    """A connection to the door."""

    def __init__(self, box: Box) -> None:
        self.sock = around.connected(box.path)
        self.sock.setblocking(False)

    def ask(self, verb: str, *arguments: Any, fds: tuple[int, ...] = ()) -> None:
        wire.send(self.sock, 1, verb, json.dumps(arguments), fds=fds)

    async def answer(self) -> Any:
        """The next answer: what comes of it, or the name of the error; None for a hang-up."""
        async with loop.within(SECONDS, "an answer"):
            await loop.readable(self.sock.fileno())
        fields, _ = wire.receive(self.sock)
        if not fields:
            return None
        document = json.loads(fields[1])
        return document.get("error", document.get("value"))


@contextlib.contextmanager
def clients(box: Box, count: int) -> Iterator[list[Client]]:
    found = [Client(box) for _ in range(count)]
    try:
        yield found
    finally:
        for client in found:
            client.sock.close()


async def turns(count: int = 20) -> None:
    """Let all that is ready have its turn."""
    for _ in range(count):
        await loop.sleep(0)


def test_a_place_is_kept_until_the_manager_has_answered(tmp_path: Path) -> None:
    async def main() -> None:
        box = Box(tmp_path)
        box.has(UNIT)
        with clients(box, 5) as found:
            for _ in range(2):
                for client in found:
                    for _ in range(40):
                        client.ask("freeze", UNIT, 0.01)
                for client in found:
                    answers = [await client.answer() for _ in range(40)]
                    assert set(answers) <= {"TimedOut", "ManagerUnavailable"}
            assert len(box.manager.asked) == door._MOST_AT_WORK
            # And when nobody is there any more who waits.
        await turns()
        with clients(box, 1) as (client,):
            client.ask("freeze", UNIT, 0.01)
            assert await client.answer() == "TimedOut"
            assert len(box.manager.asked) == door._MOST_AT_WORK
            box.manager.answer.set_result(None)
            client.ask("freeze", UNIT, None)
            assert await client.answer() is None
            assert len(box.manager.asked) == door._MOST_AT_WORK + 1
        box.door.close()

    loop.run(main())


def test_a_start_keeps_its_place_when_who_asked_has_hung_up(tmp_path: Path) -> None:
    async def main() -> None:
        box = Box(tmp_path)
        me = os.pidfd_open(os.getpid())
        for number in range(2 * door._MOST_AT_WORK):
            with clients(box, 1) as (client,):
                unit = f"sdbox-a.{number}.scope"
                client.ask("start", unit, [["Slice", SLICE]], None, fds=(me,))
                await turns(5)
        assert len(box.manager.asked) == door._MOST_AT_WORK
        box.manager.answer.set_result(None)
        await turns()
        assert len(box.manager.asked) == door._MOST_AT_WORK
        assert box.door._starting == set()
        os.close(me)
        box.door.close()

    loop.run(main())


def test_requests_that_wait_have_a_bound(tmp_path: Path) -> None:
    async def main() -> None:
        box = Box(tmp_path)
        box.has(UNIT)
        with clients(box, 10) as found:
            for client in found:
                for _ in range(50):
                    client.ask("removed", UNIT, 1000)
                await turns(60)
            assert len([r for v in box.door._visitors for r in v._waiting]) == door._MOST_REQUESTS
            assert await found[-1].answer() == "ManagerUnavailable"
            with clients(box, 1) as (client,):
                client.ask("exists", UNIT)
                assert await client.answer() == "ManagerUnavailable"
            found[0].sock.close()
            await turns()
            with clients(box, 1) as (client,):
                client.ask("hello")
                assert (await client.answer())["prefix"] == "a."
        box.door.close()

    loop.run(main())


async def in_thread(work: Callable[[], Any]) -> Any:
    """What comes of work that this loop must not wait for."""
    results: list[Any] = []
    reader, writer = os.pipe()

    def be_done() -> None:
        try:
            results.append(work())
        except SdboxError as error:
            results.append(error)
        os.write(writer, b".")

    thread = threading.Thread(target=be_done)
    thread.start()
    async with loop.within(SECONDS, "a thread"):
        await loop.readable(reader)
    thread.join()
    wire.close([reader, writer])
    return results[0]


def test_who_comes_when_all_places_are_taken_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_MOST_OF_ONE", 10)

    async def main() -> None:
        box = Box(tmp_path)
        with clients(box, 10):
            await turns()
            error = await in_thread(lambda: around.ask_who(box.path))
            assert isinstance(error, ManagerUnavailable)
            assert "too many connections" in error.message
            with pytest.raises(ManagerUnavailable, match="too many connections"):
                await inner.connect(box.path)
        box.door.close()

    loop.run(main())


def test_no_socket_and_nobody_who_listens_are_no_door(tmp_path: Path) -> None:
    assert around.ask_who(str(tmp_path / "socket")) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(tmp_path / "socket"))
    assert around.ask_who(str(tmp_path / "socket")) is None


def test_one_who_does_not_let_anybody_in_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(around, "_HELLO_SECONDS", 1)
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(path)
        sock.listen(0)
        with around.connected(path), pytest.raises(ManagerUnavailable, match="socket"):
            around.ask_who(path)


def test_a_thaw_that_can_not_be_is_not_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        box = Box(tmp_path)
        box.has(f"{SLICE}/{UNIT}")
        box.door.known[UNIT] = box.door.known.pop(f"{SLICE}/{UNIT}")
        frozen = tmp_path / SLICE / "cgroup.freeze"
        with clients(box, 1) as (client,):
            frozen.write_text("1\n")
            client.ask("thaw", UNIT, None)
            assert await client.answer() == "ManagerRefused"
            assert box.manager.asked == []
            frozen.write_text("0\n")
            box.manager.answer.set_result(None)
            client.ask("thaw", UNIT, None)
            assert await client.answer() is None
        box.door.close()

    loop.run(main())


OWN = "sdbox-a-x.slice"
START = [UNIT, [["Slice", OWN]], [OWN, [["StopWhenUnneeded", True]]]]


def test_a_start_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        box = Box(tmp_path)
        box.manager.answer.set_exception(LaunchFailed("no"))
        me = os.pidfd_open(os.getpid())
        with clients(box, 1) as (client,):
            client.ask("start", *START, fds=(me,))
            assert await client.answer() == "LaunchFailed"
            assert box.door.known == {}
            # Another's box has ended, and what it has started has not.
            other = door.Inside(cgroup=str(tmp_path), uid=12345)
            box.door.known[OWN] = other
            client.ask("start", *START, fds=(me,))
            assert await client.answer() == "ManagerRefused"
            assert box.door.known == {OWN: other}
            assert box.manager.asked == [("start", UNIT)]
        os.close(me)
        box.door.close()

    loop.run(main())


def test_a_process_is_looked_at_again_before_it_is_handed_over(tmp_path: Path) -> None:
    async def main() -> None:
        box = Box(tmp_path)

        async def start_scope(unit: str, *_: Any, **given: Any) -> None:
            box.tree.pids = []
            with pytest.raises(ManagerRefused, match="not in this box"):
                given["look_again"]()
            seen.append(unit)

        seen: list[str] = []
        box.manager.start_scope = start_scope
        me = os.pidfd_open(os.getpid())
        with clients(box, 1) as (client,):
            client.ask("start", UNIT, [["Slice", SLICE]], None, fds=(me,))
            assert await client.answer() is None
        assert seen == [UNIT]
        os.close(me)
        box.door.close()

    loop.run(main())


def test_who_can_not_be_looked_at_is_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pid_of(_: int) -> int:
        raise OSError(errno.EMFILE, "")

    async def main() -> None:
        box = Box(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(door, "pid_of", pid_of)
            with clients(box, 1) as (client,):
                assert await client.answer() is None
        with clients(box, 1) as (client,):
            client.ask("hello")
            assert (await client.answer())["slice"] == SLICE
        box.door.close()

    loop.run(main())


def test_a_pid_is_taken_for_its_process_only_by_a_kernel_that_knows_no_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_SO_PEERPIDFD", 9999)

    class Ended:
        def getsockopt(self, _: int, option: int, *size: int) -> bytes:
            if option == door._SO_PEERPIDFD:
                raise OSError(errno.ESRCH, "")
            return struct.pack("3i", os.getpid(), 0, 0)

    async def main() -> None:
        box = Box(tmp_path)
        with clients(box, 1) as (client,):
            client.ask("hello")
            assert (await client.answer())["slice"] == SLICE
        box.door.close()

    loop.run(main())
    ended: Any = Ended()
    with pytest.raises(ProcessLookupError):
        door._peer(ended)
