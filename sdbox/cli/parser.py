"""argparse as the verbs use it: complaints of one line, and nothing laid out before it is shown."""

from __future__ import annotations

import argparse
import importlib
import os

from sdbox.cli.talk import complain, stdout_failed
from sdbox.errors import SdboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, TextIO


# Its words are English, as those of sdbox: to look for a translation of each, which no catalogue
# has, takes a fiftieth of a launch.
argparse._ = str  # type: ignore[attr-defined]

# The verbs in the help's order, and the module of each.
VERBS = {
    "run": "run",
    "list": "listing",
    "ps": "listing",
    "show": "listing",
    "usage": "listing",
    "top": "top",
    "freeze": "manage",
    "thaw": "manage",
    "kill": "manage",
    "stop": "manage",
    "set-property": "manage",
    "wait": "wait",
    "logs": "logs",
    "plot": "plot",
    "cpus": "cpus",
    "roots": "roots",
    "doctor": "doctor",
    "embedded": "embedded",
    "complete": "complete",
}


class Parser(argparse.ArgumentParser):
    """An argument parser. `make_epilog` writes its epilog, when help is asked for."""

    make_epilog: Callable[[], str] | None = None

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave with the status of wrong usage."""
        complain(f"{message}. See {self.prog} --help")
        raise SystemExit(2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse here what this parser does not know: a verb's help tells more than all verbs'."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def print_help(self, file: Any = None) -> None:
        """Print the help text, and leave where stdout does not take it."""
        try:
            # argparse's own says nothing of what could not be written, from Python 3.12 on.
            print(self.format_help(), end="", file=file)
        except OSError as error:
            raise SystemExit(stdout_failed(error)) from None

    def format_help(self) -> str:
        """Return the help text."""
        if self.make_epilog is not None:
            self.epilog = self.make_epilog()
        return super().format_help()


def parser_for(first: Sequence[str]) -> Parser:
    """Return the parser of the command line; of one verb only, where the first word is that."""
    parser, verbs = bare()
    modules = (VERBS[verb] for verb in (first if set(first) & set(VERBS) else VERBS))
    for name in dict.fromkeys(modules):
        importlib.import_module(f"sdbox.cli.{name}").add_parser(verbs)
    return parser


def bare() -> tuple[Parser, argparse._SubParsersAction[Any]]:
    """Return a parser without verbs, and where they go."""
    from sdbox import __version__

    parser = Parser(
        prog="sdbox",
        description="Puts jobs in systemd scopes, with limits, isolation and an account of each.",
        allow_abbrev=False,
        formatter_class=layout,
    )
    parser.add_argument("--version", action="version", version=f"sdbox {__version__}")
    return parser, parser.add_subparsers(metavar="VERB", required=True, prog="sdbox")


def opened(option: str, path: str | None) -> TextIO | None:
    """Open the file that an option names to be written, if it was given. Raises SdboxError."""
    if path is None:
        return None
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise SdboxError(
            f"{option}: {path!r}: {error.strerror}", hint="Name a file that can be written"
        ) from None


def layout(prog: str) -> argparse.HelpFormatter:
    """Lay out help for the terminal: as argparse would, which imports much to learn its width."""
    try:
        width = os.get_terminal_size(1).columns
    except OSError:
        width = 80
    return argparse.RawDescriptionHelpFormatter(prog, width=max(width, 60) - 2)
