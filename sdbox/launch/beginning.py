"""The first half of one launch: an init that prepares itself. Needs no asyncio."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, TextIO

from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdbox.launch.helper import Helper, Streams
    from sdbox.plan import Plan


@record
class Launch:
    """A launch under way: init has been asked for. `report` is where it will speak.

    `key` is what it is called between supervisor and helper. `record` takes the samples of the
    job's usage, where they are wanted. `to_journal` are the streams through which the job writes
    to the journal.
    """

    plan: Plan
    key: str
    report: socket.socket
    record: TextIO | None = None
    to_journal: tuple[socket.socket, ...] = ()


def begin(
    helper: Helper,
    plan: Plan,
    streams: Streams,
    *,
    record: TextIO | None = None,
    to_journal: tuple[socket.socket, ...] = (),
    held: Sequence[int] = (),
) -> Launch:
    """Ask for the init of a plan, which has these descriptors as its streams.

    Those that are `held` stay the caller's; the box has them open for as long as it is there.
    """
    # Not the job's id alone, which a caller may give twice.
    key = f"{plan.job}/{os.urandom(6).hex()}"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        helper.send_launch(key, plan.spec, theirs, streams, held)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Launch(plan=plan, key=key, report=ours, record=record, to_journal=to_journal)
