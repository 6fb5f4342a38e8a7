"""`sdbox run`, from the first word to the same end as the payload's.

Two processes share the work, since there are two CPUs at least: one reads the command line, makes
the plan, and becomes the helper that forks init; the other, the supervisor, imports meanwhile what
it takes to talk to systemd, which is most of a launch.
"""

from __future__ import annotations

import os
import signal
import socket

from sdbox.cli import streams
from sdbox.cli.signals import Signals, end_by
from sdbox.cli.talk import complain, flushed
from sdbox.errors import SdboxError
from sdbox.init import wire
from sdbox.launch.helper import Helper
from sdbox.systemd.endpoint import find, locate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from sdbox.cpus.assignment import Claim
    from sdbox.init import helper as init
    from sdbox.result import Result
    from sdbox.systemd.endpoint import Endpoint


def run(words: Sequence[str]) -> int:
    """Run the job that the words after `run` describe; return its status, or end by its signal."""
    streams.fill_standard()
    claim = _wait_for_cpus(words) if _has(words, "--wait-cpus") else None
    signals = Signals()
    with streams.terminal_kept() as foreground:
        endpoint = _endpoint(words)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)

        def read_words(helper: init.Helper) -> None:
            ours.close()
            _read_words(words, endpoint, signals, helper, theirs, claim, at_terminal=foreground)

        helper = Helper.fork(
            pid_namespace=endpoint.pid_namespace,
            cgroup=endpoint.launch_cgroup,
            bus=endpoint.bus_socket if endpoint.has_bus else "",
            first=read_words,
        )
        theirs.close()
        if claim is not None:
            # The helper has it, and the box will.
            claim.close()
        from sdbox.cli.supervise import supervise

        result = supervise(
            ours, endpoint=endpoint, helper=helper, signals=signals, stops=foreground
        )
    return result if isinstance(result, int) else _end(result)


def _endpoint(words: Sequence[str]) -> Endpoint:
    """Return the manager to use. Nothing is booted for a command line that is wrong."""
    endpoint = None if _has(words, "--manager") else find("auto")
    if endpoint is not None:
        return endpoint
    from sdbox.cli.run import check, parse

    arguments = parse(words)
    check(arguments)
    return locate(arguments.manager, notice=complain)


def _has(words: Sequence[str], option: str) -> bool:
    """Whether an option may be among the words: they are not parsed yet."""
    return any(word.startswith(option) for word in words)


def _wait_for_cpus(words: Sequence[str]) -> Claim | None:
    """Wait for a job's CPUs, as long as it may take, if they have to be waited for at all.

    Before this process takes over its signals: they end it, or stop it, as they do any program.
    """
    from sdbox.cli.run import check, parse, wait_for_cpus

    arguments = parse(words)
    if arguments.wait_cpus is None:
        return None
    check(arguments)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return wait_for_cpus(arguments, _endpoint(words))


def _read_words(
    words: Sequence[str],
    endpoint: Endpoint,
    signals: Signals,
    helper: init.Helper,
    report: socket.socket,
    claim: Claim | None,
    *,
    at_terminal: bool,
) -> None:
    """In the helper: make the plan, tell the supervisor, and launch; or tell that it is over."""
    from sdbox.cli.run import parse, prepare

    try:
        prepared = prepare(parse(words), endpoint, signals.ignored, claim)
    except SystemExit as error:
        _give_up(helper, error.code if isinstance(error.code, int) else 1)
    except SdboxError as error:
        complain(str(error))
        _give_up(helper, error.exit_status)
    files = {"report": prepared.report, "record": prepared.record}
    given = [(name, opened.fileno()) for name, opened in files.items() if opened is not None]
    given += [("journal", stream.fileno()) for stream in prepared.to_journal]
    plan = prepared.plan.to_plain()
    if prepared.detached:
        # Another process launches it.
        _, stdout, stderr = prepared.streams
        plan["spec"] = dict(prepared.plan.spec)
        given += [("stdout", stdout), ("stderr", stderr)]
        given += [("held", fd) for fd in prepared.held]
        _tell_plan(helper, "detach", plan, given)
        return
    spec, own = dict(prepared.plan.spec), prepared.streams
    if prepared.plan.unit_type == "service" and at_terminal and os.isatty(own[0]):
        from sdbox.cli import relay

        spec["terminal"] = True
        terminal, own = relay.opened(own)
        given.append(("terminal", terminal))
    _tell_plan(helper, "planned", plan, given)
    helper.launch(wire.LAUNCH.encode(), spec, (report.fileno(), *own, *prepared.held))


def _tell_plan(
    helper: init.Helper, verb: str, plan: dict[str, Any], given: Sequence[tuple[str, int]]
) -> None:
    """Send the supervisor a plan, and descriptors with their names."""
    import marshal

    memory = os.memfd_create("sdbox-plan", os.MFD_CLOEXEC)
    with open(memory, "wb") as file:
        marshal.dump(plan, file)
        file.flush()
        names, fds = [name for name, _ in given], [fd for _, fd in given]
        helper.tell(verb, wire.PLAN, *names, fds=(memory, *fds))


def _give_up(helper: init.Helper, status: int) -> NoReturn:
    helper.tell("over", wire.PLAN, flushed(status))
    os._exit(0)


def _end(result: Result) -> int:
    if result.reason not in ("exited", "signal"):
        complain(result.message)
    if result.signal is not None:
        end_by(result.signal)
    return result.exit_code or 0
