"""tests/vm/run: builds the image, boots it as one of the tiers, brings back what came of it."""
# ruff: noqa: T201 (its stdout is what it is for)

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdbox.errors import SdboxError

from . import cache, debian, image, order, qemu, report, tier
from .errors import TierFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULTS = cache.directory() / "results"
_FAILED = 125
_INTERRUPTED = 130
_A_DAY = 86400.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    options = _parser().parse_args(arguments)
    # As ^C does: what is under way is ended and cleaned up first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _attempt(options.run, options)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _attempt(verb: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    try:
        return verb(options)
    except SdboxError as error:
        print(f"tests/vm/run: {error}", file=sys.stderr)
        return _FAILED


def _build(_: argparse.Namespace) -> int:
    debian.install(*qemu.PACKAGES)
    for release in image.RELEASES:
        built = image.build(release)
        print(built.root, built.layer, built.disk(), sep="\n")
    return 0


def _suite(options: argparse.Namespace) -> int:
    chosen = tier.TIERS[options.tier]
    words = options.arguments or chosen.tests
    return _boot(
        options,
        lambda place, image, slowness: order.suite(
            place, image, slowness, chosen.repetitions, words
        ),
    )


def _exec(options: argparse.Namespace) -> int:
    return _boot(options, lambda place, *_: order.command(place, options.arguments))


def _shell(options: argparse.Namespace) -> int:
    if not sys.stdin.isatty():
        raise TierFailed("A shell needs a terminal", hint="Use `tests/vm/run exec`")
    options.seconds = options.seconds or _A_DAY
    return _boot(options, lambda place, *_: order.shell(place), interactive=True)


def _boot(
    options: argparse.Namespace,
    write: Callable[[Path, image.Image, float], None],
    *,
    interactive: bool = False,
) -> int:
    output = options.output or RESULTS / options.tier
    return tier.carry_out(
        options.tier,
        write,
        output,
        hardware=tier.Hardware(
            accelerator=options.accelerator,
            processors=options.processors,
            memory=options.memory,
        ),
        seconds=options.seconds,
        interactive=interactive,
    )


def _report(options: argparse.Namespace) -> int:
    tiers = [report.read(*word.split("=", 1)) for word in options.tiers]
    print(report.summary(tiers))
    return 0 if all(one.passed for one in tiers) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/vm/run", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("image", help="build what the tiers boot, and print where it is")
    build.set_defaults(run=_build)

    for name, one in tier.TIERS.items():
        suite = _booting(commands.add_parser(name, help=one.about))
        suite.add_argument("arguments", nargs="*", metavar="PYTEST-ARGUMENT")
        suite.set_defaults(run=_suite, tier=name)

    merge = commands.add_parser("report", help="sum up the results of several tiers")
    merge.add_argument("tiers", nargs="+", metavar="TIER=DIRECTORY|FILE.xml")
    merge.set_defaults(run=_report)

    command = _booting(commands.add_parser("exec", help="run one command, as root"))
    command.add_argument("tier", choices=tier.TIERS)
    command.add_argument("arguments", nargs="+", metavar="WORD")
    command.set_defaults(run=_exec)

    shell = _booting(commands.add_parser("shell", help="a root shell"))
    shell.add_argument("tier", choices=tier.TIERS)
    shell.set_defaults(run=_shell)
    return parser


def _booting(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add what can be said of every boot."""
    parser.add_argument("--output", type=Path, metavar="DIRECTORY", help="where results go")
    parser.add_argument("--seconds", type=float, help="how long it may take, boot included")
    parser.add_argument("--accelerator", choices=("auto", "kvm", "tcg"), default="auto")
    parser.add_argument("--processors", type=int, help="the vm's")
    parser.add_argument("--memory", default="2G", help="the vm's")
    return parser
