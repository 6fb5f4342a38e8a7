from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdbox.directives import DIRECTIVES, OPTIONS, Directive, find, option_value
from sdbox.errors import InvalidDirective
from sdbox.properties import CgroupFile, UnitProperty
from sdbox.syntax import ListSyntax
from sdbox.values import (
    INFINITY,
    Bind,
    CPURequest,
    GPURequest,
    MountImage,
    Percent,
    ResourceLimit,
    Tmpfs,
    Usec,
    WorkingDirectory,
)

if TYPE_CHECKING:
    from datetime import timedelta as _timedelta

ROWS = list(DIRECTIVES.values())
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

REQUIRED = (
    "MemoryMax",
    "MemoryHigh",
    "MemorySwapMax",
    "CPUQuota",
    "CPUWeight",
    "TasksMax",
    "AllowedCPUs",
    "CPUAffinity",
    "RuntimeMaxSec",
    "PrivateTmp",
    "PrivatePIDs",
    "RootDirectory",
    "BindPaths",
    "BindReadOnlyPaths",
    "PrivateNetwork",
    "PrivateIPC",
    "NoNewPrivileges",
    "CapabilityBoundingSet",
    "SystemCallFilter",
    "SystemCallErrorNumber",
    "SystemCallArchitectures",
    "WorkingDirectory",
    "User",
    "Group",
    "Environment",
    "OOMPolicy",
    "Slice",
    "Description",
    "LimitCPU",
    "LimitFSIZE",
    "LimitDATA",
    "LimitSTACK",
    "LimitCORE",
    "LimitRSS",
    "LimitNOFILE",
    "LimitAS",
    "LimitNPROC",
    "LimitMEMLOCK",
    "LimitLOCKS",
    "LimitSIGPENDING",
    "LimitMSGQUEUE",
    "LimitNICE",
    "LimitRTPRIO",
    "LimitRTTIME",
    "KillSignal",
    "TimeoutStopSec",
    "IOReadBandwidthMax",
    "IOWriteBandwidthMax",
    "IPAddressAllow",
    "IPAddressDeny",
    "DevicePolicy",
    "DeviceAllow",
    "GPUs",
)

REQUIRED_OPTIONS = (
    "--memory",
    "--memory-high",
    "--swap",
    "--tasks",
    "--cpu-quota",
    "--cpu-weight",
    "--allowed-cpus",
    "--cpu-affinity",
    "--wall",
    "--stop-signal",
    "--stop-timeout",
    "--private-tmp",
    "--pid-namespace",
    "--private-ipc",
    "--root",
    "--bind",
    "--bind-ro",
    "--network",
    "--user",
    "--group",
    "--chdir",
    "--env",
    "--slice",
    "--description",
    "--no-new-privileges",
    "--capabilities",
    "--allow-ip",
    "--gpus",
)

# A text, its value, and how it is written, for each directive.
EXAMPLES: dict[str, list[tuple[str, Any, str]]] = {
    "MemoryMax": [
        ("512M", 512 * 2**20, "512M"),
        ("1.5G", 1536 * 2**20, "1536M"),
        ("50%", Percent(permyriad=5000), "50%"),
        ("infinity", INFINITY, "infinity"),
        ("1M", 2**20, "1M"),
    ],
    "MemoryHigh": [("1", 1, "1"), ("7.5%", Percent(permyriad=750), "7.5%")],
    "MemorySwapMax": [("0", 0, "0"), ("1G", 2**30, "1G"), ("infinity", INFINITY, "infinity")],
    "TasksMax": [("10", 10, "10"), ("12.5%", Percent(permyriad=1250), "12.5%")],
    "CPUQuota": [
        ("20%", Percent(permyriad=2000), "20%"),
        ("250.5%", Percent(permyriad=25050), "250.5%"),
    ],
    "CPUWeight": [("1", 1, "1"), ("10000", 10_000, "10000"), ("idle", "idle", "idle")],
    "AllowedCPUs": [("0-2,5 4", (0, 1, 2, 4, 5), "0-2,4-5")],
    "CPUAffinity": [("3-4 1", (1, 3, 4), "1,3-4")],
    "AssignedCPUs": [
        ("2", CPURequest(count=2), "2"),
        ("0,4-5", CPURequest(count=3, cpus=(0, 4, 5)), "0,4-5"),
        ("3-3", CPURequest(count=1, cpus=(3,)), "3-3"),
        ("3,", CPURequest(count=1, cpus=(3,)), "3-3"),
        ("0 1 0", CPURequest(count=2, cpus=(0, 1)), "0-1"),
    ],
    "IOReadBandwidthMax": [("/dev/sda 5M", (("/dev/sda", 5_000_000),), "/dev/sda 5M")],
    "IOWriteBandwidthMax": [('"/my dir" 1 K', (("/my dir", 1000),), r"/my\ dir 1K")],
    "IPAddressAllow": [
        (
            "10.1.2.3/8 localhost  192.0.2.1 10.0.0.0/8",
            ("10.0.0.0/8", "localhost", "192.0.2.1"),
            "10.0.0.0/8 localhost 192.0.2.1",
        ),
        ("2001:DB8::1/32 ::1", ("2001:db8::/32", "::1"), "2001:db8::/32 ::1"),
        ("link-local multicast", ("link-local", "multicast"), "link-local multicast"),
    ],
    "IPAddressDeny": [("any", ("any",), "any"), ("0.0.0.0/0", ("0.0.0.0/0",), "0.0.0.0/0")],
    "DevicePolicy": [("closed", "closed", "closed"), ("auto", "auto", "auto")],
    "DeviceAllow": [
        (
            '/dev//fuse rw\nchar-pts\n"block-*" mr\n/dev/fuse r',
            (("/dev/fuse", "r"), ("char-pts", "rwm"), ("block-*", "rm")),
            "/dev/fuse r\nchar-pts rwm\nblock-* rm",
        ),
        ("/dev/char/1:3 w", (("/dev/char/1:3", "w"),), "/dev/char/1:3 w"),
    ],
    "GPUs": [
        ("0,2-3 2", GPURequest(gpus=(0, 2, 3)), "0,2,3"),
        ("none", GPURequest(gpus=()), "none"),
        ("7", GPURequest(gpus=(7,)), "7"),
    ],
    "RuntimeMaxSec": [("90", Usec(90_000_000), "1min 30s"), ("infinity", INFINITY, "infinity")],
    "CPUTimeMaxSec": [("1.5h", Usec(5_400_000_000), "1h 30min")],
    "OOMPolicy": [("kill", "kill", "kill")],
    "PrivateTmp": [
        ("yes", "connected", "yes"),
        ("connected", "connected", "yes"),
        ("disconnected", "disconnected", "disconnected"),
        ("off", "no", "no"),
    ],
    "DiskMax": [("2G", 2**31, "2G"), ("infinity", INFINITY, "infinity")],
    "PrivateTmpSize": [("1G", 2**30, "1G"), ("5%", Percent(permyriad=500), "5%")],
    "PrivateShm": [("yes", True, "yes")],
    "ScratchDirectory": [("/scratch//dir_1/", "/scratch/dir_1", "/scratch/dir_1")],
    "MountUnderScratch": [
        (r'/tmp "/my dir" /tmp', ("/tmp", "/my dir"), r"/tmp /my\ dir"),
    ],
    "TemporaryFileSystem": [
        (
            r'/var:ro,size=1G "/my dir" /a\:b:mode=1777',
            (
                Tmpfs(path="/var", options=("ro", "size=1G")),
                Tmpfs(path="/my dir"),
                Tmpfs(path="/a:b", options=("mode=1777",)),
            ),
            r"/var:ro,size=1G /my\ dir /a\:b:mode=1777",
        ),
    ],
    "MountImages": [
        (
            r"/a.img:/opt/a -/b\:c:/b:root:ro,nodev /c:/d:ro",
            (
                MountImage(source="/a.img", destination="/opt/a"),
                MountImage(source="/b:c", destination="/b", ignore_missing=True),
                MountImage(source="/c", destination="/d"),
            ),
            r"/a.img:/opt/a -/b\:c:/b /c:/d",
        ),
    ],
    "PrivatePIDs": [("T", True, "yes"), ("n", False, "no")],
    "PrivateIPC": [("1", True, "yes")],
    "PrivateNetwork": [("On", True, "yes")],
    "NoNewPrivileges": [("false", False, "no")],
    "CapabilityBoundingSet": [
        ("cap_chown CAP_KILL", ("CAP_CHOWN CAP_KILL",), "CAP_CHOWN CAP_KILL"),
        ("~CAP_SYS_ADMIN", ("~CAP_SYS_ADMIN",), "~CAP_SYS_ADMIN"),
        ("CAP_KILL\n~CAP_BPF", ("CAP_KILL", "~CAP_BPF"), "CAP_KILL\n~CAP_BPF"),
        ("CAP_KILL\nnone", ("none",), "none"),
        ("", ("none",), "none"),
        ("~", ("~",), "~"),
    ],
    "SystemCallFilter": [
        (" @system-service  mount", ("@system-service mount",), "@system-service mount"),
        ("~@raw-io:EPERM ptrace", ("~@raw-io:EPERM ptrace",), "~@raw-io:EPERM ptrace"),
        ("read\n~write:7", ("read", "~write:7"), "read\n~write:7"),
    ],
    "SystemCallErrorNumber": [
        ("1", "EPERM", "EPERM"),
        ("kill", "kill", "kill"),
        ("4095", "4095", "4095"),
    ],
    "ProtectSystem": [("true", "yes", "yes"), ("strict", "strict", "strict"), ("0", "no", "no")],
    "ProtectHome": [("on", "yes", "yes"), ("tmpfs", "tmpfs", "tmpfs")],
    "ReadWritePaths": [("/a//b -/c -+/d", ("/a/b", "-/c", "-+/d"), "/a/b -/c -+/d")],
    "ReadOnlyPaths": [("'/a b' /a", ("/a b", "/a"), r"/a\ b /a")],
    "InaccessiblePaths": [("+/", ("+/",), "+/")],
    "ProtectProc": [("invisible", "invisible", "invisible")],
    "PrivateDevices": [("yes", True, "yes")],
    "ProtectKernelTunables": [("yes", True, "yes")],
    "ProtectKernelModules": [("yes", True, "yes")],
    "ProtectControlGroups": [("yes", True, "yes")],
    "ManagerAccess": [("yes", True, "yes")],
    "RestrictNamespaces": [
        ("true", ("yes",), "yes"),
        ("~user  mnt", ("~user mnt",), "~user mnt"),
        ("user\nno\n~net", ("no", "~net"), "no\n~net"),
    ],
    "RestrictAddressFamilies": [
        ("AF_UNIX AF_INET", ("AF_UNIX AF_INET",), "AF_UNIX AF_INET"),
        ("AF_UNIX\nnone", ("none",), "none"),
    ],
    "RestrictRealtime": [("yes", True, "yes")],
    "RestrictSUIDSGID": [("yes", True, "yes")],
    "LockPersonality": [("yes", True, "yes")],
    "MemoryDenyWriteExecute": [("yes", True, "yes")],
    "SystemCallArchitectures": [("native x86", ("native", "x86"), "native x86")],
    "AmbientCapabilities": [("CAP_NET_RAW", ("CAP_NET_RAW",), "CAP_NET_RAW")],
    "RootDirectory": [
        ("//srv/./root/", "/srv/root", "/srv/root"),
        ("/a b", "/a b", "/a b"),
        ("el7.9", "el7.9", "el7.9"),
    ],
    "RootEphemeral": [
        ("yes", "yes", "yes"),
        ("0", "no", "no"),
        ("/var/tmp//", "/var/tmp", "/var/tmp"),
    ],
    "BindPaths": [
        (
            r'/a\:b:/c "/my dir" -/q:/z:norbind',
            (
                Bind(source="/a:b", destination="/c"),
                Bind(source="/my dir", destination="/my dir"),
                Bind(source="/q", destination="/z", ignore_missing=True, recursive=False),
            ),
            r"/a\:b:/c /my\ dir -/q:/z:norbind",
        ),
    ],
    "BindReadOnlyPaths": [("/a", (Bind(source="/a", destination="/a"),), "/a")],
    "WorkingDirectory": [
        ("~", WorkingDirectory(path="~"), "~"),
        ("-/a/", WorkingDirectory(path="/a", missing_ok=True), "-/a"),
    ],
    "User": [("nobody", "nobody", "nobody"), ("1000", "1000", "1000")],
    "Group": [("wheel", "wheel", "wheel")],
    "Environment": [
        (
            r"""A="b c" 'D=\x41\tq' G=$HOME A=2""",
            (("A", "2"), ("D", "A\tq"), ("G", "$HOME")),
            r'A=2 "D=A\tq" "G=$HOME"',
        ),
    ],
    "KillSignal": [("INT", 2, "SIGINT"), ("9", 9, "SIGKILL")],
    "TimeoutStopSec": [("2s", Usec(2_000_000), "2s")],
    "LimitCPU": [("1500ms", ResourceLimit(soft=2, hard=2), "2")],
    "LimitRTTIME": [("5:7ms", ResourceLimit(soft=5, hard=7000), "5:7000")],
    "LimitNICE": [("+19:-20", ResourceLimit(soft=1, hard=40), "1:40")],
    "LimitNOFILE": [("1024:infinity", ResourceLimit(soft=1024, hard=INFINITY), "1024:infinity")],
    "LimitAS": [("4G:16G", ResourceLimit(soft=2**32, hard=2**34), "4294967296:17179869184")],
    "LimitCORE": [("0", ResourceLimit(soft=0, hard=0), "0")],
    "Slice": [("batch-night.slice", "batch-night.slice", "batch-night.slice")],
    "Nestable": [("on", True, "yes")],
    "Description": [("a  b %n $x", "a  b %n $x", "a  b %n $x")],
}
EXAMPLES |= {
    row.name: [("8:9", ResourceLimit(soft=8, hard=9), "8:9")]
    for row in ROWS
    if row.name.startswith("Limit") and row.name not in EXAMPLES
}
examples = pytest.mark.parametrize(
    ("name", "text", "value", "written"),
    [(name, *case) for name, cases in EXAMPLES.items() for case in cases],
)


def test_every_directive_that_was_asked_for_is_there_and_has_examples() -> None:
    assert set(REQUIRED) <= DIRECTIVES.keys() == EXAMPLES.keys()
    assert set(REQUIRED_OPTIONS) <= OPTIONS.keys()


@rows
def test_a_row_is_complete(row: Directive) -> None:
    assert re.fullmatch(r"[^\n]{5,90}", row.help)
    assert row.syntax.word
    assert row.syntax.noun
    assert row.syntax.hint
    assert row.section
    assert {"type", "enum"} & row.syntax.schema.keys()
    json.dumps(dict(row.syntax.schema))
    assert row.accumulates == isinstance(row.syntax, ListSyntax)
    assert all(name in DIRECTIVES for name in row.resets)
    assert (row.keeper() == "unit") == bool(row.unit)
    # Only what the kernel keeps through a controller can be read back.
    assert row.controller or not row.files
    assert row.since == 0 or row.since > 249


def test_options_are_unique() -> None:
    flags = [row.option.flag for row in ROWS if row.option]
    assert len(flags) == len(set(flags))
    assert all(re.fullmatch(r"--[a-z]+(-[a-z]+)*", flag) for flag in flags)


@examples
def test_text_is_read_and_written(name: str, text: str, value: Any, written: str) -> None:
    syntax = DIRECTIVES[name].syntax
    assert syntax.read(text, name) == value
    assert syntax.format(value) == written


@examples
def test_a_value_reads_back_from_every_form(name: str, text: str, value: Any, written: str) -> None:
    syntax = DIRECTIVES[name].syntax
    for form in (
        value,
        written,
        syntax.to_json(value),
        json.loads(json.dumps(syntax.to_json(value))),
    ):
        again = syntax.read(form, name)
        assert again == value
        assert type(again) is type(syntax.read(text, name))


BASIC = {"s": str, "i": int}


def fits(signature: str, value: Any) -> bool:
    """Whether `value` is one that D-Bus can marshal as `signature`."""
    if signature == "ay":
        return isinstance(value, bytes)
    if signature.startswith("a"):
        return isinstance(value, list) and all(fits(signature[1:], item) for item in value)
    if signature.startswith("("):
        pairs = zip(re.findall("a?.", signature[1:-1]), value, strict=True)
        return isinstance(value, list) and all(fits(part, item) for part, item in pairs)
    if signature == "u":
        return type(value) is int and 0 <= value < 2**32
    if signature == "t":
        return type(value) is int and 0 <= value < 2**64
    return type(value) is BASIC[signature]


@examples
def test_unit_properties_fit_their_signature(
    name: str, text: str, value: Any, written: str
) -> None:
    row = DIRECTIVES[name]
    resolved = row.resolve(value, {"memory": 2**34, "tasks": 32768})
    for made in row.unit(resolved) if row.unit else ():
        assert fits(made.signature, made.value), made


@pytest.mark.parametrize(
    ("name", "text", "made"),
    [
        ("MemoryMax", "512M", ("MemoryMax", "t", 2**29)),
        ("MemoryMax", "infinity", ("MemoryMax", "t", 2**64 - 1)),
        ("MemorySwapMax", "0", ("MemorySwapMax", "t", 0)),
        ("TasksMax", "5", ("TasksMax", "t", 5)),
        # systemd 252 shows 123.4 ms for 12.34%.
        ("CPUQuota", "12.34%", ("CPUQuotaPerSecUSec", "t", 123_400)),
        ("CPUWeight", "idle", ("CPUWeight", "t", 0)),
        ("AllowedCPUs", "0,9", ("AllowedCPUs", "ay", b"\x01\x02")),
        ("RuntimeMaxSec", "1.5", ("RuntimeMaxUSec", "t", 1_500_000)),
        ("TimeoutStopSec", "2min", ("TimeoutStopUSec", "t", 120_000_000)),
        ("KillSignal", "INT", ("KillSignal", "i", 2)),
        ("IOReadBandwidthMax", "/a 1K", ("IOReadBandwidthMax", "a(st)", [["/a", 1000]])),
        ("OOMPolicy", "kill", ("OOMPolicy", "s", "kill")),
        (
            "IPAddressAllow",
            "192.0.2.0/24 ::1",
            (
                "IPAddressAllow",
                "a(iayu)",
                [[2, b"\xc0\0\x02\0", 24], [10, bytes(15) + b"\x01", 128]],
            ),
        ),
        (
            "IPAddressDeny",
            "any",
            ("IPAddressDeny", "a(iayu)", [[2, bytes(4), 0], [10, bytes(16), 0]]),
        ),
        ("DevicePolicy", "strict", ("DevicePolicy", "s", "strict")),
        ("DeviceAllow", "/dev/a r", ("DeviceAllow", "a(ss)", [["/dev/a", "r"]])),
        ("Slice", "a.slice", ("Slice", "s", "a.slice")),
        ("Description", "x y", ("Description", "s", "x y")),
    ],
)
def test_unit_properties(name: str, text: str, made: tuple[str, str, Any]) -> None:
    row = DIRECTIVES[name]
    assert row.unit is not None
    name, signature, value = made
    expected = UnitProperty(name=name, signature=signature, value=value)
    assert row.unit(row.syntax.read(text, "")) == (expected,)


def test_what_a_unit_takes_and_init_does_is_settled() -> None:
    unit = {row.name for row in ROWS if row.keeper() == "unit"}
    assert unit == {
        "MemoryMax",
        "MemoryHigh",
        "MemorySwapMax",
        "TasksMax",
        "CPUQuota",
        "CPUWeight",
        "AllowedCPUs",
        "IOReadBandwidthMax",
        "IOWriteBandwidthMax",
        "IPAddressAllow",
        "IPAddressDeny",
        "DevicePolicy",
        "DeviceAllow",
        "RuntimeMaxSec",
        "OOMPolicy",
        "KillSignal",
        "TimeoutStopSec",
        "Slice",
        "Description",
    }


@pytest.mark.parametrize(
    ("name", "text", "file", "contents"),
    [
        ("MemoryMax", "1000001K", "memory.max", "1024000000"),
        ("MemoryMax", "2000K", "memory.max", "2031616"),
        ("MemoryMax", "infinity", "memory.max", "max"),
        ("MemoryHigh", "16M", "memory.high", "16777216"),
        ("MemorySwapMax", "0", "memory.swap.max", "0"),
        ("TasksMax", "7", "pids.max", "7"),
        ("TasksMax", "infinity", "pids.max", "max"),
        ("CPUQuota", "20%", "cpu.max", "20000 100000"),
        ("CPUQuota", "250%", "cpu.max", "250000 100000"),
        ("CPUQuota", "0.5%", "cpu.max", "1000 200000"),
        ("CPUQuota", "0.01%", "cpu.max", "1000 1000000"),
        ("CPUWeight", "50", "cpu.weight", "50"),
        ("CPUWeight", "idle", "cpu.idle", "1"),
        ("AllowedCPUs", "1,2,3,7", "cpuset.cpus", "1-3,7"),
    ],
)
def test_cgroup_files(
    name: str, text: str, file: str, contents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 65_536}.__getitem__)
    row = DIRECTIVES[name]
    assert row.files is not None
    assert row.files(row.syntax.read(text, "")) == (CgroupFile(name=file, contents=contents),)


def test_versions() -> None:
    assert DIRECTIVES["OOMPolicy"].needs_version("stop") == 253
    assert DIRECTIVES["CPUWeight"].needs_version("idle") == 252
    assert DIRECTIVES["CPUWeight"].needs_version(5) == 0
    assert DIRECTIVES["Environment"].needs_version((("A", "1"),)) == 0


def test_percentages_are_resolved_against_the_host() -> None:
    totals = {"memory": 2**34, "tasks": 1000}
    resolve = {row.name: row.resolve for row in ROWS}
    assert resolve["MemoryMax"](Percent(permyriad=5000), totals) == 2**33
    assert resolve["TasksMax"](Percent(permyriad=1250), totals) == 125
    assert resolve["TasksMax"](5, totals) == 5
    # CPUQuota is a share of one CPU and not of the host.
    assert resolve["CPUQuota"](Percent(permyriad=5000), totals) == Percent(permyriad=5000)


def test_a_share_that_is_too_small_on_this_host_is_refused() -> None:
    with pytest.raises(InvalidDirective, match=r"^MemoryMax \(0.01%\): "):
        DIRECTIVES["MemoryMax"].resolve(Percent(permyriad=1), {"memory": 2**30})


def _natural() -> list[tuple[str, Any, Any]]:
    from datetime import timedelta
    from signal import SIGUSR1

    span: _timedelta = timedelta(minutes=1, microseconds=1)
    return [
        ("MemoryMax", 512 * 2**20, 2**29),
        ("MemoryMax", 1e9, 10**9),
        ("MemoryMax", float("inf"), INFINITY),
        ("RuntimeMaxSec", 90, 90_000_000),
        ("RuntimeMaxSec", 1.5, 1_500_000),
        ("RuntimeMaxSec", span, 60_000_001),
        ("RuntimeMaxSec", float("inf"), INFINITY),
        ("PrivateTmp", True, "connected"),
        ("PrivateTmp", False, "no"),
        ("PrivatePIDs", True, True),
        ("CPUAffinity", [0, 1, "4-5"], (0, 1, 4, 5)),
        ("CPUAffinity", 3, (3,)),
        ("CPUAffinity", range(2), (0, 1)),
        ("CPUAffinity", {2, 1}, (1, 2)),
        ("Environment", {"A": "1", "B": 2}, (("A", "1"), ("B", "2"))),
        ("Environment", ["A=x y", "B= 'q' "], (("A", "x y"), ("B", " 'q' "))),
        ("Environment", {b"A": b"\xff"}, (("A", "\udcff"),)),
        ("BindPaths", ["/my dir:/data"], (Bind(source="/my dir", destination="/data"),)),
        ("BindPaths", Path("/srv"), (Bind(source="/srv", destination="/srv"),)),
        ("RootDirectory", PurePosixPath("/srv"), "/srv"),
        ("RootDirectory", b"/\xff", "/\udcff"),
        ("User", 1000, "1000"),
        ("KillSignal", SIGUSR1, 10),
        ("LimitNICE", -5, ResourceLimit(soft=25, hard=25)),
        ("LimitNOFILE", 5, ResourceLimit(soft=5, hard=5)),
        ("LimitNOFILE", INFINITY, ResourceLimit(soft=INFINITY, hard=INFINITY)),
        ("IOReadBandwidthMax", {"/a": "1K"}, (("/a", 1000),)),
        ("IPAddressAllow", ["localhost", "10.0.0.1/32"], ("localhost", "10.0.0.1")),
        ("DeviceAllow", ["/dev/fuse", "char-pts rw"], (("/dev/fuse", "rwm"), ("char-pts", "rw"))),
        ("DeviceAllow", {"/dev/fuse": "wr"}, (("/dev/fuse", "rw"),)),
        ("GPUs", 3, GPURequest(gpus=(3,))),
    ]


@pytest.mark.parametrize(("name", "raw", "value"), _natural())
def test_natural_types(name: str, raw: Any, value: Any) -> None:
    assert DIRECTIVES[name].syntax.read(raw, name) == value


BAD: list[tuple[str, Any, str]] = [
    ("MemoryMax", "12x", '"12x" is not a size. Give bytes with an optional suffix K, M, G or T, a'),
    ("MemoryMax", "0", "Give more than 0"),
    ("MemoryMax", 0, "Give more than 0"),
    ("MemoryMax", "0%", "Give more than 0"),
    ("MemoryMax", "", "is not a size"),
    ("MemoryMax", "-1", "is not a size"),
    ("MemoryMax", -1, "is not a size"),
    ("MemoryMax", "123bogus", "is not a size"),
    ("MemoryMax", 2**64, "is too large"),
    ("MemoryMax", "18446744073709551616", "is too large"),
    ("MemoryMax", "1048575", "Give at least 1M"),
    ("MemoryMax", "101%", "at most 100%"),
    ("MemoryMax", float("nan"), "is not a size"),
    ("MemoryMax", 1e300, "is too large"),
    ("MemoryMax", None, "None is not a size"),
    ("MemoryMax", True, "is not a size"),
    ("MemoryMax", [1], "is not a size"),
    ("MemoryHigh", "0", "Give more than 0"),
    ("MemorySwapMax", "5%", "is not a size"),
    ("TasksMax", "0", "Give more than 0"),
    ("TasksMax", "5K", "is not a number of tasks"),
    ("TasksMax", "010", "would take it for octal"),
    ("MemoryHigh", "08%", "would take it for octal"),
    ("CPUQuota", "010.5%", "would take it for octal"),
    ("CPUAffinity", "0-07", "would take it for octal"),
    ("CPUQuota", "0%", "Give more than 0"),
    ("CPUQuota", 200, "such as 50%"),
    ("CPUWeight", "0", "1 to 10000"),
    ("CPUWeight", "10001", "1 to 10000"),
    ("RuntimeMaxSec", "0", "infinity for no limit"),
    ("RuntimeMaxSec", -1.5, "is not a span of time"),
    ("CPUAffinity", "numa", "List the CPUs"),
    ("CPUAffinity", True, "is not a CPU"),
    ("CPUAffinity", [[0]], "is not a CPU"),
    ("BindPaths", ["/a\0b"], "NUL"),
    ("BindPaths", "rel", "absolute"),
    ("BindPaths", ["/a", ["/b"]], "is not a bind mount"),
    ("Environment", "A", "NAME=VALUE"),
    ("Environment", {"A": None}, "is not a variable"),
    ("Environment", {"A": True}, "boolean"),
    ("Environment", 'A=1 ""', "empty item"),
    ("Environment", '""', "empty item"),
    ("Environment", {"A": "\ud800"}, "surrogate"),
    ("RootDirectory", "", "absolute"),
    ("RootDirectory", "./el7", "absolute"),
    ("RootDirectory", "..", "absolute"),
    ("RootDirectory", "a b", "absolute"),
    ("RootEphemeral", "tmp", "Give yes for memory"),
    ("RootEphemeral", "/a/../b", "Write out the path"),
    ("AssignedCPUs", "", "Give how many"),
    ("AssignedCPUs", ",", "Give how many"),
    ("AssignedCPUs", "0", "Give more than 0"),
    ("AssignedCPUs", "9000", "more than Linux can have"),
    ("AssignedCPUs", "2-1", "smaller number first"),
    ("AssignedCPUs", "1.5", "is not a number of CPUs"),
    ("AssignedCPUs", [0, 1], "Give how many"),
    ("User", "", "is not a user's"),
    ("PrivateTmp", "tmpfs", "disconnected"),
    ("DiskMax", "0", "Give more than 0"),
    ("DiskMax", "10%", "is not a size"),
    ("PrivateTmpSize", "infinity", "is not a size"),
    ("ScratchDirectory", "dir", "is not an absolute path"),
    ("MountUnderScratch", ["tmp"], "is not an absolute path"),
    ("MountUnderScratch", "/", "which nothing can be mounted on"),
    ("TemporaryFileSystem", "/a:bogus", "an option that no tmpfs takes"),
    ("TemporaryFileSystem", "/a:size=x", "an option that no tmpfs takes"),
    ("TemporaryFileSystem", "/a:b:c", "more than one colon"),
    ("TemporaryFileSystem", "/", "which nothing can be mounted on"),
    ("MountImages", "/a", "has no destination"),
    ("MountImages", "/a:/b:rw", "mounted ro"),
    ("MountImages", "/a:/b:usr:ro", "an option that no image takes"),
    ("LimitNOFILE", "5:3", "soft limit above the hard"),
    ("Slice", "batch", "batch.slice"),
    ("Description", "two\nlines", "one line"),
    ("OOMPolicy", "", "continue, stop or kill"),
    ("IPAddressDeny", "example.org", "is not an address. Give 192.0.2.1"),
    ("IPAddressDeny", "10.0.0.0/255.0.0.0", "is not an address"),
    ("IPAddressDeny", "10.0.0.0/33", "is not an address"),
    ("IPAddressDeny", "10.0.0.0/", "is not an address"),
    ("IPAddressDeny", "10.0.0.0/-1", "is not an address"),
    ("IPAddressDeny", "10.0.0.1,10.0.0.2", "is not an address"),
    ("IPAddressDeny", "010.0.0.1", "is not an address"),
    ("IPAddressDeny", "fe80::1%lo", "is not an address"),
    ("IPAddressDeny", "::ffff:10.0.0.1", "would match nothing. Give the IPv4 address alone"),
    ("IPAddressDeny", "::ffff:0:0/96", "would match nothing"),
    ("IPAddressDeny", ["any", 3], "is not an address"),
    ("DevicePolicy", "open", "Give auto, closed or strict"),
    ("DeviceAllow", "/etc/passwd", "neither a path below /dev nor a group"),
    ("DeviceAllow", "/dev/../etc/shadow", '".." in it'),
    ("DeviceAllow", "/dev/", "neither a path below /dev nor a group"),
    ("DeviceAllow", "char-", "neither a path below /dev nor a group"),
    ("DeviceAllow", "char-a/b", "neither a path below /dev nor a group"),
    ("DeviceAllow", "fuse", "neither a path below /dev nor a group"),
    ("DeviceAllow", "/dev/null rx", "none of r, w and m"),
    ("DeviceAllow", "/dev/null r w", "is not a device"),
    ("DeviceAllow", '"/dev/a b" r', "blank"),
    ("DeviceAllow", "/dev/a\u00a0b", "blank"),
    ("GPUs", "", "or none"),
    ("GPUs", [0, 1], "as in 0,2-3"),
    ("DeviceAllow", r"'char-a\\*'", "backslash"),
    ("GPUs", "none,1", "is not a choice of GPUs"),
    ("GPUs", "-1", "is not a choice of GPUs"),
    ("GPUs", "all", "is not a choice of GPUs"),
    ("GPUs", "numa", "is not a choice of GPUs"),
    ("GPUs", "0,9000", "GPUs are 0 to 1023"),
    ("GPUs", "3-1", "smaller number first"),
    ("CPUAffinity", "0-9000", "CPUs are 0 to 8191"),
    ("GPUs", True, "is not a choice of GPUs"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "raw", "message"), BAD)
def test_a_bad_value_is_one_clear_line(name: str, raw: Any, message: str) -> None:
    with pytest.raises(InvalidDirective) as caught:
        DIRECTIVES[name].syntax.read(raw, "--where")
    line = str(caught.value)
    assert line.startswith("--where: ")
    assert message in line
    assert caught.value.hint
    assert line.isprintable()
    assert len(line) < 250


@rows
@given(raw=st.text() | st.binary() | st.integers() | st.floats() | st.lists(st.text()))
@example(raw="9" * 10_000)
@example(raw=" ")
@example(raw=[])
def test_anything_is_read_or_refused_and_what_is_read_reads_back(row: Directive, raw: Any) -> None:
    try:
        value = row.syntax.read(raw, row.name)
    except InvalidDirective as error:
        if not (str(error).isprintable() and error.hint):
            raise
        return
    assert row.syntax.read(row.syntax.format(value), row.name) == value
    assert row.syntax.read(row.syntax.to_json(value), row.name) == value
    assert row.syntax.read(value, row.name) == value


word = st.text(alphabet="/:-\\'\" ,=%.0123456789KMGhsmin\tabö\udcff$", max_size=20)


@rows
@given(raw=word | st.lists(word))
def test_nearly_right_text_reads_back(row: Directive, raw: Any) -> None:
    try:
        value = row.syntax.read(raw, row.name)
    except InvalidDirective:
        return
    assert row.syntax.read(row.syntax.format(value), row.name) == value
    assert row.syntax.read(row.syntax.to_json(value), row.name) == value


segment = st.text(alphabet="ab :\\'\"ö\udcff\n\t-", min_size=1, max_size=8)
any_path = st.lists(segment, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
binds = st.builds(
    lambda source, destination, missing, recursive: Bind(
        source=source, destination=destination, ignore_missing=missing, recursive=recursive
    ),
    any_path,
    any_path,
    st.booleans(),
    st.booleans(),
)


@given(st.lists(binds))
def test_binds_of_any_path_read_back(wanted: list[Bind]) -> None:
    syntax = DIRECTIVES["BindPaths"].syntax
    value = tuple(dict.fromkeys(wanted))
    for form in (value, syntax.format(value), syntax.to_json(value)):
        assert syntax.read(form, "") == value


variable_text = st.binary(max_size=12).map(
    lambda b: b.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)


@given(st.dictionaries(variable_text.filter(lambda n: n and "=" not in n), variable_text))
def test_any_environment_reads_back(environment: dict[str, str]) -> None:
    syntax = DIRECTIVES["Environment"].syntax
    value = tuple(environment.items())
    for form in (environment, value, syntax.format(value), syntax.to_json(value)):
        assert syntax.read(form, "") == value


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Nonsense", "`sdbox run --help`"),
        ("memorymax", "Did you mean MemoryMax? "),
        ("MemoryMx", "Did you mean MemoryMax? "),
        ("PrivatePids", "Did you mean PrivatePIDs? "),
        ("", "sdbox run --help"),
        ("a\nb" * 100, "sdbox run --help"),
    ],
)
def test_an_unknown_directive_names_the_closest(name: str, hint: str) -> None:
    with pytest.raises(InvalidDirective, match="no such directive") as caught:
        find(name)
    assert hint in caught.value.hint
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("flag", "raw", "value"),
    [
        ("--memory", "1G", 2**30),
        ("--private-tmp", "yes", "connected"),
        ("--network", "none", True),
        ("--network", "host", False),
        ("--bind", "/my dir:/b", (Bind(source="/my dir", destination="/b"),)),
        ("--bind-ro", r"/a\:b", (Bind(source="/a:b", destination="/a:b"),)),
        ("--bind", "/it's", (Bind(source="/it's", destination="/it's"),)),
        ("--env", "A='b' c\\n", (("A", "'b' c\\n"),)),
        ("--env", "HERE", (("HERE", "here = there"),)),
        ("--env", "EMPTY", (("EMPTY", ""),)),
        ("--cpu-affinity", "0,2-3", (0, 2, 3)),
        ("--mount-under-scratch", "/tmp, /var/tmp", ("/tmp", "/var/tmp")),
        ("--tmpfs", "/my dir:ro", (Tmpfs(path="/my dir", options=("ro",)),)),
        ("--image", "/my i:/b", (MountImage(source="/my i", destination="/b"),)),
    ],
)
def test_options_take_raw_text(flag: str, raw: str, value: Any) -> None:
    environment = {"HERE": "here = there", "EMPTY": ""}
    said = option_value(flag, raw, environment)
    assert OPTIONS[flag].syntax.read(said, flag) == value


@pytest.mark.parametrize("flag", sorted(OPTIONS))
def test_an_option_with_nothing_in_it_is_refused(flag: str) -> None:
    with pytest.raises(InvalidDirective, match=rf'^{flag}: "" says nothing'):
        option_value(flag, "", {})


@pytest.mark.parametrize(
    ("flag", "raw", "message"),
    [("--network", "bridge", "Give none or host"), ("--env", "NOT_THERE", "NAME=VALUE")],
)
def test_an_option_that_says_nothing_sensible(flag: str, raw: str, message: str) -> None:
    with pytest.raises(InvalidDirective, match=message) as caught:
        option_value(flag, raw, {})
    assert str(caught.value).startswith(f'{flag}: "{raw}"')
