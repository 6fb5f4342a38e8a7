"""The table of directives: the one source of what a box can hold.

Command line, configuration, help, JSON schema, the translation to D-Bus and what is read back
from the cgroup all follow from a row. A directive is added by adding its row, and an operation
of init where a scope needs one.
"""

from __future__ import annotations

from types import MappingProxyType

from sdbox import syntax, translate
from sdbox.errors import InvalidDirective
from sdbox.filesystems import split_commas
from sdbox.names import flag_of, split_cpus
from sdbox.properties import CgroupFile, UnitProperty
from sdbox.record import record
from sdbox.values import Percent, Refused, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sdbox.properties import UnitType
    from sdbox.syntax import ListSyntax, Syntax


def _as_given(raw: str, environment: Mapping[str, str]) -> object:
    return raw


__all__ = ["DIRECTIVES", "OPTIONS", "CgroupFile", "Directive", "Option", "UnitProperty", "find"]


@record
class Option:
    """A directive's own command-line option."""

    flag: str
    metavar: str = ""
    """Stands for the value in help texts; the syntax's own word where empty."""
    constant: str | None = None
    """What the option says by being there; None where it takes a value."""
    repeats: bool = False
    also: Mapping[str, object] = MappingProxyType({})
    """What it says of other directives."""
    to_value: Callable[[str, Mapping[str, str]], object] = _as_given
    """Raw text and the caller's environment to what the directive reads; raises Refused."""


@record
class Directive:
    """One row: a setting under systemd's name, with systemd's meaning."""

    name: str
    syntax: Syntax | ListSyntax
    section: str
    help: str
    option: Option | None = None
    resets: tuple[str, ...] = ()
    """The directives that an empty assignment empties. Such a directive accumulates."""
    unit: Callable[[Any], tuple[UnitProperty, ...]] | None = None
    """The value as properties of the unit. Where it is None, init or a watch keeps it."""
    service: Callable[[Any], tuple[UnitProperty, ...]] | None = None
    """The value as properties that only a service takes, of which systemd does the same as init.

    Not those by which init itself could not start, or not be where it has work to do: what hides
    files from it, makes it another user or takes resources from it is always init's own work. Nor
    PrivateIPC=, for which systemd wants a /dev/mqueue to mount on, which containers lack.
    """
    since: int = 0
    """The first systemd that takes it on a scope; 0 where every supported one does."""
    since_values: Mapping[Any, int] = MappingProxyType({})
    """The same for values that came later."""
    controller: str | None = None
    """The cgroup controller that keeps it."""
    files: Callable[[Any], tuple[CgroupFile, ...]] | None = None
    """What to read back from the cgroup, where that can be known beforehand."""
    programs: Callable[[Any], tuple[str, ...]] | None = None
    """The BPF programs on the cgroup that keep the value, by sdbox.bpf's names."""
    watch: bool = False
    """Whether sdbox can keep it by watching where the controller is not there."""
    unmanaged: bool = False
    """Whether sdbox itself keeps what is the unit's, where there is no manager."""
    affinity: bool = False
    """Whether CPU affinity keeps it where the controller is not there."""
    share_of: str = ""
    """What a percentage is of: `memory` or `tasks`."""

    @property
    def accumulates(self) -> bool:
        """Whether assigning twice adds up instead of replacing."""
        return bool(self.resets)

    def keeper(self, unit_type: UnitType = "scope") -> str:
        """Who keeps it: `unit`, `init`, or `watch` where only sdbox can."""
        return "unit" if self.properties(unit_type) else "watch" if self.watch else "init"

    def properties(
        self, unit_type: UnitType = "scope"
    ) -> Callable[[Any], tuple[UnitProperty, ...]] | None:
        """The value as properties of a unit of that type, if systemd keeps it there."""
        return self.unit or (self.service if unit_type == "service" else None)

    def needs_version(self, value: Any, unit_type: UnitType = "scope") -> int:
        """The first systemd that takes this value; 0 where every supported one does."""
        return max(self.since if unit_type == "scope" else 0, self.since_values.get(value, 0))

    def resolve(self, value: Any, totals: Mapping[str, int]) -> Any:
        """`value` with a percentage made the number that it is on a host with these `totals`.

        `totals` has bytes of physical memory under `memory`, and the most tasks the system can
        have under `tasks`. Raises InvalidDirective where the number is one that is not taken.
        """
        if not self.share_of or not isinstance(value, Percent):
            return value
        return self.syntax.read(value.of(totals[self.share_of]), f"{self.name} ({value})")


def _one_item(raw: str, environment: Mapping[str, str]) -> list[str]:
    return [raw]


def _only_cpus(raw: str, environment: Mapping[str, str]) -> list[str]:
    # An option names the CPUs that are meant, not some more of them: it resets what was before.
    return ["", *split_cpus(raw)]


def _only_capabilities(raw: str, environment: Mapping[str, str]) -> list[str]:
    return ["~" if raw.startswith("~") else "none", raw]


def _only_calls(raw: str, environment: Mapping[str, str]) -> list[str]:
    return ["", raw]


def _variable(raw: str, environment: Mapping[str, str]) -> list[str]:
    if "=" in raw:
        return [raw]
    if raw not in environment:
        raise Refused("is not in the environment", "Give NAME=VALUE, or set it before")
    return [f"{raw}={environment[raw]}"]


def _only_paths(raw: str, environment: Mapping[str, str]) -> list[str]:
    return ["", *split_commas(raw)]


def _overlay(raw: str, environment: Mapping[str, str]) -> str:
    if raw == "tmpfs":
        return "yes"
    if not raw.startswith("/"):
        raise Refused("is neither tmpfs nor an absolute path", "Give tmpfs, or a directory")
    return raw


def _network(raw: str, environment: Mapping[str, str]) -> bool:
    return flag_of({"none": True, "host": False}, raw)


_LIMITS, _PLACEMENT, _FILES, _ISOLATION, _PROCESS = (
    "Limits",
    "Unit",
    "Files",
    "Isolation",
    "Process",
)

_BINDS = ("BindPaths", "BindReadOnlyPaths")

_TABLE = (
    Directive(
        name="MemoryMax",
        syntax=syntax.MEMORY_LIMIT,
        section=_LIMITS,
        help="the most memory the job may have; beyond it, it is ended",
        option=Option(flag="--memory"),
        unit=translate.unit_number("MemoryMax"),
        controller="memory",
        files=translate.cgroup_file("memory.max", translate.pages),
        watch=True,
        share_of="memory",
    ),
    Directive(
        name="MemoryHigh",
        syntax=syntax.MEMORY_MARK,
        section=_LIMITS,
        help="memory above which the job is slowed down and reclaimed from",
        option=Option(flag="--memory-high"),
        unit=translate.unit_number("MemoryHigh"),
        controller="memory",
        files=translate.cgroup_file("memory.high", translate.pages),
        share_of="memory",
    ),
    Directive(
        name="MemorySwapMax",
        syntax=syntax.SWAP_LIMIT,
        section=_LIMITS,
        help="the most swap the job may have; 0 where only MemoryMax is given",
        option=Option(flag="--swap"),
        unit=translate.unit_number("MemorySwapMax"),
        controller="memory",
        files=translate.cgroup_file("memory.swap.max", translate.pages),
    ),
    Directive(
        name="TasksMax",
        syntax=syntax.TASKS,
        section=_LIMITS,
        help="the most processes and threads the job may have",
        option=Option(flag="--tasks"),
        unit=translate.unit_number("TasksMax"),
        controller="pids",
        files=translate.cgroup_file("pids.max", translate.number_or_max),
        share_of="tasks",
        watch=True,
    ),
    Directive(
        name="CPUQuota",
        syntax=syntax.QUOTA,
        section=_LIMITS,
        help="the most CPU time the job may have; 200% is two whole CPUs",
        option=Option(flag="--cpu-quota"),
        unit=translate.quota_property,
        controller="cpu",
        files=translate.cgroup_file("cpu.max", translate.cpu_max),
    ),
    Directive(
        name="CPUWeight",
        syntax=syntax.WEIGHT,
        section=_LIMITS,
        help="the job's share where CPU time is short; 100 is usual",
        option=Option(flag="--cpu-weight"),
        unit=translate.weight_property,
        since_values={"idle": 252},
        controller="cpu",
        files=translate.weight_files,
    ),
    Directive(
        name="AllowedCPUs",
        syntax=syntax.CPUS,
        section=_LIMITS,
        help="the CPUs the job may run on, kept by the kernel's cpuset",
        option=Option(flag="--allowed-cpus", to_value=_only_cpus),
        resets=("AllowedCPUs",),
        unit=translate.cpus_property("AllowedCPUs"),
        controller="cpuset",
        files=translate.cgroup_file("cpuset.cpus", translate.ranges),
    ),
    Directive(
        name="CPUAffinity",
        syntax=syntax.CPUS,
        section=_LIMITS,
        help="the CPUs the job starts on; it may change that itself",
        option=Option(flag="--cpu-affinity", to_value=_only_cpus),
        resets=("CPUAffinity",),
        service=translate.cpus_property("CPUAffinity"),
    ),
    Directive(
        name="AssignedCPUs",
        syntax=syntax.CPU_REQUEST,
        section=_LIMITS,
        help="so many CPUs, or these, that no other job has; systemd has no such setting",
        option=Option(flag="--cpus"),
        # By way of AllowedCPUs= or CPUAffinity=: see sdbox.planner.
        controller="cpuset",
        affinity=True,
    ),
    Directive(
        name="IOReadBandwidthMax",
        syntax=syntax.DEVICE_RATES,
        section=_LIMITS,
        help="bytes a second the job may read from the device that holds a path",
        resets=("IOReadBandwidthMax",),
        unit=translate.rates_property("IOReadBandwidthMax"),
        controller="io",
    ),
    Directive(
        name="IOWriteBandwidthMax",
        syntax=syntax.DEVICE_RATES,
        section=_LIMITS,
        help="bytes a second the job may write to the device that holds a path",
        resets=("IOWriteBandwidthMax",),
        unit=translate.rates_property("IOWriteBandwidthMax"),
        controller="io",
    ),
    Directive(
        name="IPAddressAllow",
        syntax=syntax.ADDRESSES,
        section=_ISOLATION,
        help="addresses it may talk to, whatever IPAddressDeny says; the option denies all others",
        option=Option(
            flag="--allow-ip", repeats=True, to_value=_one_item, also={"IPAddressDeny": ["any"]}
        ),
        resets=("IPAddressAllow",),
        unit=translate.addresses_property("IPAddressAllow"),
        programs=translate.firewall_of,
    ),
    Directive(
        name="IPAddressDeny",
        syntax=syntax.ADDRESSES,
        section=_ISOLATION,
        help="addresses it may not talk to",
        resets=("IPAddressDeny",),
        unit=translate.addresses_property("IPAddressDeny"),
        programs=translate.firewall_of,
    ),
    Directive(
        name="DevicePolicy",
        syntax=syntax.DEVICE_POLICY,
        section=_ISOLATION,
        help="closed: only /dev/null and its like, and DeviceAllow; strict: only the latter",
        unit=translate.unit_property("DevicePolicy", "s"),
        programs=translate.device_program_of,
    ),
    Directive(
        name="DeviceAllow",
        syntax=syntax.DEVICE_RULES,
        section=_ISOLATION,
        help="devices it may read (r), write (w) and make (m), and no others of their like",
        resets=("DeviceAllow",),
        unit=translate.devices_property,
        programs=translate.device_program_of,
    ),
    Directive(
        name="GPUs",
        syntax=syntax.GPU_REQUEST,
        section=_ISOLATION,
        help="exactly these GPUs, by DeviceAllow; systemd has no such setting",
        option=Option(flag="--gpus"),
        # By way of DevicePolicy= and DeviceAllow=: see sdbox.planner.
        programs=lambda value: ("device",),
    ),
    Directive(
        name="RuntimeMaxSec",
        syntax=syntax.SPAN,
        section=_LIMITS,
        help="how long the job may take; then it is ended",
        option=Option(flag="--wall"),
        unit=translate.unit_number("RuntimeMaxUSec"),
        unmanaged=True,
    ),
    Directive(
        name="CPUTimeMaxSec",
        syntax=syntax.SPAN,
        section=_LIMITS,
        help="how much CPU time all of the job may take; systemd has no such setting",
        option=Option(flag="--cpu-time"),
        watch=True,
    ),
    Directive(
        name="DiskMax",
        syntax=syntax.DISK_LIMIT,
        section=_LIMITS,
        help="the most its scratch and private directories may hold; systemd has no such setting",
        option=Option(flag="--disk"),
        # By the size of a tmpfs, where there is nothing but that: see sdbox.scratch.
        watch=True,
    ),
    Directive(
        name="OOMPolicy",
        syntax=syntax.OOM_POLICY,
        section=_LIMITS,
        help="what becomes of the job when the kernel kills one of its processes for memory",
        option=Option(flag="--oom"),
        unit=translate.unit_property("OOMPolicy", "s"),
        since=253,
    ),
    Directive(
        name="PrivateTmp",
        syntax=syntax.PRIVATE_TMP,
        section=_ISOLATION,
        help="its own empty /tmp and /var/tmp, gone when it ends",
        option=Option(flag="--private-tmp", constant="yes"),
    ),
    Directive(
        name="PrivateTmpSize",
        syntax=syntax.TMPFS_SIZE,
        section=_ISOLATION,
        help="the private /tmp and /var/tmp are in memory, and so large together",
        option=Option(flag="--tmp-size"),
        share_of="memory",
    ),
    Directive(
        name="PrivateShm",
        syntax=syntax.BOOLEAN,
        section=_ISOLATION,
        help="its own empty /dev/shm; systemd has no such setting",
        option=Option(flag="--private-shm", constant="yes"),
    ),
    Directive(
        name="PrivatePIDs",
        syntax=syntax.BOOLEAN,
        section=_ISOLATION,
        help="its own PID namespace: it sees its own processes only",
        option=Option(flag="--pid-namespace", constant="yes"),
        service=translate.word_property("PrivatePIDs", since=257),
    ),
    Directive(
        name="PrivateIPC",
        syntax=syntax.BOOLEAN,
        section=_ISOLATION,
        help="its own System V IPC and POSIX message queues",
        option=Option(flag="--private-ipc", constant="yes"),
    ),
    Directive(
        name="PrivateNetwork",
        syntax=syntax.BOOLEAN,
        section=_ISOLATION,
        help="no network but its own lo",
        option=Option(flag="--network", metavar="none|host", to_value=_network),
        service=translate.unit_property("PrivateNetwork", "b"),
    ),
    Directive(
        name="NoNewPrivileges",
        syntax=syntax.BOOLEAN,
        section=_ISOLATION,
        help="set-user-ID programs and file capabilities give it nothing; yes if not said",
        option=Option(flag="--no-new-privileges"),
        service=translate.unit_property("NoNewPrivileges", "b"),
    ),
    Directive(
        name="CapabilityBoundingSet",
        syntax=syntax.CAPABILITIES,
        section=_ISOLATION,
        help="root's rights that it can ever have; none if not said and it has another User",
        option=Option(flag="--capabilities", to_value=_only_capabilities),
        resets=("CapabilityBoundingSet",),
    ),
    Directive(
        name="AmbientCapabilities",
        syntax=syntax.CAPABILITIES,
        section=_ISOLATION,
        help="root's rights that it has although its User is not root",
        resets=("AmbientCapabilities",),
    ),
    Directive(
        name="SystemCallFilter",
        syntax=syntax.SYSTEM_CALLS,
        section=_ISOLATION,
        help="the system calls that it may make, or with ~ may not",
        option=Option(flag="--system-calls", to_value=_only_calls),
        resets=("SystemCallFilter",),
    ),
    Directive(
        name="SystemCallErrorNumber",
        syntax=syntax.ERROR_NUMBER,
        section=_ISOLATION,
        help="what other system calls fail with; if not said, they end the process",
    ),
    Directive(
        name="SystemCallArchitectures",
        syntax=syntax.ARCHITECTURES,
        section=_ISOLATION,
        help="whose system calls there are beside the machine's own; with a filter, no others",
        resets=("SystemCallArchitectures",),
    ),
    Directive(
        name="RootDirectory",
        syntax=syntax.ROOT,
        section=_FILES,
        help="the directory that becomes its /, or its name in the configuration",
        option=Option(flag="--root"),
    ),
    Directive(
        name="RootEphemeral",
        syntax=syntax.EPHEMERAL,
        section=_FILES,
        help="whether what it writes to RootDirectory goes to a layer above, and with the job",
        option=Option(flag="--root-overlay", to_value=_overlay),
    ),
    Directive(
        name="ScratchDirectory",
        syntax=syntax.PATH,
        section=_FILES,
        help="a directory of the job's own, made and removed by who starts it",
        option=Option(flag="--scratch"),
    ),
    Directive(
        name="MountUnderScratch",
        syntax=syntax.PATHS,
        section=_FILES,
        help="directories that are in ScratchDirectory: /tmp is its tmp",
        option=Option(flag="--mount-under-scratch", to_value=_only_paths),
        resets=("MountUnderScratch",),
    ),
    Directive(
        name="TemporaryFileSystem",
        syntax=syntax.TMPFS,
        section=_FILES,
        help="an empty directory in memory there; mode=0755,size=10%,nodev if not said",
        option=Option(flag="--tmpfs", repeats=True, to_value=_one_item),
        resets=("TemporaryFileSystem",),
    ),
    Directive(
        name="MountImages",
        syntax=syntax.IMAGES,
        section=_FILES,
        help="a squashfs or ext4 image that only root can change, mounted read-only at DST",
        option=Option(flag="--image", repeats=True, to_value=_one_item),
        resets=("MountImages",),
    ),
    Directive(
        name="BindPaths",
        syntax=syntax.BINDS,
        section=_FILES,
        help="a file or directory to be seen at DST as well",
        option=Option(flag="--bind", repeats=True, to_value=_one_item),
        resets=_BINDS,
    ),
    Directive(
        name="BindReadOnlyPaths",
        syntax=syntax.BINDS,
        section=_FILES,
        help="the same, and it can't be written to there",
        option=Option(flag="--bind-ro", repeats=True, to_value=_one_item),
        resets=_BINDS,
    ),
    Directive(
        name="ProtectSystem",
        syntax=syntax.PROTECT_SYSTEM,
        section=_FILES,
        help="what it can't write to: programs, with full /etc as well, with strict everything",
        option=Option(flag="--protect-system"),
    ),
    Directive(
        name="ProtectHome",
        syntax=syntax.PROTECT_HOME,
        section=_FILES,
        help="whether /home, /root and /run/user are inaccessible, read-only or empty (tmpfs)",
        option=Option(flag="--protect-home"),
    ),
    *(
        Directive(
            name=name,
            syntax=syntax.ACCESS_PATHS,
            section=_FILES,
            help=what,
            option=Option(flag=flag, repeats=True, to_value=_one_item),
            resets=(name,),
        )
        for name, flag, what in (
            ("ReadWritePaths", "--read-write", "what it can write to below what it can't"),
            ("ReadOnlyPaths", "--read-only", "what it can't write to, with all below"),
            ("InaccessiblePaths", "--inaccessible", "files and directories that it can't see into"),
        )
    ),
    *(
        Directive(name=name, syntax=of, section=_ISOLATION, help=what)
        for name, of, what in (
            ("ProtectProc", syntax.PROTECT_PROC, "whose processes its user sees in /proc"),
            ("PrivateDevices", syntax.BOOLEAN, "its own /dev, with null, tty and the like alone"),
            ("ProtectKernelTunables", syntax.BOOLEAN, "it can't write to /proc/sys, /sys and such"),
            ("ProtectKernelModules", syntax.BOOLEAN, "it can't load or unload kernel modules"),
            ("ProtectControlGroups", syntax.BOOLEAN, "it can't write to the cgroup hierarchies"),
            ("ManagerAccess", syntax.BOOLEAN, "it reaches systemd, buses and container engines"),
        )
    ),
    Directive(
        name="WorkingDirectory",
        syntax=syntax.DIRECTORY,
        section=_PROCESS,
        help="where it starts; the caller's own directory if not said",
        option=Option(flag="--chdir"),
    ),
    Directive(
        name="User",
        syntax=syntax.ACCOUNT,
        section=_PROCESS,
        help="the user it runs as, with all the user's groups",
        option=Option(flag="--user"),
    ),
    Directive(
        name="Group",
        syntax=syntax.ACCOUNT,
        section=_PROCESS,
        help="the group it runs as, instead of the user's own",
        option=Option(flag="--group"),
    ),
    Directive(
        name="Environment",
        syntax=syntax.VARIABLES,
        section=_PROCESS,
        help="a variable in its environment; NAME alone takes the caller's value",
        option=Option(flag="--env", metavar="NAME[=VALUE]", repeats=True, to_value=_variable),
        resets=("Environment",),
    ),
    Directive(
        name="KillSignal",
        syntax=syntax.SIGNAL,
        section=_PROCESS,
        help="the signal that asks it to stop; SIGTERM if not said",
        option=Option(flag="--stop-signal"),
        unit=translate.unit_property("KillSignal", "i"),
        unmanaged=True,
    ),
    Directive(
        name="TimeoutStopSec",
        syntax=syntax.SPAN,
        section=_PROCESS,
        help="how long it may take to stop before it is killed",
        option=Option(flag="--stop-timeout"),
        unit=translate.unit_number("TimeoutStopUSec"),
        unmanaged=True,
    ),
    *(
        Directive(name=f"Limit{name}", syntax=of, section=_PROCESS, help=f"setrlimit(2): {what}")
        for name, of, what in (
            ("CPU", syntax.LIMIT_SECONDS, "CPU time of a process"),
            ("FSIZE", syntax.LIMIT_SIZE, "size of a file that it writes"),
            ("DATA", syntax.LIMIT_SIZE, "data segment of a process"),
            ("STACK", syntax.LIMIT_SIZE, "stack of a process"),
            ("CORE", syntax.LIMIT_SIZE, "size of a core dump"),
            ("RSS", syntax.LIMIT_SIZE, "resident memory; Linux ignores it"),
            ("NOFILE", syntax.LIMIT_NUMBER, "open files of a process"),
            ("AS", syntax.LIMIT_SIZE, "address space of a process"),
            ("NPROC", syntax.LIMIT_NUMBER, "processes of its user"),
            ("MEMLOCK", syntax.LIMIT_SIZE, "memory that a process locks"),
            ("LOCKS", syntax.LIMIT_NUMBER, "file locks; Linux ignores it"),
            ("SIGPENDING", syntax.LIMIT_NUMBER, "queued signals of its user"),
            ("MSGQUEUE", syntax.LIMIT_SIZE, "bytes in POSIX message queues of its user"),
            ("NICE", syntax.LIMIT_NICE, "the best nice value it may take"),
            ("RTPRIO", syntax.LIMIT_NUMBER, "the highest real-time priority it may take"),
            ("RTTIME", syntax.LIMIT_USEC, "real-time CPU time without a blocking call"),
        )
    ),
    Directive(
        name="Slice",
        syntax=syntax.SLICE,
        section=_PLACEMENT,
        help="the slice that its unit is put in; sdbox.slice if not said",
        option=Option(flag="--slice"),
        unit=translate.unit_property("Slice", "s"),
    ),
    Directive(
        name="Nestable",
        syntax=syntax.BOOLEAN,
        section=_PLACEMENT,
        help="whether sdbox can be called in it: boxes inside of this one, which bounds them",
        option=Option(flag="--nestable", constant="yes"),
    ),
    Directive(
        name="Description",
        syntax=syntax.LINE,
        section=_PLACEMENT,
        help="what systemctl and the journal call it",
        option=Option(flag="--description"),
        unit=translate.unit_property("Description", "s"),
    ),
)

DIRECTIVES: Mapping[str, Directive] = {row.name: row for row in _TABLE}
"""Every directive by its name, in the order in which help and boxes list them."""

OPTIONS: Mapping[str, Directive] = {row.option.flag: row for row in _TABLE if row.option}
"""The directives that have a command-line option, by that option."""


def find(name: str) -> Directive:
    """The directive called `name`. Raises InvalidDirective, naming the closest that there is."""
    if name in DIRECTIVES:
        return DIRECTIVES[name]
    raise InvalidDirective(f"{_shown_name(name)}: no such directive", hint=_closest(name))


def _shown_name(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 80 else shown(name)


def _closest(name: str) -> str:
    import difflib

    lower = {known.lower(): known for known in DIRECTIVES}
    close = difflib.get_close_matches(name[:80].lower(), lower, n=1)
    question = f"Did you mean {lower[close[0]]}? " if close else ""
    return question + "`sdbox run --help` lists them"


def option_value(flag: str, raw: str, environment: Mapping[str, str]) -> object:
    """What the directive of option `flag` reads, from the option's raw text.

    An option with an empty value is refused: it comes from a variable that is not set, and
    must not quietly take a limit away. Raises InvalidDirective.
    """
    directive = OPTIONS[flag]
    option = directive.option or Option(flag=flag)
    try:
        if not raw:
            raise Refused("says nothing")
        return option.to_value(raw, environment)
    except Refused as refusal:
        raise syntax.invalid(directive.syntax, raw, refusal, flag) from None
