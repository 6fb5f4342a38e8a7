"""Plans and specs of an ordinary user's jobs, with his own manager or with none."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox import doctor
from sdbox.box import Box
from sdbox.directives import DIRECTIVES
from sdbox.errors import LaunchFailed, Unenforceable
from sdbox.host import userns
from sdbox.host.facts import Host
from sdbox.host.users import Credentials
from sdbox.init import syscalls, wire
from sdbox.launch.report import Report
from sdbox.plan.keeping import IN_USER_NAMESPACE, OF_ROOT, keeper
from sdbox.plan.planner import Caller, make_plan
from sdbox.record import replaced
from sdbox.verdict import launch_failed
from tests.unit.test_directives import EXAMPLES

if TYPE_CHECKING:
    from sdbox.plan import Plan
    from sdbox.properties import UnitType

PACKAGING = Path(__file__).parent.parent.parent / "packaging"
PROFILE = PACKAGING / "apparmor/sdbox"
USER = Caller(environment={}, working_directory="/", home="/home/alice", user=(1000, 100))
ROOT = Caller(environment={}, working_directory="/", home="/root")
ALICE = Credentials(uid=1000, gid=100, groups=(100, 27), home="/home/alice", environment={})
ISOLATED = Box(PrivateTmp=True, PrivatePIDs=True, PrivateNetwork=True, PrivateIPC=True)


def host(manager: str, *controllers: str) -> Host:
    return Host(
        manager=manager,
        controllers=frozenset(controllers),
        memory_total_bytes=1 << 33,
        tasks_total=4096,
    )


def plan(
    box: Box,
    manager: str = "user",
    *controllers: str,
    caller: Caller = USER,
    credentials: Credentials | None = None,
    unit_type: UnitType = "scope",
) -> Plan:
    return make_plan(
        job="j",
        command=("true",),
        box=box,
        host=host(manager, *controllers),
        credentials=credentials,
        caller=caller,
        unit_type=unit_type,
    )


@pytest.mark.parametrize("manager", ["user", "none"])
@pytest.mark.parametrize(
    "box",
    [
        Box(PrivateTmp=True),
        Box(PrivatePIDs=True),
        Box(PrivateNetwork=True),
        Box(PrivateIPC=True),
        Box(RootDirectory="/srv"),
    ],
)
def test_namespaces_take_a_user_namespace(box: Box, manager: str) -> None:
    assert plan(box, manager).spec["user_namespace"] == (1000, 100)
    assert plan(box, manager, caller=ROOT).spec["user_namespace"] is None


# What else has to be said for a directive to be taken, or to hide something.
GO_WITH = {
    "RootEphemeral": {"RootDirectory": "/srv"},
    "MountUnderScratch": {"ScratchDirectory": "/scratch"},
    "DiskMax": {"PrivateTmp": "yes"},
    "SystemCallErrorNumber": {"SystemCallFilter": "~mount"},
    "ManagerAccess": {"ManagerAccess": "no"},
}


@pytest.mark.parametrize("name", [name for name in DIRECTIVES if name not in OF_ROOT])
def test_what_takes_a_user_namespace_is_known(name: str) -> None:
    """`sdbox doctor` tells by that what there is without one."""
    made = make_plan(
        job="j",
        command=("true",),
        box=Box.from_mapping({name: EXAMPLES[name][0][0], **GO_WITH.get(name, {})}),
        # Root's, that takes all of them.
        host=host("system", "cpu", "cpuset", "io", "memory", "pids"),
        credentials=None,
        caller=USER,
        # Hidden from no other box: see sdbox.launch.planning.
        managers=("/run/dbus",) if name == "ManagerAccess" else (),
    )
    assert (made.spec["user_namespace"] is not None) == (name in IN_USER_NAMESPACE)


def test_doctor_tells_what_there_is_without_user_namespaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask(choice: str) -> tuple[Host, int]:
        return host("none"), 0

    monkeypatch.setattr(doctor, "_ask", ask)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    kept = {}
    for available in (True, False):
        monkeypatch.setattr(userns, "available", lambda available=available: available)
        told = doctor.examine("none").directives
        kept[available] = {one.directive: (one.kept_by, one.remedy) for one in told}
    refused = {name for name in DIRECTIVES if kept[True][name] != kept[False][name]}
    assert refused == {*IN_USER_NAMESPACE}
    assert {kept[False][name] for name in refused} == {("refused", userns.remedy())}


def test_without_namespaces_there_is_none() -> None:
    box = Box(LimitNOFILE=9, CPUAffinity="0", WorkingDirectory="/")
    assert plan(box).spec["user_namespace"] is None


def test_only_with_a_pid_namespace_a_root_has_a_proc_of_its_own() -> None:
    own = ("MountAPIVFS", "/proc", {"kind": "proc", "options": {}})
    in_root = Box(RootDirectory="/srv")
    assert own in plan(in_root.merge(Box(PrivatePIDs=True))).spec["mounts"]
    assert own in plan(in_root, caller=ROOT).spec["mounts"]
    mounts = plan(in_root).spec["mounts"]
    assert own not in mounts
    assert ("BindPaths", "/proc") in [mount[:2] for mount in mounts]


def test_a_users_manager_isolates_no_service() -> None:
    """It would by a user namespace of its own, of which init knows nothing."""
    service = plan(ISOLATED, unit_type="service")
    names = {one.name for one in service.properties}
    assert names == {"Slice", "Description"}
    assert service.spec["namespaces"] == (
        syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC
    )


def test_who_an_ordinary_users_job_may_be() -> None:
    own = plan(Box(User="alice"), credentials=ALICE)
    assert "User" not in [name for name, _ in own.spec["process"]], "he is that already"
    for other in (replaced(ALICE, uid=0), replaced(ALICE, gid=0)):
        with pytest.raises(Unenforceable, match="only root") as raised:
            plan(Box(User="other"), credentials=other)
        assert "as root" in raised.value.hint


def test_init_asks_to_be_spared_only_where_it_may() -> None:
    assert not plan(Box(MemoryMax="1G"), "user", "memory").spec["spare_init"]
    assert plan(Box(MemoryMax="1G"), "system", "memory", caller=ROOT).spec["spare_init"]


def test_what_a_users_manager_was_not_delegated_is_refused_with_the_remedy() -> None:
    with pytest.raises(Unenforceable, match="no cpuset controller") as raised:
        plan(Box(AllowedCPUs="0"), "user", "memory", "pids", "cpu")
    assert "Delegate=cpu cpuset io memory pids" in raised.value.hint
    assert "user@.service" in raised.value.hint


WITHOUT_MANAGER = {
    "MemoryMax": "watch",
    "TasksMax": "watch",
    "RuntimeMaxSec": "watch",
    "CPUTimeMaxSec": "watch",
    "KillSignal": "watch",
    "TimeoutStopSec": "watch",
    "AssignedCPUs": "affinity",
    "CPUQuota": None,
    "Slice": None,
    "Description": None,
    "OOMPolicy": None,
}


@pytest.mark.parametrize("name", WITHOUT_MANAGER)
def test_who_keeps_what_without_a_manager(name: str) -> None:
    assert keeper(DIRECTIVES[name], host("none")) == WITHOUT_MANAGER[name]


def test_what_is_a_units_is_nobodys_without_one() -> None:
    for name, directive in DIRECTIVES.items():
        if directive.unit is not None and name not in WITHOUT_MANAGER:
            assert keeper(directive, host("none")) is None, name


def test_a_plan_without_a_manager() -> None:
    box = Box(MemoryMax="1G", RuntimeMaxSec="1h", KillSignal="SIGINT", TimeoutStopSec="3s")
    made = plan(box, "none")
    assert made.watched == {"MemoryMax": 1 << 30, "RuntimeMaxSec": 3_600_000_000}
    assert made.stop_seconds == 3
    assert (made.cgroup, made.spec["family"]) == ("", True)
    assert launch_failed(made, 0.0, "").unit is None
    assert launch_failed(plan(box), 0.0, "").unit == "sdbox-j.scope"


def test_without_a_manager_there_are_no_services() -> None:
    with pytest.raises(Unenforceable, match="no services"):
        plan(Box(), "none", unit_type="service")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
        ("user/max_user_namespaces", "5", "container"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0", "container"),
    ],
)
def test_what_gives_user_namespaces(tmp_path: Path, name: str, value: str, words: str) -> None:
    switch = tmp_path / name
    switch.parent.mkdir()
    switch.write_text(f"{value}\n")
    assert words in userns.remedy(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "leave out --service"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ],
)
def test_what_gives_services_user_namespaces(
    tmp_path: Path, name: str, value: str, words: str
) -> None:
    """Whose first program is not the one that the profile is for."""
    switch = tmp_path / name
    switch.parent.mkdir()
    switch.write_text(f"{value}\n")
    assert words in userns.remedy(str(tmp_path), service=True)


@pytest.mark.parametrize("service", [True, False])
async def test_a_service_without_a_user_namespace_is_told_its_own_remedy(
    monkeypatch: pytest.MonkeyPatch, service: bool
) -> None:
    monkeypatch.setattr(userns, "remedy", lambda *, service: f"for services: {service}")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        report = Report(ours, service=service)
        wire.send(theirs, "error", "user namespace", "", errno.EPERM)
        with pytest.raises(LaunchFailed) as raised:
            await report.started
        report.close()
    assert raised.value.hint == f"for services: {service}"


def test_the_apparmor_profile_is_where_the_remedy_says(tmp_path: Path) -> None:
    switch = tmp_path / "kernel/apparmor_restrict_unprivileged_userns"
    switch.parent.mkdir()
    switch.write_text("1\n")
    place = userns.remedy(str(tmp_path)).partition(" copy ")[2].partition(" to /etc/apparmor.d")[0]
    assert Path(place).read_text() == PROFILE.read_text()


def test_the_apparmor_profile_is_for_where_sdbox_is_installed() -> None:
    profile = PROFILE.read_text()
    assert "\nprefix=/opt/sdbox\n" in (PACKAGING / "install").read_text()
    assert "\n#     cp /opt/sdbox/share/sdbox/apparmor/sdbox /etc/apparmor.d/sdbox\n" in profile
    assert "profile sdbox /{opt/sdbox,usr,usr/local}/bin/sdbox flags=(unconfined)" in profile
    assert "\n  userns,\n" in profile
