"""What assignments of SystemCallFilter= come down to."""

from __future__ import annotations

import pytest

from sdbox.box import Box
from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.kernel import seccomp
from sdbox.kernel.callgroups import parsed
from sdbox.values.callfilter import ALLOW, DENY, KILL, error_name, error_number, resolve

GROUPS = {
    "@default": ["execve", "exit"],
    "@file": ["open", "read"],
    "@all": ["@file", "mount"],
}
BASE = {"execve": ALLOW, "exit": ALLOW}


def box(*assignments: str) -> Box:
    made = Box()
    for text in assignments:
        made = made.merge(Box.from_assignment(f"SystemCallFilter={text}"))
    return made


@pytest.mark.parametrize(
    ("assignments", "otherwise", "table"),
    [
        (["read"], DENY, BASE | {"read": ALLOW}),
        (["@all"], DENY, BASE | dict.fromkeys(("open", "read", "mount"), ALLOW)),
        (["@all", "~@file"], DENY, BASE | {"mount": ALLOW}),
        (["@all", "~mount:EPERM"], DENY, BASE | {"open": ALLOW, "read": ALLOW, "mount": 1}),
        (["read", "open"], DENY, BASE | {"read": ALLOW, "open": ALLOW}),
        (["~mount"], ALLOW, {"mount": DENY}),
        (["~@file:5 mount:kill"], ALLOW, {"open": 5, "read": 5, "mount": KILL}),
        (["~@all", "read"], ALLOW, {"open": DENY, "mount": DENY}),
        (["~@all", "", "read"], DENY, BASE | {"read": ALLOW}),
    ],
    ids=repr,
)
def test_assignments_add_up_as_systemd_has_it(
    assignments: list[str], otherwise: int, table: dict[str, int]
) -> None:
    lines = box(*assignments).directives["SystemCallFilter"]
    assert resolve(lines, GROUPS) == (otherwise, table)


@pytest.mark.parametrize(
    "text", ["~", "read:EPERM", "~read:NOTHING", "~read:0", "~read:4096", "a;b", "@", "~read:"]
)
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(InvalidDirective, match=r"^SystemCallFilter: "):
        box(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((name, name) for name in ("EPERM", "EOPNOTSUPP", "EDEADLK", "EAGAIN", "EHWPOISON")),
        ("ENOTSUP", "EOPNOTSUPP"),
        ("EDEADLOCK", "EDEADLK"),
        ("EWOULDBLOCK", "EAGAIN"),
        ("95", "EOPNOTSUPP"),
        ("133", "EHWPOISON"),
        ("4095", "4095"),
        ("kill", "kill"),
    ],
)
def test_errors_have_all_their_names_and_show_the_usual_one(text: str, name: str) -> None:
    assert error_name(text) == name
    assert error_number(name) == error_number(text)


def test_the_option_says_exactly_which() -> None:
    made = box("~mount").merge(Box.from_option("--system-calls", "@file", {}))
    assert made.directives["SystemCallFilter"] == ("@file",)


def test_what_systemd_lists_is_read() -> None:
    text = """@aio
    # Asynchronous IO
    io_cancel

@all
    # More
    @aio
    mount

# Ungrouped System Calls (known but not included in any of the groups except @known):
#    acct
    none
"""
    assert parsed(text) == {"@aio": ["io_cancel"], "@all": ["@aio", "mount"]}


def test_a_machine_without_libseccomp_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seccomp.unavailable() is None
    monkeypatch.setattr(seccomp, "_LIBRARY", "libnothing.so.9")
    lack = seccomp.unavailable()
    assert lack is not None
    assert "libnothing.so.9" in lack.message
    assert "Install" in lack.hint
    with pytest.raises(Unenforceable):
        seccomp.programs(box("~mount").directives)
