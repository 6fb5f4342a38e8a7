"""`sdbox roots`: the root directories that jobs can have by name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sdbox.cli import table
from sdbox.cli.talk import complain
from sdbox.record import values_of

if TYPE_CHECKING:
    import argparse

    from sdbox.roots import Root


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add `roots` to the command line."""
    parser = verbs.add_parser(
        "roots",
        help="list the root directories that jobs can have by name",
        description="Lists the roots of the configuration, and what keeps jobs from having them.",
        epilog="Exit status: 0 if jobs can have all of them, 1 if not.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--config", metavar="FILE", help="instead of /etc/sdbox/sdbox.toml")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--classad", action="store_true", help="print what a job of HTCondor's STARTD_CRON prints"
    )


def run(arguments: argparse.Namespace) -> int:
    """List, and return the exit status."""
    from sdbox import config, roots

    known = config.load(arguments.config).roots
    found = roots.listing(known)
    if arguments.classad:
        sys.stdout.write(roots.advertisement(known))
        for root in found:
            if root.fault:
                complain(f"{root.name} is not advertised: {root.fault}")
    elif arguments.json:
        _print_json(found)
    else:
        rows = [(root.name, root.fault or "good", root.path) for root in found]
        table.print_table(("NAME", "STATE", "DIRECTORY"), rows, legend=True)
    return 1 if any(root.fault for root in found) else 0


def _print_json(found: list[Root]) -> None:
    import json

    print(json.dumps(list(map(values_of, found)), indent=2))
