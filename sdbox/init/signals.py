"""Signals, of which sdbox's own processes in and around a box take none."""

from __future__ import annotations

import signal

from sdbox.init import syscalls

_ALL = range(1, signal.NSIG)


def take_none() -> None:
    """Block all signals, and ignore or handle none.

    An init may not die of a signal that is meant for the payload, as ^C at a terminal or the
    manager's SIGTERM is. And what Python ignores, or the supervisor, is not for payloads.
    """
    syscalls.set_blocked(_ALL)
    for number in _ALL:
        # None is what the C library keeps for itself.
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
