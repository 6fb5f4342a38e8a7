"""Directives about what it can see and do."""

from __future__ import annotations

from sdbox.directives import raw, translate
from sdbox.directives.row import Directive, Option
from sdbox.syntax import isolation as syntax
from sdbox.syntax.common import BOOLEAN

_SECTION = "Isolation"

TABLE = (
    Directive(
        name="IPAddressAllow",
        syntax=syntax.ADDRESSES,
        section=_SECTION,
        help="addresses it may talk to, whatever IPAddressDeny says; the option denies all others",
        option=Option(
            flag="--allow-ip", repeats=True, to_value=raw.one_item, also={"IPAddressDeny": ["any"]}
        ),
        resets=("IPAddressAllow",),
        unit=translate.addresses_property("IPAddressAllow"),
        programs=translate.firewall_of,
    ),
    Directive(
        name="IPAddressDeny",
        syntax=syntax.ADDRESSES,
        section=_SECTION,
        help="addresses it may not talk to",
        resets=("IPAddressDeny",),
        unit=translate.addresses_property("IPAddressDeny"),
        programs=translate.firewall_of,
    ),
    Directive(
        name="DevicePolicy",
        syntax=syntax.DEVICE_POLICY,
        section=_SECTION,
        help="closed: only /dev/null and its like, and DeviceAllow; strict: only the latter",
        unit=translate.unit_property("DevicePolicy", "s"),
        programs=translate.device_program_of,
    ),
    Directive(
        name="DeviceAllow",
        syntax=syntax.DEVICE_RULES,
        section=_SECTION,
        help="devices it may read (r), write (w) and make (m), and no others of their like",
        resets=("DeviceAllow",),
        unit=translate.devices_property,
        programs=translate.device_program_of,
    ),
    Directive(
        name="GPUs",
        syntax=syntax.GPU_REQUEST,
        section=_SECTION,
        help="exactly these GPUs, by DeviceAllow; systemd has no such setting",
        option=Option(flag="--gpus"),
        # By way of DevicePolicy= and DeviceAllow=: see sdbox.plan.planner.
        programs=lambda value: ("device",),
    ),
    Directive(
        name="PrivateTmp",
        syntax=syntax.PRIVATE_TMP,
        section=_SECTION,
        help="its own empty /tmp and /var/tmp, gone when it ends",
        option=Option(flag="--private-tmp", constant="yes"),
    ),
    Directive(
        name="PrivateTmpSize",
        syntax=syntax.TMPFS_SIZE,
        section=_SECTION,
        help="the private /tmp and /var/tmp are in memory, and so large together",
        option=Option(flag="--tmp-size"),
        share_of="memory",
    ),
    Directive(
        name="PrivateShm",
        syntax=BOOLEAN,
        section=_SECTION,
        help="its own empty /dev/shm; systemd has no such setting",
        option=Option(flag="--private-shm", constant="yes"),
    ),
    Directive(
        name="PrivatePIDs",
        syntax=BOOLEAN,
        section=_SECTION,
        help="its own PID namespace: it sees its own processes only",
        option=Option(flag="--pid-namespace", constant="yes"),
        service=translate.word_property("PrivatePIDs", since=257),
    ),
    Directive(
        name="PrivateIPC",
        syntax=BOOLEAN,
        section=_SECTION,
        help="its own System V IPC and POSIX message queues",
        option=Option(flag="--private-ipc", constant="yes"),
    ),
    Directive(
        name="PrivateNetwork",
        syntax=BOOLEAN,
        section=_SECTION,
        help="no network but its own lo",
        option=Option(flag="--network", metavar="none|host", to_value=raw.network),
        service=translate.unit_property("PrivateNetwork", "b"),
    ),
    Directive(
        name="NoNewPrivileges",
        syntax=BOOLEAN,
        section=_SECTION,
        help="set-user-ID programs and file capabilities give it nothing; yes if not said",
        option=Option(flag="--no-new-privileges"),
        service=translate.unit_property("NoNewPrivileges", "b"),
    ),
    Directive(
        name="CapabilityBoundingSet",
        syntax=syntax.CAPABILITIES,
        section=_SECTION,
        help="root's rights that it can ever have; none if not said and it has another User",
        option=Option(flag="--capabilities", to_value=raw.only_capabilities),
        resets=("CapabilityBoundingSet",),
    ),
    Directive(
        name="AmbientCapabilities",
        syntax=syntax.CAPABILITIES,
        section=_SECTION,
        help="root's rights that it has although its User is not root",
        resets=("AmbientCapabilities",),
    ),
    Directive(
        name="SystemCallFilter",
        syntax=syntax.SYSTEM_CALLS,
        section=_SECTION,
        help="the system calls that it may make, or with ~ may not",
        option=Option(flag="--system-calls", to_value=raw.only_calls),
        resets=("SystemCallFilter",),
    ),
    Directive(
        name="SystemCallErrorNumber",
        syntax=syntax.ERROR_NUMBER,
        section=_SECTION,
        help="what other system calls fail with; if not said, they end the process",
    ),
    Directive(
        name="SystemCallArchitectures",
        syntax=syntax.ARCHITECTURES,
        section=_SECTION,
        help="whose system calls there are beside the machine's own; with a filter, no others",
        resets=("SystemCallArchitectures",),
    ),
    Directive(
        name="RestrictNamespaces",
        syntax=syntax.NAMESPACE_TYPES,
        section=_SECTION,
        help="yes: it can neither make nor enter a namespace; or only these, or with ~ not these",
        resets=("RestrictNamespaces",),
    ),
    Directive(
        name="RestrictAddressFamilies",
        syntax=syntax.ADDRESS_FAMILIES,
        section=_SECTION,
        help="the families of sockets that it can make, or with ~ can not",
        resets=("RestrictAddressFamilies",),
    ),
    *(
        Directive(name=name, syntax=of, section=_SECTION, help=what)
        for name, of, what in (
            ("RestrictRealtime", BOOLEAN, "it can't schedule itself for real time"),
            ("RestrictSUIDSGID", BOOLEAN, "it can't make files set-user-ID or set-group-ID"),
            ("LockPersonality", BOOLEAN, "it can't change its execution domain"),
            ("MemoryDenyWriteExecute", BOOLEAN, "no memory that was written is executed"),
            ("ProtectProc", syntax.PROTECT_PROC, "whose processes its user sees in /proc"),
            ("PrivateDevices", BOOLEAN, "its own /dev, with null, tty and the like alone"),
            ("ProtectKernelTunables", BOOLEAN, "it can't write to /proc/sys, /sys and such"),
            ("ProtectKernelModules", BOOLEAN, "it can't load or unload kernel modules"),
            ("ProtectControlGroups", BOOLEAN, "it can't write to the cgroup hierarchies"),
            ("ManagerAccess", BOOLEAN, "it reaches systemd, buses and container engines"),
        )
    ),
)
