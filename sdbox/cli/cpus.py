"""`sdbox cpus`: the CPUs of this host, and which job each is assigned to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbox.cli import table

if TYPE_CHECKING:
    import argparse

    from sdbox.cpus.holders import Holder
    from sdbox.cpus.topology import Cpu

_COLUMNS = ("CPU", "NODE", "SOCKET", "CORE", "JOB")


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add `cpus` to the command line."""
    parser = verbs.add_parser(
        "cpus",
        help="list the CPUs, and which job each is assigned to",
        description="Lists the CPUs, where they are, and the jobs that have them by --cpus.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """List, and return the exit status."""
    from sdbox.cpus import topology
    from sdbox.cpus.holders import holders

    known = topology.read()
    held = holders(known)
    if arguments.json:
        _print_json(known, held)
    else:
        rows = [_row(cpu, held.get(cpu.number)) for cpu in known.values()]
        table.print_table(_COLUMNS, rows, legend=True)
    return 0


def _row(cpu: Cpu, holder: Holder | None) -> tuple[str, ...]:
    where = (cpu.number, cpu.node, cpu.socket, cpu.core_number)
    return (*map(table.count, where), _job(holder))


def _job(holder: Holder | None) -> str:
    if holder is None:
        return table.UNKNOWN
    return "(root's)" if holder.is_roots else holder.job or "(one that starts)"


def _print_json(known: dict[int, Cpu], held: dict[int, Holder]) -> None:
    import json

    document = [
        {
            "cpu": cpu.number,
            "node": cpu.node,
            "socket": cpu.socket,
            "core": cpu.core_number,
            "siblings": sorted(cpu.core),
            "held": cpu.number in held,
            "job": held[cpu.number].job or None if cpu.number in held else None,
        }
        for cpu in known.values()
    ]
    print(json.dumps(document, indent=2))
