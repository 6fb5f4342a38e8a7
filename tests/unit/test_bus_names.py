"""Names and texts that go over the bus, without a bus."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.bus import Match, variant
from sdbox.dial import socket_name
from sdbox.errors import ManagerRefused, ManagerUnavailable
from sdbox.manager import unit_path
from sdbox.systemd.calls import version_number


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("unix:path=/run/dbus/system_bus_socket", b"/run/dbus/system_bus_socket"),
        ("unix:path=/run/a%20b,guid=0123", b"/run/a b"),
        ("unix:abstract=/tmp/x", b"\0/tmp/x"),
        ("tcp:host=localhost;unix:path=/x", b"/x"),
    ],
)
def test_socket_name(address: str, name: bytes) -> None:
    assert socket_name(address) == name


@pytest.mark.parametrize("address", ["", "unix", "tcp:host=x", "/run/bus", "unix:path=%zz"])
def test_socket_name_of_what_is_no_address(address: str) -> None:
    with pytest.raises(ManagerUnavailable):
        socket_name(address)


@pytest.mark.parametrize(
    ("unit", "element"),
    [
        ("sdbox-1.scope", "sdbox_2d1_2escope"),
        ("0a.scope", "_30a_2escope"),
        ("a_b", "a_5fb"),
        ("é", "_c3_a9"),
        ("", "_"),
    ],
)
def test_unit_path(unit: str, element: str) -> None:
    assert unit_path(unit) == f"/org/freedesktop/systemd1/unit/{element}"


@given(st.text(min_size=1), st.text(min_size=1))
def test_unit_paths_differ_as_units_do(first: str, second: str) -> None:
    try:
        paths = {unit_path(first), unit_path(second)}
    except UnicodeEncodeError:
        return
    assert len(paths) == len({first, second})


@pytest.mark.parametrize(
    ("text", "number"),
    [("252.38-1~deb12u1", 252), ("257", 257), ("v258-rc1", 258), ("261~devel", 261), ("odd", 0)],
)
def test_version_number(text: str, number: int) -> None:
    assert version_number(text) == number


def test_match_rule() -> None:
    match = Match(
        sender="a.b", path="/a", interface="a.c", member="Removed", arguments=((2, "it's"),)
    )
    assert match.rule == (
        "type='signal',sender='a.b',path='/a',interface='a.c',member='Removed',arg2='it'\\''s'"
    )


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("s", "a\0b"),
        ("as", ("a", "b\0")),
        ("a{ss}", {"\0": "b"}),
        ("u", -1),
        ("u", 2**32),
        ("t", "5"),
        ("ay", [1, 2]),
        ("su", "s"),
        ("(", 1),
        ("s", None),
    ],
)
def test_variant_that_does_not_fit(signature: str, value: object) -> None:
    with pytest.raises(ManagerRefused) as caught:
        variant(signature, value)
    assert caught.value.name == "org.freedesktop.DBus.Error.InvalidArgs"


def test_variant_takes_tuples() -> None:
    assert variant("a(st)", (("/", 5),)).value == [["/", 5]]
