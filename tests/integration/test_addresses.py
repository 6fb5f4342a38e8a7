"""IPAddressAllow=, IPAddressDeny=: whom a job can talk to, with somebody at each address."""

from __future__ import annotations

import json
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.ordinary import PYTHON
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Running, Sdbox

SECONDS = seconds(30)
FIRST, SECOND, SIX = "127.0.0.1", "127.0.0.2", "::1"

# Sends to each address, and says as JSON what came of it: nothing, or the error's number.
SEND = """
import json, socket, sys
came = {}
for place, port in json.loads(sys.argv[1]).items():
    family = socket.AF_INET6 if ":" in place else socket.AF_INET
    try:
        socket.socket(family, socket.SOCK_DGRAM).sendto(b"hello", (place, port))
        came[place] = ""
    except OSError as error:
        came[place] = error.strerror
print(json.dumps(came))
"""
DENIED = "Operation not permitted"

# Connects, and says what it is told there.
CONNECT = """
import socket, sys
print(socket.create_connection((sys.argv[1], int(sys.argv[2]))).recv(100).decode())
"""

# Begins to connect, as far as that goes without waiting.
BEGIN = """
import socket, sys
sock = socket.socket()
sock.setblocking(False)
print(sock.connect_ex((sys.argv[1], int(sys.argv[2]))) != 0)
"""

# Receives on a socket of its own, whose port it says, and says what it has got first.
RECEIVE = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
print(sock.recv(100).decode())
"""


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Somebody:
    """Who is there at an address, for datagrams and for connections."""

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.address = address
        self.datagrams = socket.socket(family, socket.SOCK_DGRAM)
        self.connections = socket.socket(family, socket.SOCK_STREAM)
        for sock in (self.datagrams, self.connections):
            sock.settimeout(SECONDS)
            sock.bind((address, 0))
        self.connections.listen()

    def port(self, sock: socket.socket) -> int:
        number: int = sock.getsockname()[1]
        return number

    def heard(self) -> bool:
        """Whether anything has come."""
        return bool(select.select([self.datagrams, self.connections], [], [], 0)[0])

    def close(self) -> None:
        self.datagrams.close()
        self.connections.close()


@pytest.fixture
def there() -> Iterator[dict[str, Somebody]]:
    addresses = [FIRST, SECOND, *([SIX] if _has_ipv6() else [])]
    found = {address: Somebody(address) for address in addresses}
    yield found
    for one in found.values():
        one.close()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((SIX, 0))
    except OSError:
        return False
    return True


def sent(sdbox: Sdbox, there: dict[str, Somebody], *options: str) -> dict[str, str]:
    """What a job's datagrams to everybody there came to; what was sent well has arrived."""
    ports = json.dumps({a: one.port(one.datagrams) for a, one in there.items()})
    done = sdbox.run(*options, "--", PYTHON, "-ISc", SEND, ports)
    assert done.status == 0, done.err
    came: dict[str, str] = json.loads(done.out)
    for address, one in there.items():
        if not came[address]:
            assert one.datagrams.recv(100) == b"hello"
        assert not one.heard()
    return {address: problem for address, problem in came.items() if problem}


def allowed_to(sdbox: Sdbox, there: dict[str, Somebody], *options: str) -> set[str]:
    failed = sent(sdbox, there, *options)
    assert set(failed.values()) <= {DENIED}
    return there.keys() - failed.keys()


def test_without_a_word_all_are_there(sdbox: Sdbox, there: dict[str, Somebody]) -> None:
    assert sent(sdbox, there) == {}


def test_only_who_is_named(sdbox: Sdbox, there: dict[str, Somebody]) -> None:
    assert allowed_to(sdbox, there, f"--allow-ip={FIRST}") == {FIRST}
    assert allowed_to(sdbox, there, f"--allow-ip={SECOND}") == {SECOND}
    both = (f"--allow-ip={FIRST}", f"--allow-ip={SECOND}")
    assert allowed_to(sdbox, there, *both) == {FIRST, SECOND}
    assert allowed_to(sdbox, there, "--allow-ip=127.0.0.2/31") == {SECOND}
    assert allowed_to(sdbox, there, "--allow-ip=localhost") == there.keys()
    assert allowed_to(sdbox, there, "--allow-ip=192.0.2.1") == set()


def test_who_is_not_denied(sdbox: Sdbox, there: dict[str, Somebody]) -> None:
    denied = allowed_to(sdbox, there, "-p", f"IPAddressDeny={SECOND}")
    assert denied == there.keys() - {SECOND}
    # Alone it denies nobody, as with systemd.
    assert allowed_to(sdbox, there, "-p", f"IPAddressAllow={FIRST}") == there.keys()
    reset = ("-p", "IPAddressDeny=any", "-p", "IPAddressDeny=", "-p", f"IPAddressDeny={FIRST}")
    assert allowed_to(sdbox, there, *reset) == there.keys() - {FIRST}


def test_both_versions_of_ip(sdbox: Sdbox, there: dict[str, Somebody]) -> None:
    if SIX not in there:
        pytest.skip("this machine has no IPv6")
    assert allowed_to(sdbox, there, "--allow-ip=::1") == {SIX}
    assert allowed_to(sdbox, there, "-p", "IPAddressDeny=::/0") == {FIRST, SECOND}


def connected(sdbox: Sdbox, one: Somebody, script: str, *options: str) -> Running:
    where = (one.address, str(one.port(one.connections)))
    return sdbox.start(*options, "--", PYTHON, "-ISc", script, *where)


def test_a_connection(sdbox: Sdbox, there: dict[str, Somebody]) -> None:
    friend, stranger = there[FIRST], there[SECOND]
    options = (f"--allow-ip={FIRST}",)
    running = connected(sdbox, friend, CONNECT, *options)
    with friend.connections.accept()[0] as sock:
        sock.sendall(b"welcome")
    assert running.line() == "welcome"
    assert running.end().status == 0
    done = connected(sdbox, stranger, BEGIN, *options).end()
    assert (done.status, done.out) == (0, "True\n")
    assert not stranger.heard()


def test_who_may_not_be_talked_to_does_not_get_in(sdbox: Sdbox, there: dict[str, Somebody]) -> None:
    running = sdbox.start(f"--allow-ip={FIRST}", "--", PYTHON, "-ISc", RECEIVE)
    port = int(running.line())
    there[SECOND].datagrams.sendto(b"stranger", (FIRST, port))
    there[FIRST].datagrams.sendto(b"friend", (FIRST, port))
    assert running.line() == "friend"
    assert running.end().status == 0


def test_another_users_job(sdbox: Sdbox, there: dict[str, Somebody]) -> None:
    assert allowed_to(sdbox, there, f"--allow-ip={FIRST}", "--user=nobody") == {FIRST}


def test_it_is_told_who_keeps_it(sdbox: Sdbox) -> None:
    running = sdbox.start("--allow-ip=10.0.0.0/8", "--", "sh", "-c", "echo; read line")
    running.line()
    shown = sdbox.inside("systemctl", "show", running.unit, "-pIPAddressAllow", "-pIPAddressDeny")
    lists = dict(line.split("=") for line in shown.out.splitlines())
    assert lists["IPAddressAllow"] == "10.0.0.0/8"
    assert set(lists["IPAddressDeny"].split()) == {"0.0.0.0/0", "::/0"}
    told: dict[str, Any] = json.loads(sdbox.call("show", running.id, "--json").out)[0]
    assert told["box"]["IPAddressAllow"] == ["10.0.0.0/8"]
    done = sdbox.run("--allow-ip=any", "--", "true", report=True)
    assert done.account["enforcement"] == {"IPAddressAllow": "kernel", "IPAddressDeny": "kernel"}
    assert done.account["box"] == {"IPAddressAllow": ["any"], "IPAddressDeny": ["any"]}


def test_what_is_no_address_starts_nothing(sdbox: Sdbox) -> None:
    done = sdbox.run("--allow-ip=example.org", "--", "true")
    assert (done.status, done.err.count("\n")) == (125, 1)
    assert done.err.startswith('sdbox: --allow-ip: "example.org" is not an address.')
