"""The layers: imports point one way, and what every launch pays for stays small."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sdbox

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(str(sdbox.__file__)).parent

# From the bottom up. A module may import its own layer and those below. What ends in a dot is a
# package, with all that is in it and is not named by itself.
LAYERS = {
    "init": ["init."],
    "pure": [
        "box", "directives.", "errors", "journal.events", "management.change",
        "management.jsontext", "messages", "nesting.bounds", "plan.", "properties", "record",
        "result", "syntax.", "values.", "verdict",
    ],
    "systems": [
        "bus", "cgroup", "config", "cpus.", "dial", "embedded.", "host.", "journal.", "kernel.",
        "loop.", "management.", "manager", "nesting.", "roots", "systemd.", "usage.", "watch.",
    ],
    "launcher": ["api", "doctor", "job", "launch.", "launcher"],
    "edges": ["", "__main__", "cli."],
}  # fmt: skip
LEVELS = {name: level for level, names in enumerate(LAYERS.values()) for name in names}

# Who may import what is not Python's own.
OTHERS = {"dbus_next": "bus", "psutil": "usage.memory", "matplotlib": "usage.plot"}

# What pure modules have no use for.
IMPURE = {"asyncio", "ctypes", "select", "signal", "socket", "subprocess", "threading"}


@dataclass(frozen=True, kw_only=True)
class Import:
    """One name that a module imports. `at_once`: when the module itself is imported."""

    name: str
    at_once: bool
    for_types: bool = False


@cache
def modules() -> dict[str, Path]:
    """All modules by their names below the package; the package itself has none."""
    return {name_of(path): path for path in PACKAGE.rglob("*.py")}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(module: str) -> tuple[Import, ...]:
    tree = ast.parse(modules()[module].read_text())
    return tuple(found(tree, at_once=True, for_types=False))


def found(node: ast.AST, *, at_once: bool, for_types: bool) -> Iterator[Import]:
    for name in named(node):
        yield Import(name=name, at_once=at_once and not for_types, for_types=for_types)
    inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    body = node.body if isinstance(node, ast.If) else ()
    for child in ast.iter_child_nodes(node):
        yield from found(
            child,
            at_once=at_once and not inside,
            for_types=for_types or (checking and child in body),
        )


def named(node: ast.AST) -> Iterator[str]:
    """The modules that one statement or call imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports are not the style here"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if below(whole) in modules() else str(node.module)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
        ("import_module", "find_spec", "__import__")
    ):
        first = node.args[0]
        if isinstance(first, ast.Constant):
            yield str(first.value)


def below(name: str) -> str | None:
    """A module of the package by its name there."""
    top, _, rest = name.partition(".")
    return rest if top == "sdbox" else None


def own(module: str, *, for_types: bool = False) -> set[str]:
    """The modules of the package that a module imports while it runs."""
    names = (one.name for one in imports(module) if for_types or not one.for_types)
    return {rest for name in names if (rest := below(name)) is not None and rest in modules()}


def level(module: str) -> int:
    package = module.partition(".")[0] + "."
    return LEVELS[module] if module in LEVELS else LEVELS[package]


def test_every_module_has_a_layer() -> None:
    unknown = [m for m in modules() if m not in LEVELS and m.partition(".")[0] + "." not in LEVELS]
    assert unknown == []
    gone = [m for m in LEVELS if not m.endswith(".") and m not in modules()]
    assert gone == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_one_way(module: str) -> None:
    # The package itself may be imported by all: it holds names and imports nothing at once.
    above = {name for name in own(module) - {""} if level(name) > level(module)}
    assert above == set()


def test_the_package_imports_nothing_at_once() -> None:
    assert own("") == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: own(module) - {""} for module in modules()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(modules())


def test_no_folder_imports_itself_by_way_of_others() -> None:
    graph: dict[str, set[str]] = {}
    for module in modules():
        folder = module.partition(".")[0]
        others = {name.partition(".")[0] for name in own(module) - {""}}
        graph.setdefault(folder, set()).update(others - {folder})
    assert {"cli", "launch", "kernel", "bus"} <= graph.keys()
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


@pytest.mark.parametrize("module", sorted(modules()))
def test_who_imports_what_is_not_pythons(module: str) -> None:
    tops = {one.name.partition(".")[0] for one in imports(module)}
    others = tops - sys.stdlib_module_names - {"sdbox"}
    assert {OTHERS.get(name) for name in others} <= {module}


def test_only_the_bus_knows_of_dbus_next() -> None:
    alias = {m for m in modules() if any("_dbus_next" in one.name for one in imports(m))}
    plain = {m for m in modules() if any(one.name[:9] == "dbus_next" for one in imports(m))}
    assert alias == plain == {"bus"}


PURE = [name for name in sorted(modules()) if level(name) == LEVELS["box"]]


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_nothing_of_the_system(module: str) -> None:
    tops = {one.name.partition(".")[0] for one in imports(module) if not one.for_types}
    # The verdict reads the status of wait(2), which is numbers, and names signals.
    assert tops & IMPURE <= ({"signal"} if module in ("values.names", "verdict") else set())


@pytest.mark.parametrize("module", [name for name in sorted(modules()) if name[:5] == "init."])
def test_init_is_of_the_standard_library(module: str) -> None:
    for one in imports(module):
        top = one.name.partition(".")[0]
        assert top in sys.stdlib_module_names or one.name.startswith("sdbox.init")


def loaded(statement: str, *, with_site: bool = False) -> set[str]:
    """The modules that a new interpreter has after a statement."""
    program = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {statement};"
        " print(*sys.modules, sep='\\n')"
    )
    options = ["-I"] if with_site else ["-I", "-S"]
    done = subprocess.run(
        [sys.executable, *options, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_a_statement_loads_what_it_says() -> None:
    assert {"asyncio", "sdbox.errors"} <= loaded("import asyncio, sdbox.errors")


def test_the_package_alone_costs_nothing() -> None:
    assert loaded("import sdbox") - loaded("pass") == {"sdbox", "__future__"}


# What a statement that is on the way of every launch must not import.
COSTS = {
    # A helper is forked or started for each launcher, an init for each job.
    "import sdbox.init.helper": {
        *("asyncio", "contextlib", "dataclasses", "inspect", "pathlib", "re", "subprocess"),
        *("threading", "typing", "dbus_next", "psutil", "sdbox.errors", "sdbox.bus"),
    },
    # Until there are two processes to import more.
    "import sdbox.cli.front": {"argparse", "re", "typing", "sdbox.directives", "sdbox.loop.small"},
    # Until init has begun to prepare itself.
    "import sdbox.cli.front; import sdbox.cli.run": {
        *("typing", "dataclasses", "inspect"),
        *("asyncio", "dbus_next", "json", "pathlib", "psutil", "ssl", "subprocess", "threading"),
        *("ipaddress", "sdbox.values.addresses", "sdbox.values.devices"),
        *("sdbox.host.gpus", "sdbox.host.nodes"),
        *("tomllib", "sdbox.bus", "sdbox.job", "sdbox.launcher", "sdbox.embedded.control"),
    },
    "from sdbox.cli.run import parse; parse(['--memory=1G', 'true'])": {"locale"},
    "from sdbox import Box; Box(MemoryMax='1G')": {"asyncio", "dataclasses", "inspect", "typing"},
}


@pytest.mark.parametrize("statement", COSTS)
def test_what_every_job_pays_for(statement: str) -> None:
    assert loaded(statement) & COSTS[statement] == set()


def test_what_a_supervisor_pays_for() -> None:
    # By way of dbus_next's own package these would all be there.
    names = loaded("import sdbox.cli.supervise, sdbox.job", with_site=True)
    assert {"sdbox.bus", "sdbox.loop.small"} <= names
    assert names & {"asyncio", "logging", "inspect", "subprocess", "ssl", "threading"} == set()
    assert names & {"dbus_next", "xml.etree", "psutil", "matplotlib", "sdbox.doctor"} == set()
    assert names & {"sdbox.values.addresses", "sdbox.host.nodes", "sdbox.usage.series"} == set()
    assert names & {"sdbox.kernel.bpf", "sdbox.kernel.kmsg", "sdbox.cpus", "sdbox.watch"} == set()
