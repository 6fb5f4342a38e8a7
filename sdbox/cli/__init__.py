"""The command line: one module a verb, which is imported when the verb is asked for."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from sdbox.cli.talk import complain, flushed
from sdbox.errors import SdboxError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except SdboxError as error:
        complain(str(error))
        return error.exit_status


def _run(words: Sequence[str]) -> int:
    if words[:1] == ["run"]:
        # It does not even parse its words before it has begun to launch.
        from sdbox.cli import front

        return front.run(words[1:])
    from sdbox.cli.parser import parser_for

    arguments = parser_for(words[:1]).parse_args(words)
    status: int = arguments.run(arguments)
    return status


def entry() -> NoReturn:
    """Be the command `sdbox`: as main(), without what Python does for programs that live long."""
    # Nothing of what is imported from here on is garbage. A verb that goes on turns it on again.
    gc.disable()
    os._exit(flushed(main()))
