from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.box import Box
from sdbox.directives import DIRECTIVES
from sdbox.errors import InvalidDirective
from sdbox.values import INFINITY, Bind

ONE_OF_MANY: dict[str, list[Any]] = {
    "MemoryMax": ["512M", "1G", "50%", "infinity"],
    "MemorySwapMax": ["0", "1G"],
    "CPUAffinity": ["0", "1-2", "", ["", "5"], []],
    "AllowedCPUs": ["0", "3", ""],
    "PrivateTmp": [True, False, "disconnected"],
    "BindPaths": ["/a", "/a:/b /c", "", ["", "/d:/e"]],
    "BindReadOnlyPaths": ["/x", "/y:/z", "", []],
    "Environment": [{"A": "1"}, "A=2 B=3", {}, ["", "C=4"]],
    "IOReadBandwidthMax": ["/a 1K", ["/a 2K", "/b 3K"], ""],
    "User": ["root", "nobody"],
}
boxes = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(raws) for name, raws in ONE_OF_MANY.items()}
).map(Box.from_mapping)


def test_values_are_parsed_and_in_the_tables_order() -> None:
    box = Box(Slice="a.slice", PrivateTmp=True, MemoryMax="512M")
    assert list(box.directives.items()) == [
        ("MemoryMax", 2**29),
        ("PrivateTmp", "connected"),
        ("Slice", "a.slice"),
    ]


def test_a_box_does_not_change() -> None:
    box = Box(MemoryMax="512M")
    with pytest.raises(AttributeError):
        box.directives = {}
    with pytest.raises(AttributeError):
        del box.resets
    with pytest.raises(TypeError):
        box.directives["MemoryMax"] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        Box({"MemoryMax": "1M"})  # type: ignore[call-arg]


def test_names_and_values_that_there_are_not() -> None:
    with pytest.raises(InvalidDirective, match=r"^memory_max: no such directive"):
        Box(memory_max="1M")
    with pytest.raises(InvalidDirective, match=r'^MemoryMax: "12x" is not a size'):
        Box(MemoryMax="12x")


def test_the_upper_box_wins_and_lists_add_up() -> None:
    lower = Box(MemoryMax="1G", User="a", BindPaths="/a", Environment="A=1 B=1", CPUAffinity="0")
    upper = Box(MemoryMax="2G", BindPaths=["/b"], Environment={"A": "2"}, CPUAffinity=[2])
    assert lower.merge(upper) == Box(
        MemoryMax="2G", User="a", BindPaths="/a /b", Environment="A=2 B=1", CPUAffinity="0,2"
    )


def test_an_empty_assignment_empties_what_the_lower_box_says() -> None:
    lower = Box(BindPaths="/a", BindReadOnlyPaths="/b", Environment="A=1")
    merged = lower.merge(Box(BindPaths=""))
    # As systemd has it, an empty BindPaths empties both lists.
    assert dict(merged.directives) == {"Environment": (("A", "1"),)}
    merged = lower.merge(Box(BindPaths=["", "/c"], BindReadOnlyPaths="/d"))
    assert merged.directives["BindPaths"] == (Bind(source="/c", destination="/c"),)
    assert merged.directives["BindReadOnlyPaths"] == (Bind(source="/d", destination="/d"),)


def test_a_list_may_begin_anew_in_its_middle() -> None:
    assert Box(CPUAffinity=["1", "", "2", "", "3"]).directives["CPUAffinity"] == (3,)


@pytest.mark.parametrize(
    "name", sorted(set(DIRECTIVES) - {n for n in DIRECTIVES if DIRECTIVES[n].resets})
)
def test_only_lists_can_be_emptied(name: str) -> None:
    with pytest.raises(InvalidDirective):
        Box.from_assignment(f"{name}=")


@given(boxes, boxes, boxes)
def test_merging_is_associative_and_has_a_neutral_box(a: Box, b: Box, c: Box) -> None:
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(Box()) == a == Box().merge(a)
    assert a.merge(a).merge(a) == a.merge(a)


@given(boxes)
def test_a_box_reads_back(box: Box) -> None:
    again = Box.from_json(json.loads(json.dumps(box.to_json())))
    assert again == box
    assert hash(again) == hash(box)
    assert eval(repr(box), {"Box": Box}) == box  # noqa: S307 - the repr is the constructor
    assert pickle.loads(pickle.dumps(box)) == copy.deepcopy(box) == box  # noqa: S301


def test_repr_reads_as_the_constructor() -> None:
    box = Box(MemoryMax="1.5G", PrivateTmp=True, BindPaths="/a:/b")
    assert repr(box) == "Box(MemoryMax='1536M', PrivateTmp='yes', BindPaths=['/a:/b'])"
    assert repr(Box()) == "Box()"


def test_boxes_that_say_different_things_differ() -> None:
    assert Box(MemoryMax="1G") == Box(MemoryMax=2**30)
    assert Box(MemoryMax="1G") != Box(MemoryMax="2G")
    assert Box(BindPaths="") != Box()
    assert Box() != {}


def test_no_swap_where_memory_is_limited() -> None:
    assert Box(MemoryMax="1G").with_defaults().directives["MemorySwapMax"] == 0
    assert Box(MemoryMax="50%").with_defaults().directives["MemorySwapMax"] == 0
    assert (
        Box(MemoryMax="1G", MemorySwapMax="2G").with_defaults().directives["MemorySwapMax"] == 2**31
    )
    for box in (Box(), Box(MemoryMax="infinity"), Box(MemoryHigh="1G")):
        assert box.with_defaults() == box
    assert list(Box(MemoryMax="1G").with_defaults().directives) == ["MemoryMax", "MemorySwapMax"]


def test_percentages_are_resolved() -> None:
    box = Box(MemoryMax="50%", TasksMax="10%", CPUQuota="50%", User="a")
    assert box.resolve({"memory": 2**33, "tasks": 1000}) == Box(
        MemoryMax="4G", TasksMax=100, CPUQuota="50%", User="a"
    )


def test_one_assignment() -> None:
    assert Box.from_assignment("MemoryMax=512M") == Box(MemoryMax="512M")
    assert Box.from_assignment("Environment=A=b=c") == Box(Environment={"A": "b=c"})
    assert Box.from_assignment("BindPaths=") == Box(BindPaths=[])
    with pytest.raises(InvalidDirective, match='"MemoryMax" is not an assignment'):
        Box.from_assignment("MemoryMax")


def test_assignments_in_a_row_are_merged_boxes() -> None:
    box = Box(BindPaths="/default")
    for assignment in ("BindPaths=/a", "BindPaths=", "BindPaths=/b /c"):
        box = box.merge(Box.from_assignment(assignment))
    assert box.to_json() == {"BindPaths": ["", "/b", "/c"], "BindReadOnlyPaths": [""]}


def test_an_option_that_names_cpus_replaces_them() -> None:
    lower = Box(CPUAffinity="0-3")
    assert lower.merge(Box.from_option("--cpu-affinity", "1", {})).directives["CPUAffinity"] == (1,)
    assert lower.merge(Box.from_assignment("CPUAffinity=5")).directives["CPUAffinity"] == (
        *range(4),
        5,
    )


def test_errors_name_the_option_as_it_was_given() -> None:
    with pytest.raises(InvalidDirective, match=r'^--memory: "12x" is not a size'):
        Box.from_option("--memory", "12x", {})
    with pytest.raises(InvalidDirective, match=r'^--bind: "a" is not an absolute path'):
        Box.from_option("--bind", "a", {})
    with pytest.raises(InvalidDirective, match=r"^MemoryMax: "):
        Box.from_assignment("MemoryMax=12x")


@pytest.mark.parametrize("document", [[], "x", None, 5])
def test_what_is_no_json_box_is_refused(document: object) -> None:
    with pytest.raises(InvalidDirective, match="is not a box"):
        Box.from_json(document)


TYPES = {"string": str, "integer": int, "array": list, "boolean": bool, "number": float}


@given(boxes)
def test_json_follows_the_schema(box: Box) -> None:
    schema = json.loads(json.dumps(Box.json_schema()))
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == list(DIRECTIVES)
    for name, value in box.to_json().items():
        kinds = schema["properties"][name]["type"]
        kinds = [kinds] if isinstance(kinds, str) else kinds
        assert any(isinstance(value, TYPES[kind]) for kind in kinds if kind in TYPES), name


def test_infinity_is_a_value_like_others() -> None:
    assert Box(MemoryMax=INFINITY) == Box(MemoryMax="infinity")


def test_importing_a_box_imports_nothing_heavy() -> None:
    program = (
        "import sys; import sdbox.box, sdbox.config\n"
        "sdbox.box.Box(MemoryMax='1G', BindPaths='/a', RuntimeMaxSec=5)\n"
        "print(*{'typing', 'dataclasses', 'inspect', 're', 'enum', 'json', 'tomllib', 'logging',"
        " 'asyncio', 'difflib'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        timeout=60,
    )
    assert done.stdout.strip() == ""


def test_an_option_may_say_something_of_another_directive() -> None:
    box = Box.from_option("--allow-ip", "10.0.0.1", {}).merge(
        Box.from_option("--allow-ip", "localhost", {})
    )
    assert box == Box(IPAddressAllow=["10.0.0.1", "localhost"], IPAddressDeny="any")
    with pytest.raises(InvalidDirective, match=r"^--allow-ip: "):
        Box.from_option("--allow-ip", "example.org", {})
