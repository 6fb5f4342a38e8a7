"""What assignments of RestrictNamespaces= and its kin come down to."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from sdbox.box import Box
from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.host.users import Credentials
from sdbox.kernel import seccomp
from sdbox.plan.privileges import check
from sdbox.values import restrictions
from sdbox.values.restrictions import FAMILIES, NAMESPACES, allowed, rules

ALL = set(NAMESPACES)
NOBODY = Credentials(uid=65534, gid=65534, groups=(), home="/", environment={})


def box(name: str, *assignments: str) -> Box:
    made = Box()
    for text in assignments:
        made = made.merge(Box.from_assignment(f"{name}={text}"))
    return made


@pytest.mark.parametrize(
    ("assignments", "left"),
    [
        (["yes"], set()),
        (["no"], ALL),
        (["user  mnt"], {"user", "mnt"}),
        (["~user mnt"], ALL - {"user", "mnt"}),
        (["user", "mnt"], {"user", "mnt"}),
        (["user mnt", "~mnt"], {"user"}),
        (["~user", "~mnt"], ALL - {"user", "mnt"}),
        (["~user", "user"], ALL),
        (["user", "yes", "net"], {"net"}),
        (["user", "no", "~net"], ALL - {"net"}),
        (["yes", "", "~net"], ALL - {"net"}),
    ],
    ids=repr,
)
def test_assignments_add_up_as_systemd_has_it(assignments: list[str], left: set[str]) -> None:
    value = box("RestrictNamespaces", *assignments).directives["RestrictNamespaces"]
    assert allowed(value) == left


def test_natural_types() -> None:
    assert Box(RestrictNamespaces=True) == box("RestrictNamespaces", "1")
    assert Box(RestrictNamespaces=["~user", "~net"]) == box("RestrictNamespaces", "~user", "~net")
    assert "RestrictNamespaces" not in box("RestrictNamespaces", "yes", "").directives


@pytest.mark.parametrize("text", ["perhaps", "~", "~yes", "user,net", "User"])
def test_what_is_no_namespace_is_refused(text: str) -> None:
    with pytest.raises(InvalidDirective, match=r"^RestrictNamespaces: "):
        box("RestrictNamespaces", text)


@pytest.mark.parametrize("text", ["INET", "AF_NOTHING", "~", "~none", "AF_INET,AF_UNIX"])
def test_what_is_no_family_is_refused(text: str) -> None:
    with pytest.raises(InvalidDirective, match=r"^RestrictAddressFamilies: "):
        box("RestrictAddressFamilies", text)


def test_families_are_the_kernels() -> None:
    own = {name: number for name, number in vars(socket).items() if name in FAMILIES}
    assert {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_VSOCK", "AF_ALG"} <= own.keys()
    assert own == {name: FAMILIES[name] for name in own}


def test_namespaces_are_the_kernels() -> None:
    own = {n: getattr(os, f"CLONE_NEW{n.upper()}", f) for n, f in NAMESPACES.items() if n != "mnt"}
    assert own | {"mnt": 0x20000} == NAMESPACES


def denied_families(*assignments: str) -> set[int]:
    made = rules(box("RestrictAddressFamilies", *assignments).directives)
    return {tests[0][2] for call, _, tests in made if call == "socket" and tests[0][1] == "is"}


@pytest.mark.parametrize(
    ("assignments", "denied"),
    [
        (["none"], set(range(46))),
        (["AF_INET AF_UNIX"], set(range(46)) - {1, 2}),
        (["AF_INET", "AF_UNIX", "~AF_INET"], set(range(46)) - {1}),
        (["~AF_INET AF_LOCAL"], {1, 2}),
        (["~AF_INET", "AF_INET"], set()),
        (["~AF_INET", "none", "AF_INET"], set(range(46)) - {2}),
    ],
    ids=repr,
)
def test_families_add_up_as_systemd_has_it(assignments: list[str], denied: set[int]) -> None:
    assert denied_families(*assignments) == denied


def test_what_allows_all_makes_no_program() -> None:
    assert seccomp.programs(box("RestrictNamespaces", "no").directives) == []
    assert seccomp.programs(box("RestrictNamespaces", "~user", "user").directives) == []


def test_nothing_to_filter_needs_no_new_privileges_either() -> None:
    check(Box(RestrictNamespaces=False, NoNewPrivileges=False).directives, NOBODY)
    with pytest.raises(InvalidDirective, match="RestrictNamespaces"):
        check(Box(RestrictNamespaces=True, NoNewPrivileges=False).directives, NOBODY)


def test_other_architectures_are_refused_where_their_calls_are_others() -> None:
    made = Box(MemoryDenyWriteExecute=True, SystemCallArchitectures="native x86")
    with pytest.raises(Unenforceable, match="MemoryDenyWriteExecute") as raised:
        seccomp.programs(made.directives)
    assert raised.value.hint


@pytest.mark.parametrize("call", ["clone3", "openat2", "io_uring_setup", "sched_setattr"])
def test_what_hides_its_arguments_is_not_there(call: str) -> None:
    everything = Box(
        RestrictNamespaces=True,
        RestrictAddressFamilies="AF_UNIX",
        RestrictSUIDSGID=True,
        RestrictRealtime=True,
    )
    assert (call, errno.ENOSYS, ()) in list(restrictions.rules(everything.directives))
