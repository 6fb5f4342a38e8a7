"""Process file descriptors, as this kernel shows them."""

from __future__ import annotations

import os

import pytest

from sdbox.errors import LaunchFailed, SdboxError
from sdbox.kernel.pidfd import has_ended, pid_in, pid_of


def test_the_process_of_a_descriptor() -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        assert pid_of(pidfd) == pid_in(None, pidfd) == os.getpid()
        assert not has_ended(pidfd)
    finally:
        os.close(pidfd)


def test_a_descriptor_of_no_process() -> None:
    # As one may be that somebody hands over.
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(SdboxError, match="no Pid for a descriptor") as caught:
            pid_of(fd)
        assert not isinstance(caught.value, LaunchFailed)
        with pytest.raises(SdboxError, match="no NSpid for a descriptor"):
            pid_in(None, fd)
    finally:
        os.close(fd)
