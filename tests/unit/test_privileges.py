"""What a payload may do, and what follows where its box says nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sdbox.box import Box
from sdbox.errors import InvalidDirective
from sdbox.host.users import Credentials
from sdbox.plan.privileges import as_root, as_user, check
from sdbox.values import capabilities

if TYPE_CHECKING:
    from sdbox.properties import UnitType

ALL = capabilities.ALL
CHOWN, KILL, BPF = 1, 1 << 5, 1 << 39
ALICE = Credentials(uid=1000, gid=100, groups=(100,), home="/", environment={})
ROOT = Credentials(uid=0, gid=0, groups=(0,), home="/", environment={})
STAFF = Credentials(uid=None, gid=50, groups=(50,), home="/", environment={})


def box(*assignments: str, name: str = "CapabilityBoundingSet") -> Box:
    """A box that is assigned to several times, as by configuration and command line."""
    made = Box()
    for text in assignments:
        made = made.merge(Box.from_assignment(f"{name}={text}"))
    return made


# As systemd 252 shows it for a service with these lines.
@pytest.mark.parametrize(
    ("assignments", "bounding", "ambient"),
    [
        (["CAP_CHOWN"], CHOWN, CHOWN),
        (["CAP_CHOWN CAP_KILL"], CHOWN | KILL, CHOWN | KILL),
        (["CAP_CHOWN", "cap_kill"], CHOWN | KILL, CHOWN | KILL),
        (["~CAP_CHOWN"], ALL & ~CHOWN, ALL & ~CHOWN),
        (["~CAP_CHOWN", "~CAP_KILL"], ALL & ~CHOWN & ~KILL, ALL & ~CHOWN & ~KILL),
        (["CAP_CHOWN CAP_BPF", "~CAP_CHOWN"], BPF, BPF),
        (["CAP_CHOWN", ""], 0, 0),
        (["CAP_CHOWN", "", "CAP_KILL"], KILL, KILL),
        (["CAP_CHOWN", "~"], ALL, ALL),
        (["CAP_CHOWN", "~", "CAP_KILL"], KILL, ALL),
        (["", "~CAP_KILL"], 0, ALL & ~KILL),
    ],
    ids=repr,
)
def test_assignments_add_up_as_systemd_has_it(
    assignments: list[str], bounding: int, ambient: int
) -> None:
    for name, mask, expected in (
        ("CapabilityBoundingSet", capabilities.bounding, bounding),
        ("AmbientCapabilities", capabilities.ambient, ambient),
    ):
        assert mask(box(*assignments, name=name).directives[name]) == expected


@pytest.mark.parametrize("text", ["CHOWN", "CAP_NOTHING", "~CAP_CHOWN ~CAP_KILL", "none CAP_KILL"])
def test_what_is_no_capability_is_refused(text: str) -> None:
    with pytest.raises(InvalidDirective, match=r"is no capability"):
        box(text)


@pytest.mark.parametrize(
    ("raw", "bits"),
    [("none", 0), ("CAP_KILL", KILL), ("~CAP_KILL", ALL & ~KILL), ("~", ALL)],
)
def test_the_option_says_exactly_which(raw: str, bits: int) -> None:
    before = box("CAP_CHOWN")
    made = before.merge(Box.from_option("--capabilities", raw, {}))
    assert capabilities.bounding(made.directives["CapabilityBoundingSet"]) == bits


@pytest.mark.parametrize(
    ("of_box", "credentials", "keep"),
    [
        (Box(), None, None),
        (Box(), ROOT, None),
        (Box(), STAFF, None),
        (Box(), ALICE, 0),
        (Box(CapabilityBoundingSet=""), None, 0),
        (Box(CapabilityBoundingSet="CAP_KILL"), ALICE, KILL),
        (Box(CapabilityBoundingSet="~"), ALICE, ALL),
        (Box(AmbientCapabilities="CAP_KILL"), ALICE, KILL),
    ],
    ids=repr,
)
def test_another_user_has_no_capability_to_come_by(
    of_box: Box, credentials: Credentials | None, keep: int | None
) -> None:
    made: dict[str, Any] = dict(as_root(of_box.directives, credentials))
    assert (made["CapabilityBoundingSet"]["keep"] if made else None) == keep


@pytest.mark.parametrize(
    ("of_box", "unit_type", "names"),
    [
        (Box(), "scope", ["NoNewPrivileges"]),
        (Box(), "service", ["NoNewPrivileges"]),
        (Box(NoNewPrivileges=True), "scope", ["NoNewPrivileges"]),
        (Box(NoNewPrivileges=True), "service", []),
        (Box(NoNewPrivileges=False), "scope", []),
        (
            Box(AmbientCapabilities="CAP_KILL"),
            "scope",
            ["AmbientCapabilities", "NoNewPrivileges"],
        ),
    ],
    ids=repr,
)
def test_new_privileges_are_for_who_asks_for_them(
    of_box: Box, unit_type: UnitType, names: list[str]
) -> None:
    assert [name for name, _ in as_user(of_box.directives, unit_type)] == names


def test_no_capability_is_both_given_and_taken() -> None:
    bounded = Box(CapabilityBoundingSet="CAP_KILL", AmbientCapabilities="CAP_KILL")
    check(bounded.directives, None)
    with pytest.raises(InvalidDirective, match="AmbientCapabilities"):
        check(bounded.merge(Box(CapabilityBoundingSet="~CAP_KILL")).directives, None)


FILTERED = Box(SystemCallFilter="~mount", NoNewPrivileges=False)


def test_a_filter_for_another_user_needs_no_new_privileges() -> None:
    check(FILTERED.directives, None)
    check(FILTERED.merge(Box(NoNewPrivileges=True)).directives, ALICE)
    with pytest.raises(InvalidDirective, match="SystemCallFilter"):
        check(FILTERED.directives, ALICE)


def test_an_error_number_is_for_a_filter() -> None:
    with pytest.raises(InvalidDirective, match="SystemCallErrorNumber"):
        check(Box(SystemCallErrorNumber="EPERM").directives, None)


def test_the_filter_comes_last() -> None:
    made = list(as_user(Box(AmbientCapabilities="CAP_KILL").directives, "scope", [b"one", b"two"]))
    assert made[-1] == ("SystemCallFilter", {"programs": [b"one", b"two"]})
