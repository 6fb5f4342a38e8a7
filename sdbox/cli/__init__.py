"""The command line: one module a verb, which is imported when the verb is asked for."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from sdbox.cli.parser import Parser, layout
from sdbox.cli.talk import complain
from sdbox.errors import SdboxError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = ("run", "plot", "doctor", "embedded")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser(words).parse_args(words)
    try:
        status: int = parsed.run(parsed)
    except SdboxError as error:
        complain(str(error))
        return error.exit_status
    return status


def entry() -> NoReturn:
    """Be the command `sdbox`: as main(), without what Python does for programs that live long."""
    # Nothing of what is imported from here on is garbage. A verb that goes on turns it on again.
    gc.disable()
    status = main()
    # Python has none where it was closed from the start.
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError as error:
            complain(f"stdout: {error.strerror}")
            status = status or 1
    os._exit(status)


def _parser(words: Sequence[str]) -> Parser:
    from sdbox import __version__

    parser = Parser(
        prog="sdbox",
        description="Puts jobs in systemd scopes, with limits, isolation and an account of each.",
        allow_abbrev=False,
        formatter_class=layout,
    )
    parser.add_argument("--version", action="version", version=f"sdbox {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, prog="sdbox")
    # Only what is needed: a launch must not pay for the other verbs.
    for verb in words[:1] if words and words[0] in VERBS else VERBS:
        importlib.import_module(f"sdbox.cli.{verb}").add_parser(verbs)
    return parser
