"""Whether the kernel has what keeps addresses and devices: asked of it, and believed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sdbox import embedded
from sdbox.box import Box
from sdbox.cgroup import Cgroup
from sdbox.errors import Unenforceable
from sdbox.host.facts import host_of
from sdbox.kernel import bpf
from sdbox.launch.beginning import begin
from sdbox.launch.planning import caller, plan_for
from sdbox.launcher import Launcher
from sdbox.record import replaced
from tests.conftest import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sdbox.plan import Plan
    from sdbox.properties import UnitType
    from tests.conftest import Sdbox, Site

FIREWALL = Box(IPAddressDeny="any")
DEVICES = Box(DevicePolicy="closed")

# Does without bpf(2) from now on, as all of its children do.
FORGO = """
import ctypes, os, struct, sys
sys.path[:] = {path!r}
from sdbox import embedded
from sdbox.kernel import bpf
number = bpf._BPF[os.uname().machine]
# struct sock_filter: load the call's number; if it is that, EPERM, else let it pass.
program = b"".join(struct.pack("HBBI", *words) for words in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000),
))
buffer = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None, use_errno=True)
SECCOMP, FILTER = 22, 2
wanted = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
if libc.prctl(SECCOMP, FILTER, ctypes.create_string_buffer(wanted)):
    sys.exit(os.strerror(ctypes.get_errno()))
"""
BOOT = (
    FORGO
    + """
embedded.start(name={name!r}, directory={directory!r})
"""
)


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("options", "programs"),
    [
        ([], set()),
        (["-pIPAddressDeny=any"], {"ingress", "egress"}),
        (["-pIPAddressAllow=any"], {"ingress", "egress"}),
        (["-pDevicePolicy=closed"], {"device"}),
        (["-pDevicePolicy=strict"], {"device"}),
        (["-pDevicePolicy=auto"], set()),
        (["-p", "DeviceAllow=/dev/null r"], {"device"}),
    ],
    ids=str,
)
def test_what_systemd_attaches(sdbox: Sdbox, options: list[str], programs: set[str]) -> None:
    """It is what a launch looks for, no more and no less."""
    running = sdbox.start(*options, "--", "sh", "-c", "echo; read line")
    running.line()
    with Cgroup.open(str(sdbox.cgroup(running.id))) as cgroup:
        found = {name for name in bpf._ATTACH if bpf.attached(cgroup.fd, name)}
    assert found == programs


@pytest.mark.parametrize(("box", "what"), [(FIREWALL, "addresses"), (DEVICES, "devices")], ids=str)
async def test_a_unit_without_is_refused(
    new_id: Callable[[], str], unit_type: UnitType, box: Box, what: str
) -> None:
    """As if systemd had gone on without, which it does: it is asked for less than is promised."""
    async with Launcher() as launcher:
        connection = launcher._connected()
        plan = plan_for(
            host_of(connection.endpoint),
            ["sh", "-c", "echo started"],
            box,
            job=new_id(),
            caller=caller(unit_type=unit_type),
            unit_type=unit_type,
        )
        less = tuple(one for one in plan.properties if one.name not in box.directives)
        weaker: Plan = replaced(plan, properties=less)
        with pytest.raises(Unenforceable, match=f"without what keeps its {what}") as caught:
            await launcher.execute(begin(connection.helper, weaker, (0, 1, 2)))
        assert "CONFIG_CGROUP_BPF" in caught.value.hint
        await connection.manager.wait_removed(plan.unit, timeout=SECONDS)


@pytest.fixture
def deprived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[embedded.Embedded]:
    """A manager that can't attach anything."""
    name, directory = f"deprived-{tmp_path.name}", str(tmp_path / "state")
    program = BOOT.format(path=[*sys.path], name=name, directory=directory)
    subprocess.run([sys.executable, "-Ic", program], check=True, timeout=SECONDS)
    try:
        manager = embedded.find(name=name, directory=directory)
        assert manager is not None
        monkeypatch.setattr(embedded, "find", lambda: manager)
        yield manager
    finally:
        embedded.stop(force=True, name=name, directory=directory)


@pytest.mark.needs_embedded
@pytest.mark.parametrize(("box", "what"), [(FIREWALL, "addresses"), (DEVICES, "devices")], ids=str)
async def test_a_manager_that_goes_on_without_is_caught(
    deprived: embedded.Embedded,
    new_id: Callable[[], str],
    unit_type: UnitType,
    box: Box,
    what: str,
) -> None:
    async with Launcher(manager="embedded") as launcher:
        job = new_id()
        with pytest.raises(Unenforceable, match=f"without what keeps its {what}"):
            await launcher.start(["true"], box=box, id=job, unit_type=unit_type)
        unit = f"sdbox-{job}.{unit_type}"
        await launcher._connected().manager.wait_removed(unit, timeout=SECONDS)
        # Nor does it keep anybody from jobs that do without.
        assert (await launcher.run(["true"], id=new_id(), unit_type=unit_type)).exit_code == 0


def test_this_machine_can() -> None:
    assert bpf.missing() == ""


# Forgoes bpf(2), and then examines the machine.
EXAMINE = (
    FORGO
    + """
from sdbox.doctor import examine
kept = {{row.directive: row for row in examine("auto").directives}}
print(kept["GPUs"].kept_by, kept["IPAddressDeny"].kept_by, kept["CPUAffinity"].kept_by)
print(kept["DevicePolicy"].remedy)
"""
)


def test_doctor_tells(job_site: Site) -> None:
    program = EXAMINE.format(path=sys.path)
    done = subprocess.run(
        [sys.executable, "-Ic", program], check=True, timeout=SECONDS, stdout=subprocess.PIPE
    )
    who, remedy = done.stdout.decode().splitlines()
    assert who == "refused refused kernel"
    assert remedy.startswith("bpf(2): Operation not permitted. It takes a kernel with")
