"""The descriptors that a forked process has of its parent, and must not keep."""

from __future__ import annotations

import os


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                # The descriptor that listed the directory.
                pass
