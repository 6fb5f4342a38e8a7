"""The state file, with this very process in the manager's place, and what the machine must have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdbox.embedded import needs, state
from sdbox.errors import ManagerUnavailable
from sdbox.record import replaced


@pytest.fixture
def manager(tmp_path: Path) -> state.Embedded:
    return state.Embedded(
        name="unit",
        directory=str(tmp_path),
        pid=os.getpid(),
        start_time=state.start_time(os.getpid()),
        boot_id=state.boot_id(),
        pid_namespace=state.pid_namespace(),
        since=1_700_000_000,
        systemd_version=252,
        cgroup_mount="/sys/fs/cgroup",
        cgroup="/sdbox-unit",
    )


def find(manager: state.Embedded) -> state.Embedded | None:
    return state.find(name=manager.name, directory=manager.directory)


def test_what_was_written_is_found(manager: state.Embedded) -> None:
    state.write(manager)
    assert find(manager) == manager
    assert Path(manager.state_file).stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in Path(manager.directory).iterdir()] == ["unit.state"]


def test_paths(manager: state.Embedded) -> None:
    assert manager.root == f"/proc/{os.getpid()}/root"
    assert manager.bus_socket == f"{manager.root}/run/dbus/system_bus_socket"
    assert manager.cgroup_root == "/sys/fs/cgroup/sdbox-unit"
    assert manager.launch_cgroup == "/sys/fs/cgroup/sdbox-unit/launch"


def test_nothing_is_found_where_nothing_was_written(manager: state.Embedded) -> None:
    assert find(manager) is None


@pytest.mark.parametrize(
    "stale",
    [
        {"start_time": 1},
        {"boot_id": "00000000-0000-0000-0000-000000000000"},
        {"pid_namespace": 1},
        {"pid": 2**22 + 1},
    ],
)
def test_a_stale_file_is_not_believed(manager: state.Embedded, stale: dict[str, int | str]) -> None:
    state.write(replaced(manager, **stale))
    assert find(manager) is None


@pytest.mark.parametrize("text", ["", "pid=1\n", "pid=x\nstart_time=1\n", "\0\0", "=\n==\n"])
def test_a_damaged_file_is_not_believed(manager: state.Embedded, text: str) -> None:
    Path(manager.state_file).write_text(text)
    assert find(manager) is None


def test_a_symlink_is_not_followed(manager: state.Embedded) -> None:
    state.write(manager)
    Path(manager.state_file).rename(f"{manager.directory}/elsewhere")
    Path(manager.state_file).symlink_to("elsewhere")
    assert find(manager) is None


def test_another_users_file_is_not_believed(manager: state.Embedded) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file away")
    state.write(manager)
    os.chown(manager.state_file, 65534, -1)
    assert find(manager) is None


def test_a_zombie_is_not_alive(manager: state.Embedded) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert not replaced(manager, pid=pid).alive()
        with pytest.raises(ProcessLookupError):
            state.start_time(pid)
    finally:
        os.waitpid(pid, 0)


def test_open_pidfd(manager: state.Embedded) -> None:
    before = len(os.listdir("/proc/self/fd"))
    os.close(manager.open_pidfd())
    with pytest.raises(ManagerUnavailable, match="has ended"):
        replaced(manager, start_time=1).open_pidfd()
    with pytest.raises(ManagerUnavailable, match="has ended"):
        replaced(manager, pid=2**22 + 1).open_pidfd()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("systemd 252 (252.38-1~deb12u1)\n+PAM +AUDIT\n", 252),
        ("systemd 257 (257.13-1~deb13u1)\n", 257),
        ("systemd 261\n", 261),
        ("", 0),
        ("busybox 1\n", 0),
        ("systemd v252\n", 0),
    ],
)
def test_parse_version(text: str, version: int) -> None:
    assert needs.parse_version(text) == version


MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
90 27 0:38 / /mnt/cgroups rw,relatime shared:4 - cgroup2 none rw
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw
"""


def test_cgroup2_mounts() -> None:
    assert needs.cgroup2_mounts(MOUNTINFO) == ["/sys/fs/cgroup/unified", "/mnt/cgroups"]
    unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    assert needs.cgroup2_mounts(MOUNTINFO + unified)[0] == "/sys/fs/cgroup"
    assert needs.cgroup2_mounts("") == []
