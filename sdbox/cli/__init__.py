"""The command line: one module a verb, which is imported when the verb is asked for."""

from __future__ import annotations

import errno
import gc
import os
import sys

from sdbox.cli.talk import complain, flushed, stdout_failed
from sdbox.errors import SdboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


# What print() raises where stdout is a full disk, or a pipe that nobody reads any more.
_OF_WRITING = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, negative for a signal that is to end it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except SdboxError as error:
        complain(str(error))
        return error.exit_status
    except SystemExit as leaving:
        # argparse, which has said what there is to say.
        return leaving.code if isinstance(leaving.code, int) else 1
    except OSError as error:
        if error.filename is not None or error.errno not in _OF_WRITING:
            raise
        return stdout_failed(error)


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
    status = flushed(main())
    if status < 0:
        from sdbox.cli.signals import end_by

        end_by(-status)
    os._exit(status)
