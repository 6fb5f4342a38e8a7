"""`sdbox embedded`: the verbs of the embedded manager."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sdbox import embedded
from sdbox.errors import ManagerUnavailable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from sdbox.embedded import Embedded

# systemctl(1), "EXIT STATUS", after the Linux Standard Base: the program is not running.
NOT_RUNNING = 3


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `embedded` and its verbs to the command line."""
    parser = subparsers.add_parser(
        "embedded",
        help="the private systemd for machines where none is booted",
        description="Manages the private systemd that sdbox boots where none is running.",
    )
    parser.set_defaults(run=run)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    status = verbs.add_parser("status", help="say whether it runs; exit status 3 if not")
    status.add_argument("--json", action="store_true", help="as JSON")
    verbs.add_parser("start", help="boot it, unless it runs")
    stop = verbs.add_parser("stop", help="shut it down, unless jobs are running")
    stop.add_argument("--force", action="store_true", help="end running jobs")
    execute = verbs.add_parser(
        "exec",
        help="run a command inside, such as systemctl or journalctl",
        description="Runs a command inside, with this terminal, and ends as the command does.",
        usage="sdbox embedded exec [--] COMMAND [ARGUMENT...]",
    )
    # Everything after the verb is the command's, options too.
    execute.add_argument("command", nargs="...", metavar="COMMAND")
    execute.set_defaults(refuse=execute.error)


def run(arguments: argparse.Namespace) -> int:
    """Do what the parsed command line says; return the exit status as main() does."""
    return _VERBS[arguments.verb](arguments)


def status(arguments: argparse.Namespace) -> int:
    """Say whether the manager runs, and what there is to know of it."""
    manager = embedded.find()
    facts = _describe(manager) if manager else {"state": "stopped"}
    if arguments.json:
        import json

        print(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):>16}: {value}")
    return 0 if manager else NOT_RUNNING


def start(_: argparse.Namespace) -> int:
    """Boot the manager, unless it runs."""
    manager = embedded.start()
    print(f"The embedded manager is running (PID {manager.pid}, systemd {manager.systemd_version})")
    return 0


def stop(arguments: argparse.Namespace) -> int:
    """Shut the manager down."""
    stopped = embedded.stop(force=arguments.force)
    print("The embedded manager has stopped" if stopped else "The embedded manager was not running")
    return 0


def execute(arguments: argparse.Namespace) -> int:
    """Run a command inside; return its exit status, negative for the signal that ended it."""
    command = arguments.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        arguments.refuse("There is no command to run")
    manager = embedded.find()
    if manager is None:
        raise ManagerUnavailable(
            "The embedded manager is not running", hint="Boot it: sdbox embedded start"
        )
    return os.waitstatus_to_exitcode(embedded.execute(manager, command))


def _describe(manager: Embedded) -> dict[str, str | int]:
    from datetime import UTC, datetime

    from sdbox.embedded.control import count_jobs

    return {
        "state": "running",
        "pid": manager.pid,
        "systemd_version": manager.systemd_version,
        "since": datetime.fromtimestamp(manager.since, UTC).astimezone().isoformat(),
        "cgroup": manager.cgroup_root,
        "jobs": count_jobs(manager),
    }


_VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "status": status,
    "start": start,
    "stop": stop,
    "exec": execute,
}
