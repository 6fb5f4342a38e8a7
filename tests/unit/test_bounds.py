"""Boxes in a box: how their slices are called, what they are told, and what may be asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sdbox.box import Box
from sdbox.errors import InvalidDirective, ManagerRefused, SdboxError, Unenforceable
from sdbox.host.facts import Host
from sdbox.nesting import bounds
from sdbox.plan import Plan, slices
from sdbox.plan.planner import Caller, make_plan
from sdbox.properties import UnitProperty

OUTSIDE = Host(
    manager="system",
    controllers=frozenset(("cpu", "memory", "pids")),
    memory_total_bytes=2**34,
    tasks_total=32768,
)
INSIDE = Host(
    manager="nested",
    controllers=OUTSIDE.controllers,
    memory_total_bytes=2**34,
    tasks_total=32768,
    slice="sdbox-a.slice",
    prefix="a.",
)
CALLER = Caller(environment={}, working_directory="/", home="/root")


def plan(box: Box, job: str = "j-1", host: Host = OUTSIDE, **others: Any) -> Plan:
    options = {"credentials": None, "caller": CALLER, **others}
    return make_plan(job=job, command=["true"], box=box, host=host, **options)


def names(properties: tuple[UnitProperty, ...]) -> set[str]:
    return {one.name for one in properties}


@pytest.mark.parametrize(
    ("above", "name", "slice_name"),
    [
        ("sdbox.slice", "a", "sdbox-a.slice"),
        ("sdbox.slice", "a-b.c_d:e", "sdbox-a\\x2db.c_d:e.slice"),
        ("batch-night.slice", "x", "batch-night-x.slice"),
        ("sdbox-a.slice", "b", "sdbox-a-b.slice"),
    ],
)
def test_a_slice_is_called_by_its_job(above: str, name: str, slice_name: str) -> None:
    assert slices.own_slice(above, name) == slice_name
    assert slices.slice_path(slice_name).startswith(slices.slice_path(above) + "/")
    assert slices.owns(slice_name, name)


@pytest.mark.parametrize(
    ("slice_name", "job", "expected"),
    [
        ("sdbox-a-b.slice", "a.b", True),
        ("sdbox-a-b-c.slice", "a.b.c", True),
        ("sdbox-a\\x2db.slice", "a-b", True),
        # A box inside of one that is not nestable, and one that begins like it.
        ("sdbox-a.slice", "a.b", False),
        ("sdbox-a.slice", "ab", False),
        ("sdbox.slice", "sdbox", False),
        ("sdbox.slice", "a", False),
    ],
)
def test_whose_slice_it_is_shows_in_its_name(slice_name: str, job: str, expected: bool) -> None:
    assert slices.owns(slice_name, job) is expected


def test_limits_are_the_slices_and_the_rest_the_units() -> None:
    box = Box(
        Nestable=True,
        MemoryMax="1G",
        CPUQuota="50%",
        RuntimeMaxSec="1h",
        KillSignal="INT",
        IPAddressDeny="any",
    )
    made = plan(box)
    assert made.own_slice is not None
    assert made.own_slice.name == made.whole == "sdbox-j\\x2d1.slice"
    assert made.tree == "/sdbox.slice/sdbox-j\\x2d1.slice"
    assert made.cgroup == f"{made.tree}/sdbox-j-1.scope"
    limits = {"MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec"}
    both = {"Description", "IPAddressDeny"}
    assert names(made.own_slice.properties) == {*limits, *both, "StopWhenUnneeded"}
    assert names(made.properties) == {*both, "Slice", "RuntimeMaxUSec", "KillSignal"}
    assert {file.name for file in made.files} == {"memory.max", "memory.swap.max", "cpu.max"}
    assert made.only is None
    assert Plan.from_plain(made.to_plain()).own_slice == made.own_slice


def test_a_box_that_is_not_nestable_is_as_it_was() -> None:
    made = plan(Box(MemoryMax="1G"))
    assert (made.own_slice, made.whole, made.tree) == (None, made.unit, made.cgroup)
    assert made.only == made.unit
    assert "MemoryMax" in names(made.properties)


def test_a_services_own_properties_stay_with_it() -> None:
    made = plan(Box(Nestable=True, TasksMax="5", PrivateNetwork=True), unit_type="service")
    assert made.own_slice is not None
    assert "PrivateNetwork" in names(made.properties)
    assert "TasksMax" in names(made.own_slice.properties)
    assert "TasksMax" not in names(made.properties)


def test_a_job_inside_is_called_by_the_box_around() -> None:
    made = plan(Box(), "b", INSIDE)
    assert (made.job, made.unit) == ("a.b", "sdbox-a.b.scope")
    assert made.cgroup == "/sdbox.slice/sdbox-a.slice/sdbox-a.b.scope"
    deeper = plan(Box(Nestable=True), "b", INSIDE)
    assert deeper.whole == "sdbox-a-b.slice"
    assert deeper.cgroup == "/sdbox.slice/sdbox-a.slice/sdbox-a-b.slice/sdbox-a.b.scope"


@pytest.mark.parametrize(
    ("box", "job", "host", "unit_type", "error", "text"),
    [
        (Box(Slice="other.slice"), "b", INSIDE, "scope", InvalidDirective, "not the slice of"),
        (Box(Slice="sdbox-x.slice"), "x", OUTSIDE, "scope", InvalidDirective, "of the box x"),
        (Box(Slice="-.slice", Nestable=True), "x", OUTSIDE, "scope", InvalidDirective, "below -"),
        (Box(Nestable=True), "-" * 100, OUTSIDE, "scope", InvalidDirective, "is longer"),
        (Box(), "b", INSIDE, "service", Unenforceable, "--service"),
        (Box(), "b" * 199, INSIDE, "scope", InvalidDirective, "is not a job's id"),
    ],
)
def test_what_can_not_be_is_refused(
    box: Box, job: str, host: Host, unit_type: str, error: type[SdboxError], text: str
) -> None:
    with pytest.raises(error) as caught:
        plan(box, job, host, unit_type=unit_type)
    assert text in str(caught.value)
    assert caught.value.hint


def request(made: Plan) -> Any:
    """What sdbox itself asks for, as it arrives."""
    own = made.own_slice and [made.own_slice.name, bounds.to_plain(made.own_slice.properties)]
    return json.loads(json.dumps([made.unit, bounds.to_plain(made.properties), own]))


FULL = Box(
    MemoryMax="1G",
    MemoryHigh="900M",
    TasksMax="5",
    CPUQuota="50%",
    CPUWeight="20",
    RuntimeMaxSec="1h",
    KillSignal="INT",
    TimeoutStopSec="3s",
    OOMPolicy="continue",
    Description="ä b",
)


@pytest.mark.parametrize("nestable", [False, True])
def test_what_sdbox_asks_for_is_allowed_and_arrives(nestable: bool) -> None:
    host = Host(
        manager="nested",
        controllers=OUTSIDE.controllers | {"cpuset", "io"},
        memory_total_bytes=2**34,
        tasks_total=32768,
        slice="sdbox-a.slice",
        prefix="a.",
    )
    box = FULL.merge(Box(Nestable=nestable, AllowedCPUs="0-9", IOReadBandwidthMax="/dev/null 1M"))
    made = plan(box, "b", host)
    start = started(request(made))
    assert start.unit == made.unit
    assert start.properties == made.properties
    assert start.own_slice == made.own_slice


def started(document: Any) -> bounds.Start:
    """What is asked for, read and checked."""
    start = bounds.read_start(document)
    bounds.check_start(start, prefix="a.", slices={"sdbox-a.slice"})
    return start


def asked(**changes: Any) -> Any:
    """A good request, changed."""
    fields: dict[str, Any] = {
        "unit": "sdbox-a.b.scope",
        "properties": [["Slice", "sdbox-a.slice"]],
        "own": None,
    }
    return list((fields | changes).values())


OWN = "sdbox-a-b.slice"
IN_OWN = [["Slice", OWN]]
GOES = ["StopWhenUnneeded", True]


def test_the_requests_that_are_changed_below_are_good() -> None:
    assert started(asked()).own_slice is None
    good = asked(properties=IN_OWN, own=[OWN, [GOES]])
    assert started(good).own_slice is not None


@pytest.mark.parametrize(
    "document",
    [
        # Units that are not the box's to start.
        *(
            asked(unit=unit)
            for unit in (
                *("sdbox-a.scope", "sdbox-b.scope", "sdbox-a..service", "sdbox-a.b.service"),
                *("ssh.service", "a.b.scope", "sdbox-a.b", "sdbox-ab.scope"),
                *("sdbox-a.b/../x.scope", "sdbox-a.b\n.scope", "sdbox-a.*.scope", "", 7, None),
                f"sdbox-a.{'b' * 300}.scope",
            )
        ),
        # Slices that are not the box's, or none, or two.
        *(
            asked(properties=properties)
            for properties in (
                [],
                [["Slice", "sdbox.slice"]],
                [["Slice", "-.slice"]],
                [["Slice", "sdbox-ab.slice"]],
                [["Slice", OWN]],
                [["Slice", "sdbox-a.slice"], ["Slice", "sdbox.slice"]],
                [["Slice", 7]],
            )
        ),
        # Properties that reach out of the slice, or are not of that type.
        *(
            asked(properties=[["Slice", "sdbox-a.slice"], one])
            for one in (
                ["IPAddressAllow", [[2, [0, 0, 0, 0], 0]]],
                ["DeviceAllow", [["/dev/sda", "rwm"]]],
                ["Delegate", True],
                ["PIDs", [1]],
                ["PIDFDs", [0]],
                ["ExecStart", [["/bin/sh", ["sh"], False]]],
                ["User", "root"],
                ["After", ["x.service"]],
                ["OnFailure", ["x.service"]],
                ["Controller", ":1.1"],
                ["MemoryMax", -1],
                ["MemoryMax", 2**64],
                ["MemoryMax", True],
                ["MemoryMax", "1"],
                ["MemoryMax", 1.5],
                ["MemoryMax", 4096],
                ["KillSignal", 0],
                ["KillSignal", 65],
                ["Description", "a\nb"],
                ["Description", "x" * 2000],
                ["AllowedCPUs", [256]],
                ["AllowedCPUs", [0] * 2000],
                ["AllowedCPUs", "ff"],
                ["IOReadBandwidthMax", [["/dev/sda"]]],
                ["IOReadBandwidthMax", [["/dev/sda", "x"]]],
                ["StopWhenUnneeded", False],
                ["MemoryMax"],
                "MemoryMax",
                7,
            )
        ),
        # Slices of another's, that stay, or that are not where they should be.
        *(
            asked(properties=[["Slice", name]], own=[name, properties])
            for name, properties in (
                (OWN, []),
                (OWN, [["StopWhenUnneeded", False]]),
                (OWN, [GOES, ["IPAddressAllow", []]]),
                ("sdbox-b.slice", [GOES]),
                ("sdbox-a.slice", [GOES]),
                ("sdbox-a-c.slice", [GOES]),
                ("sdbox-a-x-b.slice", [GOES]),
                ("sdbox-a-.slice", [GOES]),
                ("system.slice", [GOES]),
                ("sdbox-a-b.slice.d", [GOES]),
            )
        ),
        asked(own=[OWN, [GOES]]),
        asked(properties=IN_OWN, own=[OWN]),
        asked(properties=IN_OWN, own="x"),
        asked(properties="x"),
        asked(properties={"Slice": "sdbox-a.slice"}),
        [],
        {},
        None,
        ["sdbox-a.b.scope"],
    ],
)
def test_no_request_gets_out_of_the_slice(document: Any) -> None:
    with pytest.raises(SdboxError):
        started(document)


def test_what_is_not_known_is_not_even_sent() -> None:
    one = UnitProperty(name="DevicePolicy", signature="s", value="auto")
    with pytest.raises(ManagerRefused, match="DevicePolicy") as caught:
        bounds.to_plain([one])
    assert caught.value.name == bounds.NOT_ALLOWED
