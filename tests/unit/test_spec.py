"""What init is told: the part of a box that a scope can't take."""

from __future__ import annotations

import marshal
import resource
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.box import Box
from sdbox.errors import InvalidDirective
from sdbox.host.users import Credentials
from sdbox.init import syscalls
from sdbox.plan.planner import Caller
from sdbox.plan.scratch import hides
from sdbox.plan.spec import make_spec
from sdbox.record import replaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdbox.properties import UnitType

CALLER = Caller(
    environment={b"HOME": b"/home/caller", b"PATH": b"/bin", b"RAW": b"\xff"},
    working_directory="/home/caller/work",
    home="/home/caller",
    oom_score_adjust=100,
    ignored_signals=(1, 13),
)
ALICE = Credentials(
    uid=1000,
    gid=100,
    groups=(100, 27),
    home="/home/alice",
    environment={"HOME": "/home/alice", "USER": "alice"},
)
ADJUST = ("OOMScoreAdjust", {"value": 100})
INHERITED = ("WorkingDirectory", {"path": "/home/caller/work", "ignore_missing": True})
AS_ALICE = ("User", {"uid": 1000, "gid": 100, "groups": [100, 27]})
NO_CAPABILITIES = ("CapabilityBoundingSet", {"keep": 0, "ambient": False})
NO_NEW_PRIVILEGES: tuple[str, dict[str, Any]] = ("NoNewPrivileges", {})
PROC = ("MountAPIVFS", "/proc", {"kind": "proc", "options": {}})


def spec(
    box: Box | None = None,
    *,
    command: tuple[str, ...] = ("true",),
    credentials: Credentials | None = None,
    own_proc: bool = False,
    spare_init: bool = False,
    caller: Caller = CALLER,
    unit_type: UnitType = "scope",
) -> dict[str, Any]:
    return make_spec(
        job="j1",
        command=command,
        directives={} if box is None else box.directives,
        credentials=credentials,
        caller=caller,
        own_proc=own_proc,
        spare_init=spare_init,
        unit_type=unit_type,
    )


def bind(source: str, destination: str, **other: bool) -> tuple[str, str, dict[str, Any]]:
    usual = {"read_only": False, "recursive": True, "ignore_missing": False}
    return "BindPaths", destination, {"source": source} | usual | other


def test_an_empty_box() -> None:
    assert spec() == {
        "job": "j1",
        "argv": [b"true"],
        "environment": list(CALLER.environment.items()),
        "ignored_signals": [1, 13],
        "spare_init": False,
        "private_pids": False,
        "family": False,
        "user_namespace": None,
        "terminal": False,
        "enter": 0,
        "nestable": False,
        "namespaces": 0,
        "root_directory": None,
        "secure_root": False,
        "ephemeral": False,
        "private_directories": [],
        "counted": False,
        "project": None,
        "mounts": [],
        "protections": [],
        "process": [ADJUST, INHERITED, NO_NEW_PRIVILEGES],
    }


def test_marshal_carries_a_whole_spec() -> None:
    box = Box(
        RootDirectory="/srv",
        PrivateTmp=True,
        PrivatePIDs=True,
        PrivateNetwork=True,
        PrivateIPC=True,
        BindPaths="/a:/b",
        BindReadOnlyPaths="-/c",
        CPUAffinity="0-3",
        LimitNOFILE="10:infinity",
        Environment={"A": "b"},
        WorkingDirectory="-/x",
        NoNewPrivileges=True,
    )
    made = spec(box, credentials=ALICE, own_proc=True, spare_init=True)
    assert marshal.loads(marshal.dumps(made)) == made  # noqa: S302 - made here
    assert made["spare_init"] is True


def test_arguments_are_bytes() -> None:
    assert spec(command=("a", "", "ü", "\udcff"))["argv"] == [b"a", b"", b"\xc3\xbc", b"\xff"]


def test_the_environment_in_order_of_precedence() -> None:
    box = Box(Environment={"USER": "box", "NEW": "ü\udcff"})
    assert dict(spec(box, credentials=ALICE)["environment"]) == {
        b"HOME": b"/home/alice",
        b"PATH": b"/bin",
        b"RAW": b"\xff",
        b"USER": b"box",
        b"NEW": b"\xc3\xbc\xff",
    }


NAMESPACES: list[tuple[dict[str, object], int]] = [
    ({"CPUAffinity": 0}, 0),
    ({"PrivateNetwork": True}, syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS),
    ({"PrivateIPC": True}, syscalls.CLONE_NEWIPC),
    ({"PrivateTmp": True}, syscalls.CLONE_NEWNS),
    ({"BindPaths": "/a:/b"}, syscalls.CLONE_NEWNS),
    ({"RootDirectory": "/srv"}, syscalls.CLONE_NEWNS),
    # The PID namespace is made by fork, and its /proc takes a mount.
    ({"PrivatePIDs": True}, syscalls.CLONE_NEWNS),
    ({"PrivateTmp": False, "PrivateNetwork": False, "PrivateIPC": False, "PrivatePIDs": False}, 0),
    (
        {"PrivateNetwork": True, "PrivateIPC": True, "PrivateTmp": "disconnected"},
        syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWNS,
    ),
]


@pytest.mark.parametrize(("directives", "flags"), NAMESPACES, ids=lambda value: str(value)[:60])
def test_namespaces(directives: Mapping[str, object], flags: int) -> None:
    made = spec(Box.from_mapping(directives))
    assert made["namespaces"] == flags
    assert made["private_pids"] == bool(directives.get("PrivatePIDs"))


@pytest.mark.parametrize(
    ("box", "own_proc"),
    [(Box(PrivatePIDs=True), False), (Box(), True), (Box(PrivatePIDs=True), True)],
)
def test_a_proc_of_its_own_pids(box: Box, own_proc: bool) -> None:
    made = spec(box, own_proc=own_proc)
    assert made["mounts"] == [PROC]
    assert made["namespaces"] == syscalls.CLONE_NEWNS


def test_a_root_has_the_api_file_systems() -> None:
    made = spec(Box(RootDirectory="/srv"))
    assert made["root_directory"] == "/srv"
    proc, sys, dev, run = made["mounts"]
    assert (proc, sys, dev) == (PROC, bind("/sys", "/sys"), bind("/dev", "/dev"))
    assert run[:2] == ("MountAPIVFS", "/run")
    assert run[2]["kind"] == "tmpfs"


def test_a_root_without_the_network_does_not_show_its_devices() -> None:
    mounts = spec(Box(RootDirectory="/srv", PrivateNetwork=True))["mounts"]
    sys = [mount for mount in mounts if mount[1] == "/sys"]
    assert sys == [("MountAPIVFS", "/sys", {"kind": "sysfs", "options": {}})]
    assert spec(Box(PrivateNetwork=True))["mounts"] == [("PrivateNetwork", "/sys", {})]


def test_a_sys_that_shows_the_network_is_not_one_to_write_to() -> None:
    """It is there all the same, and what else is said of /sys holds."""
    box = {"ProtectSystem": "strict", "ProtectKernelTunables": True}
    plain, private = (spec(Box(**box, PrivateNetwork=own)) for own in (False, True))
    assert private["protections"] == plain["protections"]


def test_a_private_tmp_on_disk() -> None:
    made = spec(Box(PrivateTmp=True))
    assert made["mounts"] == [("PrivateTmp", "/tmp", {}), ("PrivateTmp", "/var/tmp", {})]
    assert made["private_directories"] == [("/tmp", "/tmp"), ("/var/tmp", "/var/tmp")]


def test_a_private_tmp_in_memory() -> None:
    made = spec(Box(PrivateTmp="disconnected"))
    assert made["private_directories"] == []
    assert [mount[1] for mount in made["mounts"]] == ["/tmp", "/var/tmp"]
    for _, _, arguments in made["mounts"]:
        assert arguments["kind"] == "tmpfs"
        assert arguments["options"]["mode"] == "1777"


def test_what_is_above_comes_first() -> None:
    box = Box(
        BindReadOnlyPaths="/ro /a:/x",
        BindPaths="/a:/b /d:/ro/below/d -/c:/tmp/c:norbind /a:/run/x",
        MountImages="/i:/b/image",
        PrivateTmp=True,
        PrivateShm=True,
        TemporaryFileSystem="/var/lib/a /var /x",
        RootDirectory="/srv",
    )
    mounts = spec(box)["mounts"]
    api, own = [mount[1] for mount in mounts[:4]], mounts[4:]
    assert api == ["/proc", "/sys", "/dev", "/run"]
    assert [mount[:2] for mount in own] == [
        ("BindPaths", "/b"),
        ("BindPaths", "/ro"),
        ("PrivateTmp", "/tmp"),
        ("TemporaryFileSystem", "/var"),
        # In one place, the bind is what there is.
        ("TemporaryFileSystem", "/x"),
        ("BindPaths", "/x"),
        ("MountImages", "/b/image"),
        ("MountAPIVFS", "/dev/shm"),
        ("BindPaths", "/run/x"),
        ("BindPaths", "/tmp/c"),
        ("PrivateTmp", "/var/tmp"),
        ("BindPaths", "/ro/below/d"),
        ("TemporaryFileSystem", "/var/lib/a"),
    ]
    assert bind("/ro", "/ro", read_only=True) in own
    assert bind("/c", "/tmp/c", recursive=False, ignore_missing=True) in own


@pytest.mark.parametrize(
    "own",
    [
        Box(ScratchDirectory="/home/me/job"),
        Box(ScratchDirectory="/srv/job", MountUnderScratch="/home/me"),
        Box(TemporaryFileSystem="/root"),
        Box(MountImages="/srv/image:/home/image"),
        Box(BindPaths="/srv:/home/me/job"),
        Box(BindReadOnlyPaths="/srv:/root"),
        Box(InaccessiblePaths="/var", PrivateTmp=True),
    ],
    ids=repr,
)
def test_what_would_be_hidden_again_is_refused(own: Box) -> None:
    with pytest.raises(InvalidDirective, match="is inaccessible to the box"):
        spec(Box(ProtectHome=True).merge(own))
    spec(Box(ProtectHome="tmpfs").merge(own).merge(Box(InaccessiblePaths="")))


def test_the_order_of_operations() -> None:
    box = Box(
        NoNewPrivileges=True,
        WorkingDirectory="/x",
        LimitNOFILE=64,
        LimitCORE=0,
        CPUAffinity="1,3",
    )
    # Limits are raised before the right to do so is given up; a directory that was asked for is
    # entered with the user's rights, as systemd does.
    assert spec(box, credentials=ALICE)["process"] == [
        ADJUST,
        ("CPUAffinity", {"cpus": [1, 3]}),
        ("Limit", {"resource_number": resource.RLIMIT_CORE, "soft": 0, "hard": 0}),
        ("Limit", {"resource_number": resource.RLIMIT_NOFILE, "soft": 64, "hard": 64}),
        NO_CAPABILITIES,
        AS_ALICE,
        ("WorkingDirectory", {"path": "/x", "ignore_missing": False}),
        NO_NEW_PRIVILEGES,
    ]


def test_an_inherited_directory_needs_no_right_of_the_user() -> None:
    assert spec(credentials=ALICE)["process"] == [
        ADJUST,
        INHERITED,
        NO_CAPABILITIES,
        AS_ALICE,
        NO_NEW_PRIVILEGES,
    ]


@pytest.mark.parametrize(
    ("box", "credentials", "path", "ignore_missing"),
    [
        (Box(), None, "/home/caller/work", True),
        (Box(RootDirectory="/srv"), None, "/", True),
        (Box(WorkingDirectory="/x"), None, "/x", False),
        (Box(WorkingDirectory="-/x"), None, "/x", True),
        (Box(WorkingDirectory="~"), None, "/home/caller", False),
        (Box(WorkingDirectory="~"), ALICE, "/home/alice", False),
        (Box(WorkingDirectory="-~"), ALICE, "/home/alice", True),
        (Box(WorkingDirectory="/x", RootDirectory="/srv"), ALICE, "/x", False),
    ],
    ids=repr,
)
def test_the_working_directory(
    box: Box, credentials: Credentials | None, path: str, ignore_missing: bool
) -> None:
    operations = dict(spec(box, credentials=credentials)["process"])
    assert operations["WorkingDirectory"] == {"path": path, "ignore_missing": ignore_missing}


def test_a_group_alone_changes_no_user() -> None:
    group = Credentials(uid=None, gid=7, groups=(0, 7), home="/root", environment={})
    operations = dict(spec(credentials=group)["process"])
    assert operations["User"] == {"uid": None, "gid": 7, "groups": [0, 7]}


@pytest.mark.parametrize(
    ("name", "text", "number", "soft", "hard"),
    [
        ("LimitAS", "1G", resource.RLIMIT_AS, 1 << 30, 1 << 30),
        ("LimitNOFILE", "10:20", resource.RLIMIT_NOFILE, 10, 20),
        ("LimitCORE", "0:infinity", resource.RLIMIT_CORE, 0, resource.RLIM_INFINITY),
        ("LimitMEMLOCK", "infinity", resource.RLIMIT_MEMLOCK, -1, -1),
        # The kernel's asm-generic/resource.h.
        ("LimitLOCKS", "5", 10, 5, 5),
        ("LimitNICE", "+1", 13, 19, 19),
        ("LimitRTTIME", "1s", 15, 1_000_000, 1_000_000),
    ],
)
def test_limits(name: str, text: str, number: int, soft: int, hard: int) -> None:
    operations = dict(spec(Box.from_mapping({name: text}))["process"])
    assert operations["Limit"] == {"resource_number": number, "soft": soft, "hard": hard}


ALL_LIMITS = [
    "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS",
    "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
]  # fmt: skip


@pytest.mark.parametrize(("number", "name"), list(enumerate(ALL_LIMITS)))
def test_each_limit_has_its_number(number: int, name: str) -> None:
    operations = dict(spec(Box.from_mapping({f"Limit{name}": "1"}))["process"])
    assert operations["Limit"]["resource_number"] == number


@pytest.mark.parametrize(
    ("box", "path", "hidden"),
    [
        (Box(PrivateTmp=True), "/tmp", True),
        (Box(PrivateTmp=True), "/tmp/a/b", True),
        (Box(PrivateTmp="disconnected"), "/var/tmp/a", True),
        (Box(PrivateTmp=True), "/tmpfs", False),
        (Box(PrivateTmp=True), "/var", False),
        (Box(PrivateTmp=True), "/home", False),
        (Box(PrivateTmp=False), "/tmp", False),
        (Box(), "/tmp", False),
        (Box(PrivateTmp=True, BindPaths="/tmp/a"), "/tmp/a/b", False),
        (Box(PrivateTmp=True, BindReadOnlyPaths="/tmp/a"), "/tmp/a", False),
        (Box(PrivateTmp=True, BindPaths="/tmp/a"), "/tmp/ab", True),
    ],
    ids=repr,
)
def test_what_a_private_tmp_hides(box: Box, path: str, hidden: bool) -> None:
    assert hides(box.directives, path) == hidden


# --- of a service, whose init systemd starts

BORN_ELSEWHERE = replaced(
    CALLER,
    inherited={
        "uid": 0,
        "gid": 0,
        "groups": [0],
        "umask": 0o27,
        "nice": 5,
        "limits": {7: (64, 64)},
        "cpus": (0, 1),
    },
)


def operations(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(made["process"])


def of_service(box: Box | None = None) -> dict[str, Any]:
    return spec(box, caller=BORN_ELSEWHERE, unit_type="service")


def test_a_service_goes_to_the_callers_namespaces() -> None:
    flags = ("NEWNS", "NEWUTS", "NEWCGROUP", "NEWNET", "NEWIPC")
    assert of_service()["enter"] == sum(getattr(syscalls, f"CLONE_{flag}") for flag in flags)


@pytest.mark.parametrize(
    ("box", "flag", "made"),
    [
        # systemd has made it, and init is in it: for a /sys that shows it.
        (Box(PrivateNetwork=True), syscalls.CLONE_NEWNET, syscalls.CLONE_NEWNS),
        (Box(PrivateIPC=True), syscalls.CLONE_NEWIPC, syscalls.CLONE_NEWIPC),
    ],
    ids=repr,
)
def test_a_namespace_of_its_own_is_not_the_callers(box: Box, flag: int, made: int) -> None:
    service = of_service(box)
    assert service["enter"] == of_service()["enter"] - flag
    assert service["namespaces"] == made


def test_a_service_has_of_the_caller_what_a_child_would_have() -> None:
    assert operations(of_service())["Inherit"] == BORN_ELSEWHERE.inherited
    assert "Inherit" not in operations(spec())


def test_what_systemd_does_for_a_service_is_not_init_s() -> None:
    box = Box(CPUAffinity="0", NoNewPrivileges=True, LimitNOFILE=9)
    made = operations(of_service(box))
    assert {"CPUAffinity", "NoNewPrivileges"}.isdisjoint(made)
    assert made["Inherit"]["cpus"] == (), "those that systemd has set stay"
    assert "Limit" in made
    assert {"CPUAffinity", "NoNewPrivileges", "Limit"} <= operations(spec(box)).keys()
