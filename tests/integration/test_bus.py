"""bus.py against the real bus, and against peers that behave badly."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.bus import Bus, Match, variant
from sdbox.errors import ManagerRefused, ManagerUnavailable, TimedOut
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.integration.conftest import Site

SECONDS = seconds(20)
# For what is to run out of time.
SHORT = 0.1

DRIVER = "org.freedesktop.DBus"
SYSTEMD = "org.freedesktop.systemd1"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"
INVALID_ARGUMENTS = "org.freedesktop.DBus.Error.InvalidArgs"

ACCEPTED = b"DATA\r\nOK 0123\r\nAGREE_UNIX_FD\r\n"


@pytest.fixture
async def bus(site: Site) -> AsyncIterator[Bus]:
    bus = await Bus.connect(site.bus_address, timeout=SECONDS)
    yield bus
    await bus.close()


@pytest.fixture
async def free_bus(own_address: str) -> AsyncIterator[Bus]:
    """Where one connection may call another: Debian's system bus lets none, not even root's."""
    bus = await Bus.connect(own_address, timeout=SECONDS)
    yield bus
    await bus.close()


@pytest.fixture
def own_address(own_bus: tuple[str, subprocess.Popen[bytes]]) -> str:
    return own_bus[0]


@pytest.fixture(autouse=True)
def nothing_left_open(site: Site) -> Iterator[None]:
    """No test of this file leaves a descriptor open but those of its event loop."""
    before = open_files()
    yield
    assert not open_files() - before


def open_files() -> Counter[str]:
    """What this process has open; an inode's number tells sockets and pipes apart."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(str(Path("/proc/self/fd", fd).readlink()))
        except FileNotFoundError:  # the directory that was just listed
            continue
    return Counter(links)


async def call_driver(bus: Bus, member: str, signature: str = "", *body: Any) -> list[Any]:
    return await bus.call(
        destination=DRIVER,
        path="/org/freedesktop/DBus",
        interface=DRIVER,
        member=member,
        signature=signature,
        body=body,
        timeout=SECONDS,
    )


async def call_manager(
    bus: Bus, member: str, signature: str = "", *body: Any, fds: tuple[int, ...] = ()
) -> list[Any]:
    return await bus.call(
        destination=SYSTEMD,
        path="/org/freedesktop/systemd1",
        interface=f"{SYSTEMD}.Manager",
        member=member,
        signature=signature,
        body=body,
        fds=fds,
        timeout=SECONDS,
    )


async def connections(bus: Bus) -> set[str]:
    (names,) = await call_driver(bus, "ListNames")
    return {name for name in names if name.startswith(":")}


@asynccontextmanager
async def other_connection(address: str, bus: Bus) -> AsyncIterator[tuple[Bus, str]]:
    """One more connection, and its name on the bus."""
    before = await connections(bus)
    other = await Bus.connect(address, timeout=SECONDS)
    (name,) = await connections(bus) - before
    try:
        yield other, name
    finally:
        await other.close()


async def ignored_call(bus: Bus, name: str, timeout: float) -> list[Any]:
    """A call to a connection of ours, which never answers one."""
    return await bus.call(
        destination=name, path="/", interface="a.b", member="Wait", timeout=timeout
    )


async def peer(answer: bytes) -> tuple[socket.socket, socket.socket]:
    """A connected socket whose other end has said `answer` and nothing more."""
    ours, theirs = socket.socketpair()
    theirs.sendall(answer)
    return ours, theirs


async def test_call(bus: Bus) -> None:
    (names,) = await call_driver(bus, "ListNames")
    # Not systemd's own: right after its boot it may not be there yet.
    assert DRIVER in names


async def test_an_error_has_its_name(bus: Bus) -> None:
    with pytest.raises(ManagerRefused) as caught:
        await call_driver(bus, "NoSuchMethod")
    assert caught.value.name == UNKNOWN_METHOD


async def test_many_calls_at_once(bus: Bus) -> None:
    calls = (
        bus.call(
            destination=SYSTEMD,
            path="/org/freedesktop/systemd1",
            interface="org.freedesktop.DBus.Properties",
            member="Get",
            signature="ss",
            body=(f"{SYSTEMD}.Manager", "Version"),
            timeout=SECONDS,
        )
        for _ in range(500)
    )
    answers = await asyncio.gather(*calls)
    assert len({value.value for (value,) in answers}) == 1


async def test_a_message_larger_than_the_sockets_buffer(bus: Bus) -> None:
    text = "x" * 8 * 2**20
    calls = [call_driver(bus, "NoSuchMethod", "s", text), call_driver(bus, "GetId")]
    refused, answered = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(refused, ManagerRefused)
    assert isinstance(answered, list)


@pytest.mark.parametrize("text", ["a\0b", "\udcff"])
async def test_a_text_that_the_bus_does_not_take_costs_its_own_call_only(
    bus: Bus, text: str
) -> None:
    with pytest.raises(ManagerRefused) as caught:
        await call_driver(bus, "GetNameOwner", "s", text)
    assert caught.value.name == INVALID_ARGUMENTS
    assert await call_driver(bus, "GetId")


async def test_a_call_that_is_not_answered(own_address: str, free_bus: Bus) -> None:
    async with other_connection(own_address, free_bus) as (_, name):
        with pytest.raises(TimedOut, match=r"a\.b\.Wait"):
            await ignored_call(free_bus, name, SHORT)
    # The bus now answers for the other one, which left: nobody waits for that.
    assert await call_driver(free_bus, "GetId")


async def test_calls_that_are_not_answered_stay_below_the_daemons_limit(
    own_address: str, free_bus: Bus
) -> None:
    async with other_connection(own_address, free_bus) as (_, name):
        for _ in range(2):
            calls = [ignored_call(free_bus, name, SHORT) for _ in range(150)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {TimedOut}
    # It left, so all are answered now.
    assert await call_driver(free_bus, "GetId")


async def test_more_calls_than_slots_when_the_connection_ends(
    own_address: str, free_bus: Bus
) -> None:
    async with other_connection(own_address, free_bus) as (_, name):
        calls = [asyncio.create_task(ignored_call(free_bus, name, SECONDS)) for _ in range(300)]
        await asyncio.wait(calls, timeout=SHORT)
        await free_bus.close()
        done, waiting = await asyncio.wait(calls, timeout=SECONDS / 2)
    assert not waiting
    assert {type(call.exception()) for call in done} == {ManagerUnavailable}


async def test_the_called_one_leaves(own_address: str, free_bus: Bus) -> None:
    async with other_connection(own_address, free_bus) as (other, name):
        waiting = asyncio.create_task(ignored_call(free_bus, name, SECONDS))
        await call_driver(free_bus, "GetId")
        await other.close()
        with pytest.raises(ManagerRefused) as caught:
            await waiting
    assert caught.value.name == "org.freedesktop.DBus.Error.NoReply"


async def test_cancelling_a_call(own_address: str, free_bus: Bus) -> None:
    async with other_connection(own_address, free_bus) as (_, name):
        waiting = asyncio.create_task(ignored_call(free_bus, name, SECONDS))
        await call_driver(free_bus, "GetId")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await call_driver(free_bus, "GetId")


async def test_close_fails_what_is_pending(own_address: str, free_bus: Bus) -> None:
    async with other_connection(own_address, free_bus) as (_, name):
        waiting = asyncio.create_task(ignored_call(free_bus, name, SECONDS))
        await call_driver(free_bus, "GetId")
        await free_bus.close()
        with pytest.raises(ManagerUnavailable):
            await waiting
    assert free_bus.closed.done()
    with pytest.raises(ManagerUnavailable):
        await call_driver(free_bus, "GetId")
    await free_bus.close()


async def test_a_file_descriptor_is_passed(bus: Bus) -> None:
    reading, writing = os.pipe()
    command = ("/bin/echo", ("echo", "from the service"), False)
    properties = [
        ("ExecStart", variant("a(sasb)", (command,))),
        ("StandardOutputFileDescriptor", variant("h", 0)),
        ("DefaultDependencies", variant("b", False)),
        ("CollectMode", variant("s", "inactive-or-failed")),
    ]
    unit = f"sdbox-test-{os.getpid()}.service"
    signature = "ssa(sv)a(sa(sv))"
    await call_manager(
        bus, "StartTransientUnit", signature, unit, "fail", properties, (), fds=(writing,)
    )
    os.close(writing)
    text = await asyncio.to_thread(os.read, reading, 100)
    os.close(reading)
    assert text == b"from the service\n"


async def test_received_descriptors_are_closed(bus: Bus) -> None:
    before = open_files()
    await call_manager(bus, "DumpByFileDescriptor")
    assert not open_files() - before


def signal_of_tests(member: str, *arguments: tuple[int, str]) -> Match:
    return Match(
        sender=DRIVER,
        path="/org/freedesktop/DBus",
        interface=DRIVER,
        member=member,
        arguments=arguments,
    )


async def test_signals(site: Site, bus: Bus) -> None:
    bodies: asyncio.Queue[list[Any]] = asyncio.Queue()
    match = signal_of_tests("NameOwnerChanged")
    await bus.add_match(match, bodies.put_nowait, timeout=SECONDS)
    async with other_connection(site.bus_address, bus) as (_, name):
        assert await asyncio.wait_for(bodies.get(), SECONDS) == [name, "", name]
    assert await asyncio.wait_for(bodies.get(), SECONDS) == [name, name, ""]
    await bus.remove_match(match, bodies.put_nowait, timeout=SECONDS)
    async with other_connection(site.bus_address, bus):
        await call_driver(bus, "GetId")
    assert bodies.empty()


async def test_a_match_on_an_argument(site: Site, bus: Bus) -> None:
    bodies: asyncio.Queue[list[Any]] = asyncio.Queue()
    match = signal_of_tests("NameOwnerChanged", (0, "no.such.name"))
    await bus.add_match(match, bodies.put_nowait, timeout=SECONDS)
    async with other_connection(site.bus_address, bus):
        await call_driver(bus, "GetId")
    assert bodies.empty()


async def test_a_callback_that_raises_costs_nothing_else(site: Site, bus: Bus) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    bodies: asyncio.Queue[list[Any]] = asyncio.Queue()
    match = signal_of_tests("NameOwnerChanged")
    await bus.add_match(match, failing, timeout=SECONDS)
    await bus.add_match(match, bodies.put_nowait, timeout=SECONDS)
    async with other_connection(site.bus_address, bus):
        await asyncio.wait_for(bodies.get(), SECONDS)
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


def failing(body: list[Any]) -> None:
    raise ZeroDivisionError(body)


async def test_a_forged_signal_is_not_believed(site: Site, bus: Bus) -> None:
    bodies: asyncio.Queue[list[Any]] = asyncio.Queue()
    before = await connections(bus)
    victim = await Bus.connect(site.bus_address, timeout=SECONDS)
    (name,) = await connections(bus) - before
    forged = Match(sender=SYSTEMD, path="/forged", interface="a.b", member="Done")
    await victim.add_match(forged, bodies.put_nowait, timeout=SECONDS)
    send = ["dbus-send", f"--bus={site.bus_address}", "--type=signal", f"--dest={name}"]
    await asyncio.to_thread(subprocess.run, [*send, "/forged", "a.b.Done"], check=True)
    # What was sent before the bus answers this has come by then.
    await call_driver(victim, "GetId")
    await victim.close()
    assert bodies.empty()


async def test_a_refused_match_leaves_no_callback(bus: Bus) -> None:
    match = signal_of_tests("Bad", (99, "there are no more than 64"))
    with pytest.raises(ManagerRefused) as caught:
        await bus.add_match(match, failing, timeout=SECONDS)
    assert caught.value.name == "org.freedesktop.DBus.Error.MatchRuleInvalid"
    assert match.key not in bus._callbacks


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ManagerUnavailable, match="No such file"):
        await Bus.connect(f"unix:path={tmp_path}/bus", timeout=SECONDS)


async def test_the_listeners_backlog_is_full(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(f"{tmp_path}/bus")
        listener.listen(0)
        first.connect(f"{tmp_path}/bus")
        with pytest.raises(TimedOut, match=f"{tmp_path}/bus"):
            await Bus.connect(f"unix:path={tmp_path}/bus", timeout=SHORT)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"DATA\r\n",
        b"REJECTED EXTERNAL\r\n",
        b"DATA\r\nOK 0123\r\nERROR\r\n",
        b"DATA\r\nREJECTED\r\nERROR\r\n",
        b"x" * 10000,
        b"\xff\r\n\r\n\r\n",
    ],
)
async def test_a_peer_that_does_not_authenticate(answer: bytes) -> None:
    ours, theirs = await peer(answer)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ManagerUnavailable):
        await Bus.connect_socket(ours, timeout=SECONDS)
    theirs.close()


async def test_a_peer_that_closes_at_once() -> None:
    ours, theirs = await peer(b"")
    theirs.close()
    with pytest.raises(ManagerUnavailable):
        await Bus.connect_socket(ours, timeout=SECONDS)


@pytest.mark.parametrize("answer", [b"", b"DATA\r\n", ACCEPTED], ids=["silent", "slow", "no-name"])
async def test_a_peer_that_says_no_more(answer: bytes) -> None:
    ours, theirs = await peer(answer)
    with pytest.raises(TimedOut):
        await Bus.connect_socket(ours, timeout=SHORT)
    theirs.close()


# Little-endian, a reply, version 1, a body of 2 GiB.
HUGE = b"l\2\1\1" + b"\xff\xff\xff\x7f" + b"\1\0\0\0" + b"\0\0\0\0"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"x" * 64, "endian"),
        (HUGE, "a message of 2147483"),
        (b"l\1\1\7" + bytes(60), "protocol version"),
        (b"l\1", "closed by the other side"),
    ],
)
async def test_a_peer_that_sends_rubbish(message: bytes, reason: str) -> None:
    ours, theirs = await peer(ACCEPTED)
    connecting = asyncio.create_task(Bus.connect_socket(ours, timeout=SECONDS))
    await asyncio.get_running_loop().run_in_executor(None, read_hello, theirs)
    theirs.sendall(message)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ManagerUnavailable, match=reason):
        await connecting
    theirs.close()


def read_hello(sock: socket.socket) -> None:
    data = b""
    while b"Hello" not in data:
        data += sock.recv(4096)


async def test_the_bus_goes_away(own_bus: tuple[str, subprocess.Popen[bytes]]) -> None:
    address, daemon = own_bus
    bus = await Bus.connect(address, timeout=SECONDS)
    first = await connections(bus)
    other = await Bus.connect(address, timeout=SECONDS)
    (name,) = await connections(bus) - first
    waiting = asyncio.create_task(ignored_call(bus, name, SECONDS))
    await call_driver(bus, "GetId")
    daemon.kill()
    with pytest.raises(ManagerUnavailable, match="lost"):
        await waiting
    assert "lost" in await bus.closed
    await other.closed
    with pytest.raises(ManagerUnavailable, match="lost"):
        await call_driver(bus, "GetId")
