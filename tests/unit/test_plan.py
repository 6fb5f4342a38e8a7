"""From a box and a host to what will be done, or to why it will not."""

from __future__ import annotations

import marshal
import os
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.box import Box
from sdbox.directives import DIRECTIVES
from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.host.facts import Host
from sdbox.host.users import Credentials
from sdbox.plan import Plan, check_version, properties_for
from sdbox.plan.keeping import keeper
from sdbox.plan.planner import Caller, check_id, make_plan, new_id
from sdbox.plan.slices import slice_path
from sdbox.record import replaced

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdbox.properties import UnitType

GIB = 1 << 30
ALL = frozenset({"cpu", "cpuset", "io", "memory", "pids"})
NONE: frozenset[str] = frozenset()
CALLER = Caller(environment={b"PATH": b"/bin"}, working_directory="/home", home="/root")

# One value for each directive that a controller keeps, and who keeps it where that is missing.
LIMITED = {
    "MemoryMax": ("1G", "watch"),
    "MemoryHigh": ("1G", None),
    "MemorySwapMax": ("1G", None),
    "TasksMax": ("10", "watch"),
    "CPUQuota": ("50%", None),
    "CPUWeight": ("10", None),
    "AllowedCPUs": ("0", None),
    "AssignedCPUs": ("1", "affinity"),
    "IOReadBandwidthMax": ("/ 1M", None),
    "IOWriteBandwidthMax": ("/ 1M", None),
}
# The others, and who keeps them everywhere.
UNLIMITED = {
    "RuntimeMaxSec": ("1h", "manager"),
    "KillSignal": ("SIGINT", "manager"),
    "TimeoutStopSec": ("5s", "manager"),
    "OOMPolicy": ("continue", "manager"),
    "Slice": ("batch.slice", "manager"),
    "Description": ("a job", "manager"),
    "CPUTimeMaxSec": ("10s", "watch"),
    "CPUAffinity": ("0", "kernel"),
    "PrivateTmp": ("yes", "kernel"),
    "PrivatePIDs": ("yes", "kernel"),
    "PrivateNetwork": ("yes", "kernel"),
    "RootDirectory": ("/srv", "kernel"),
    "WorkingDirectory": ("/srv", "kernel"),
    "LimitNOFILE": ("64", "kernel"),
    "Environment": ("A=1", "kernel"),
    "NoNewPrivileges": ("yes", "kernel"),
    "IPAddressAllow": ("localhost", "kernel"),
    "IPAddressDeny": ("any", "kernel"),
    "DevicePolicy": ("closed", "kernel"),
    "DeviceAllow": ("/dev/null rw", "kernel"),
    "GPUs": ("none", "kernel"),
}


def host(controllers: Iterable[str] = ALL) -> Host:
    return Host(
        manager="system",
        controllers=frozenset(controllers),
        memory_total_bytes=16 * GIB,
        tasks_total=1000,
    )


def plan(
    box: Box,
    controllers: Iterable[str] = ALL,
    *,
    job: str = "a",
    command: tuple[str, ...] = ("true",),
    credentials: Credentials | None = None,
    unit_type: UnitType = "scope",
    cpus: tuple[int, ...] | None = None,
    named_root: str | None = None,
    devices: tuple[tuple[str, str], ...] | None = None,
    project: tuple[int, int] | None = None,
) -> Plan:
    return make_plan(
        job=job,
        command=command,
        box=box,
        host=host(controllers),
        credentials=credentials,
        caller=CALLER,
        unit_type=unit_type,
        cpus=cpus,
        named_root=named_root,
        devices=devices,
        project=project,
    )


def values(plan: Plan, version: int | None = None) -> dict[str, object]:
    properties = plan.properties if version is None else properties_for(plan, version)
    names = [one.name for one in properties]
    assert len(names) == len(set(names)), "systemd would take the last one"
    return {one.name: one.value for one in properties}


def test_the_table_of_limits_is_whole() -> None:
    assert {name for name, row in DIRECTIVES.items() if row.controller} == set(LIMITED)


@pytest.mark.parametrize("name", LIMITED)
def test_a_limit_is_the_kernels_where_it_has_the_controller(name: str) -> None:
    text, _ = LIMITED[name]
    made = plan(Box.from_mapping({name: text}))
    assert made.enforcement[name] == "kernel"
    assert made.watched == {}


@pytest.mark.parametrize("name", [name for name, (_, kept) in LIMITED.items() if kept == "watch"])
def test_a_limit_is_watched_where_sdbox_can(name: str) -> None:
    text, _ = LIMITED[name]
    made = plan(Box.from_mapping({name: text}), ALL - {str(DIRECTIVES[name].controller)})
    assert made.enforcement == {name: "watch"}
    assert made.watched == {name: Box.from_json(made.box).directives[name]}
    assert made.files == (), "nothing of it can be read back"


@pytest.mark.parametrize("name", [name for name, (_, kept) in LIMITED.items() if kept is None])
def test_a_limit_is_refused_where_nobody_keeps_it(name: str) -> None:
    controller = DIRECTIVES[name].controller
    box = Box.from_mapping({name: LIMITED[name][0]})
    with pytest.raises(Unenforceable) as caught:
        plan(box, ALL - {str(controller)})
    assert str(caught.value) == (
        f"{name}: this host has no {controller} controller for its units. "
        f"Leave it out; `sdbox doctor` tells what keeps {controller} away"
    )


@pytest.mark.parametrize("name", UNLIMITED)
@pytest.mark.parametrize("controllers", [ALL, NONE], ids=["all", "none"])
def test_what_needs_no_controller_is_kept_everywhere(
    name: str, controllers: frozenset[str]
) -> None:
    text, kept = UNLIMITED[name]
    made = plan(Box.from_mapping({name: text}), controllers)
    assert made.enforcement == {name: kept}
    assert (name in made.watched) == (kept == "watch")


@pytest.mark.parametrize("controllers", [ALL, NONE], ids=["all", "none"])
def test_a_plan_says_for_each_directive_what_the_host_says(controllers: frozenset[str]) -> None:
    texts = {name: text for name, (text, _) in (LIMITED | UNLIMITED).items()}
    kept = {name: keeper(DIRECTIVES[name], host(controllers)) for name in texts}
    box = Box.from_mapping({name: text for name, text in texts.items() if kept[name]})
    enforcement = dict(plan(box, controllers).enforcement)
    assert enforcement == {name: by for name, by in kept.items() if by}


@pytest.mark.parametrize("name", ["MemoryMax", "MemoryHigh", "MemorySwapMax", "TasksMax"])
@pytest.mark.parametrize("controllers", [ALL, NONE], ids=["all", "none"])
def test_no_limit_is_kept_everywhere(name: str, controllers: frozenset[str]) -> None:
    made = plan(Box.from_mapping({name: "infinity"}), controllers)
    assert made.enforcement == {name: "kernel"}
    assert made.watched == {}
    # A file that is not there can't be read back.
    assert [file.contents for file in made.files] == (["max"] if controllers else [])


def test_cpus_that_are_assigned_are_kept_by_the_cpuset() -> None:
    made = plan(Box(AssignedCPUs=2, AllowedCPUs="0-3", CPUQuota="150%"), cpus=(1, 3))
    assert made.box["AssignedCPUs"] == "2"
    assert made.enforcement["AssignedCPUs"] == "kernel"
    assert made.cpus == (1, 3)
    assert made.cpu_limit == 1.5
    assert values(made)["AllowedCPUs"] == bytes([0b1010])
    assert ("cpuset.cpus", "1,3") in [(file.name, file.contents) for file in made.files]


@pytest.mark.parametrize("unit_type", ["scope", "service"])
def test_cpus_that_are_assigned_are_kept_by_affinity_otherwise(unit_type: UnitType) -> None:
    made = plan(Box(AssignedCPUs=2), NONE, cpus=(1, 3), unit_type=unit_type)
    assert made.enforcement == {"AssignedCPUs": "affinity"}
    assert made.cpu_limit == 2
    assert made.watched == {}
    assert "AllowedCPUs" not in values(made)
    if unit_type == "service":
        assert values(made)["CPUAffinity"] == bytes([0b1010])
    else:
        assert ("CPUAffinity", {"cpus": [1, 3]}) in made.spec["process"]


@pytest.mark.parametrize(
    ("user", "box", "kept_by"),
    [
        (1000, {}, "quota"),
        (0, {}, "watch"),
        (0, {"CapabilityBoundingSet": "~CAP_SYS_RESOURCE"}, "quota"),
        (1000, {"AmbientCapabilities": "CAP_SYS_RESOURCE"}, "watch"),
    ],
)
def test_a_quota_binds_who_may_not_pass_it(user: int, box: dict[str, str], kept_by: str) -> None:
    whose = Credentials(uid=user, gid=user, groups=(), home="/", environment={})
    limited = Box(DiskMax="1G", ScratchDirectory="/scratch", **box)
    made = plan(limited, credentials=whose, project=(7, 2049))
    assert made.enforcement["DiskMax"] == kept_by
    # In any case it is measured, and begun with.
    assert made.watched == {"DiskMax": GIB}
    assert (made.project, made.spec["project"]) == ((7, 2049), (7, 2049, GIB))
    without = plan(limited, credentials=whose)
    assert (without.enforcement["DiskMax"], without.spec["project"]) == ("watch", None)


def test_a_roots_name_becomes_its_directory_which_is_looked_at() -> None:
    made = plan(Box(RootDirectory="el7"), named_root="/srv/roots/el7")
    assert made.box == {"RootDirectory": "el7"}
    assert (made.spec["root_directory"], made.spec["secure_root"]) == ("/srv/roots/el7", True)
    assert plan(Box(RootDirectory="/srv")).spec["secure_root"] is False


def test_no_limit_on_time_is_the_managers_to_keep() -> None:
    assert plan(Box(RuntimeMaxSec="infinity"), NONE).enforcement == {"RuntimeMaxSec": "manager"}


def test_what_is_read_back() -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    box = Box(
        MemoryMax=300 * page + 1,
        TasksMax=7,
        CPUQuota="50%",
        CPUWeight="idle",
        AllowedCPUs="0-2,4",
        RuntimeMaxSec="1h",
    )
    assert {file.name: file.contents for file in plan(box).files} == {
        "memory.max": str(300 * page),
        "memory.swap.max": "0",
        "pids.max": "7",
        "cpu.max": "50000 100000",
        "cpu.idle": "1",
        "cpuset.cpus": "0-2,4",
    }


def test_no_swap_where_memory_is_limited_and_the_kernel_can_keep_it() -> None:
    box = Box(MemoryMax="1G")
    by_kernel, by_watch = plan(box), plan(box, ALL - {"memory"})
    assert values(by_kernel)["MemorySwapMax"] == 0
    assert by_kernel.enforcement == {"MemoryMax": "kernel", "MemorySwapMax": "kernel"}
    assert "MemorySwapMax" not in values(by_watch)
    assert by_watch.enforcement == {"MemoryMax": "watch"}
    assert by_kernel.box == by_watch.box == box.to_json(), "the box is what was asked for"


@pytest.mark.parametrize(
    ("box", "swap"),
    [
        (Box(MemoryMax="1G", MemorySwapMax="2G"), 2 * GIB),
        (Box(MemoryMax="1G", MemorySwapMax="infinity"), 2**64 - 1),
        (Box(MemoryMax="infinity"), None),
        (Box(MemoryHigh="1G"), None),
        (Box(), None),
    ],
    ids=repr,
)
def test_swap_where_something_else_is_said(box: Box, swap: int | None) -> None:
    assert values(plan(box)).get("MemorySwapMax") == swap


def test_shares_are_of_this_host() -> None:
    made = plan(Box(MemoryMax="25%", MemoryHigh="12.5%", TasksMax="10%"))
    found = values(made)
    assert (found["MemoryMax"], found["MemoryHigh"], found["TasksMax"]) == (4 * GIB, 2 * GIB, 100)


def test_a_share_that_comes_to_nothing_is_refused() -> None:
    with pytest.raises(InvalidDirective, match=r"TasksMax \(0.01%\)"):
        plan(Box(TasksMax="0.01%"))


def test_a_share_is_the_limit_of_the_plan() -> None:
    assert plan(Box(MemoryMax="25%")).memory_limit_bytes == 4 * GIB
    assert plan(Box(MemoryMax="25%"), NONE).watched == {"MemoryMax": 4 * GIB}


def test_the_properties_of_an_empty_box() -> None:
    made = plan(Box(), job="j1", command=("sh", "-c", "exit 7"))
    assert [(one.name, one.signature, one.value) for one in made.properties] == [
        ("Slice", "s", "sdbox.slice"),
        ("Description", "s", "sdbox job j1: sh -c exit 7"),
    ]
    assert made.enforcement == {}
    assert made.unit == "sdbox-j1.scope"
    assert made.cgroup == "/sdbox.slice/sdbox-j1.scope"


def test_slice_and_description_of_a_box() -> None:
    made = plan(Box(Slice="batch-night.slice", Description="nightly"))
    found = values(made)
    assert (found["Slice"], found["Description"]) == ("batch-night.slice", "nightly")
    assert made.cgroup == "/batch.slice/batch-night.slice/sdbox-a.scope"


def test_init_does_what_a_scope_refuses() -> None:
    box = Box(PrivateTmp=True, RootDirectory="/srv", CPUAffinity=0, LimitNOFILE=9, Environment="A=")
    assert set(values(plan(box))) == {"Slice", "Description"}


def service(box: Box, **given: Any) -> Plan:
    return plan(box, unit_type="service", **given)


def test_a_service_is_one() -> None:
    made = service(Box(), job="j1")
    assert (made.unit, made.unit_type) == ("sdbox-j1.service", "service")
    assert made.cgroup == "/sdbox.slice/sdbox-j1.service"


# Asked of systemd for a service, besides Slice and Description, by its version.
OF_A_SERVICE = [
    (Box(CPUAffinity="0,2"), 249, {"CPUAffinity": b"\x05"}),
    (Box(NoNewPrivileges=True), 249, {"NoNewPrivileges": True}),
    (Box(PrivateNetwork=True), 249, {"PrivateNetwork": True}),
    (Box(PrivatePIDs=True), 256, {}),
    (Box(PrivatePIDs=True), 257, {"PrivatePIDs": "yes"}),
    (Box(PrivateIPC=True, PrivateTmp=True, RootDirectory="/srv"), 257, {}),
    (Box(User="nobody", LimitNOFILE=9, Environment="A=", WorkingDirectory="/"), 257, {}),
    (Box(OOMPolicy="continue"), 249, {"OOMPolicy": "continue"}),
    (Box(RuntimeMaxSec=1), 249, {"RuntimeMaxUSec": 1_000_000}),
]


@pytest.mark.parametrize(("box", "version", "asked"), OF_A_SERVICE, ids=repr)
def test_systemd_does_what_it_can_for_a_service(
    box: Box, version: int, asked: dict[str, object]
) -> None:
    made = service(box)
    check_version(made, version)
    found = values(made, version)
    assert {name: found[name] for name in found.keys() - {"Slice", "Description"}} == asked


@pytest.mark.parametrize(("version", "policy"), [(242, None), (249, "kill"), (257, "kill")])
def test_a_service_that_is_out_of_memory_ends(version: int, policy: str | None) -> None:
    assert values(service(Box(MemoryMax="1G")), version).get("OOMPolicy") == policy


def test_a_plan_comes_through_whole() -> None:
    made = replaced(service(Box(PrivatePIDs=True, MemoryMax="1G")), spec={})
    assert Plan.from_plain(marshal.loads(marshal.dumps(made.to_plain()))) == made  # noqa: S302


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("a", "b\nc\x1b[1m"), "sdbox job a: a b c\ufffd[1m"),
        (("a\udcff", "ü"), "sdbox job a: a\ufffd ü"),
        (("x" * 107,), "sdbox job a: " + "x" * 107),
        (("x" * 108,), "sdbox job a: " + "x" * 106 + "…"),
    ],
    ids=["control", "not UTF-8", "longest", "longer"],
)
def test_a_description_is_one_printable_line(command: tuple[str, ...], expected: str) -> None:
    assert values(plan(Box(), command=command))["Description"] == expected
    assert len(expected) <= 120


OUT_OF_MEMORY = [
    (Box(MemoryMax="1G"), ALL, 252, None),
    (Box(MemoryMax="1G"), ALL, 253, "kill"),
    (Box(MemoryMax="1G"), ALL, 257, "kill"),
    (Box(MemoryMax="1G"), NONE, 257, None),
    (Box(MemoryMax="1G", OOMPolicy="stop"), ALL, 257, "stop"),
    (Box(MemoryMax="1G", OOMPolicy="continue"), ALL, 257, "continue"),
    (Box(OOMPolicy="continue"), NONE, 257, "continue"),
    (Box(MemoryHigh="1G"), ALL, 257, None),
    (Box(), ALL, 257, None),
]


@pytest.mark.parametrize(("box", "controllers", "version", "policy"), OUT_OF_MEMORY)
def test_who_is_out_of_memory_ends(
    box: Box, controllers: frozenset[str], version: int, policy: str | None
) -> None:
    made = plan(box, controllers)
    found = values(made, version)
    assert found.pop("OOMPolicy", None) == policy
    rest = values(made)
    rest.pop("OOMPolicy", None)
    assert found == rest, "nothing else depends on the version"


@pytest.mark.parametrize(
    ("policy", "ends"), [(None, True), ("stop", True), ("kill", True), ("continue", False)]
)
def test_whether_a_job_is_over_when_it_is_out_of_memory(policy: str | None, ends: bool) -> None:
    box = Box() if policy is None else Box(OOMPolicy=policy)
    assert plan(box).ends_when_out_of_memory == ends


@pytest.mark.parametrize(
    ("box", "version"),
    [
        (Box(MemoryMax="1G", RuntimeMaxSec=1, Slice="a.slice"), 249),
        (Box(OOMPolicy="kill"), 253),
        (Box(CPUWeight="idle"), 252),
        (Box(CPUWeight=100), 249),
    ],
    ids=repr,
)
def test_a_systemd_that_is_new_enough(box: Box, version: int) -> None:
    check_version(plan(box), version)


@pytest.mark.parametrize(
    ("box", "name", "needed"),
    [
        (Box(OOMPolicy="kill"), "OOMPolicy", 253),
        (Box(CPUWeight="idle"), "CPUWeight", 252),
    ],
    ids=repr,
)
def test_a_systemd_that_is_too_old(box: Box, name: str, needed: int) -> None:
    made = plan(box)
    with pytest.raises(Unenforceable) as caught:
        check_version(made, needed - 1)
    assert str(caught.value) == (
        f"{name}: systemd {needed - 1} can't set it on a scope. It needs systemd {needed}"
    )


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("sdbox.slice", "/sdbox.slice"),
        ("a-b.slice", "/a.slice/a-b.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        (r"a-b\x2dc.slice", r"/a.slice/a-b\x2dc.slice"),
        ("-.slice", ""),
    ],
)
def test_where_a_slice_is(name: str, path: str) -> None:
    assert slice_path(name) == path


def test_a_job_in_the_root_slice() -> None:
    assert plan(Box(Slice="-.slice")).cgroup == "/sdbox-a.scope"


@pytest.mark.parametrize("job", ["a", "A-1_b.c:d", "0" * 200, "-", "..", new_id()])
def test_ids(job: str) -> None:
    check_id(job)
    assert plan(Box(), job=job).unit == f"sdbox-{job}.scope"
    # UNIT_NAME_MAX, with the NUL at its end.
    assert len(f"sdbox-{job}.scope") < 256


@pytest.mark.parametrize(
    "job", ["", "a/b", "a b", "é", "a\n", "a@b", "a\\b", "a\0", "%i", "x" * 201]
)
def test_what_is_no_id(job: str) -> None:
    with pytest.raises(InvalidDirective, match=r"is not a job's id\. Give up to 200 letters"):
        plan(Box(), job=job)


def test_ids_differ() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(one.isalnum() for one in ids)


@pytest.mark.parametrize(
    ("box", "memory", "cpus", "wall", "stop"),
    [
        (Box(), None, None, None, 90.0),
        (
            Box(MemoryMax="2G", CPUQuota="150%", RuntimeMaxSec="1.5s", TimeoutStopSec="250ms"),
            2 * GIB,
            1.5,
            1.5,
            0.25,
        ),
        (
            Box(MemoryMax="infinity", RuntimeMaxSec="infinity", TimeoutStopSec="infinity"),
            None,
            None,
            None,
            float("inf"),
        ),
    ],
    ids=["empty", "limits", "no limits"],
)
def test_the_limits_of_a_plan(
    box: Box, memory: int | None, cpus: float | None, wall: float | None, stop: float
) -> None:
    made = plan(box)
    assert made.memory_limit_bytes == memory
    assert made.cpu_limit == cpus
    assert made.runtime_max_seconds == wall
    assert made.stop_seconds == stop


def test_init_is_spared_where_the_kernel_may_kill_for_memory() -> None:
    assert plan(Box()).spec["spare_init"] is True
    assert plan(Box(), ALL - {"memory"}).spec["spare_init"] is False


def test_a_plan_crosses_processes_as_plain_data() -> None:
    box = Box(MemoryMax="1G", IOReadBandwidthMax=["/ 1M"], CPUQuota="50%", RuntimeMaxSec=90)
    made = plan(box)
    plain = marshal.loads(marshal.dumps(made.to_plain()))  # noqa: S302
    again = Plan.from_plain(plain)
    assert replaced(again, command=made.command, spec=made.spec) == made


RULES = (("/dev/char/195:0", "rw"),)


@pytest.mark.parametrize(
    ("directives", "programs"),
    [
        ({}, ()),
        ({"IPAddressDeny": "any"}, ("ingress", "egress")),
        ({"IPAddressAllow": "localhost", "IPAddressDeny": "any"}, ("ingress", "egress")),
        ({"DevicePolicy": "closed"}, ("device",)),
        ({"DevicePolicy": "strict", "IPAddressDeny": "any"}, ("ingress", "egress", "device")),
        # It allows all, so systemd attaches nothing.
        ({"DevicePolicy": "auto"}, ()),
    ],
)
def test_what_has_to_be_on_the_cgroup(
    directives: dict[str, str], programs: tuple[str, ...]
) -> None:
    made = plan(Box.from_mapping(directives))
    assert made.programs == programs
    carried = marshal.loads(marshal.dumps(made.to_plain()))  # noqa: S302
    assert Plan.from_plain(carried).programs == programs


def test_rules_for_devices_are_those_that_were_looked_up() -> None:
    made = plan(Box(DeviceAllow="/dev/nvidia0 rw"), devices=RULES)
    assert values(made)["DeviceAllow"] == [["/dev/char/195:0", "rw"]]
    assert "DevicePolicy" not in values(made)
    assert made.programs == ("device",)
    assert made.box == {"DeviceAllow": ["/dev/nvidia0 rw"]}


@pytest.mark.parametrize(
    ("policy", "kept"), [(None, "closed"), ("auto", "closed"), ("strict", "strict")]
)
def test_gpus_close_the_box_to_all_other_devices(policy: str | None, kept: str) -> None:
    given = {} if policy is None else {"DevicePolicy": policy}
    made = plan(Box.from_mapping({"GPUs": "0", **given}), devices=RULES)
    assert values(made)["DevicePolicy"] == kept
    assert values(made)["DeviceAllow"] == [["/dev/char/195:0", "rw"]]
    assert made.enforcement["GPUs"] == "kernel"
    assert made.box == {"GPUs": "0", **given}
    assert plan(Box(GPUs="none"), devices=()).programs == ("device",)


LOOPS = (("/dev/char/10:237", "rw"), ("block-7", "r"))


@pytest.mark.parametrize(
    "rules",
    [(), LOOPS[:1], LOOPS[1:], (("/dev/char/10:237", "r"), LOOPS[1]), (LOOPS[0], ("block-8", "r"))],
    ids=str,
)
def test_a_closed_box_mounts_no_images(rules: tuple[tuple[str, str], ...]) -> None:
    box = Box(MountImages="/srv/a.img:/a", DevicePolicy="closed")
    with pytest.raises(Unenforceable, match="MountImages: the box may not open"):
        plan(box, devices=rules)
    with pytest.raises(Unenforceable, match="MountImages: the box may not open"):
        plan(Box(MountImages="/srv/a.img:/a", GPUs="none"), devices=rules)


@pytest.mark.parametrize("rules", [LOOPS, (("char-*", "rwm"), ("block-*", "r"))], ids=str)
def test_unless_it_has_loop_devices(rules: tuple[tuple[str, str], ...]) -> None:
    box = Box(MountImages="/srv/a.img:/a")
    assert plan(box).programs == ()
    closed = box.merge(Box(DevicePolicy="strict", DeviceAllow=list(map(" ".join, rules))))
    assert plan(closed, devices=rules).programs == ("device",)
