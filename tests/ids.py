"""Ids for the jobs of one run of the tests.

Not in conftest.py: that is two modules, pytest's own and the one that tests import, and each would
count for itself. In a journal the entries of two jobs of one id are one job's.
"""

from __future__ import annotations

import itertools
import os

# In front of all of them: other runs of the tests may be beside this one.
SESSION = f"test{os.getpid()}"

_numbers = itertools.count()


def new_id() -> str:
    """An id that no other job of this run has."""
    return f"{SESSION}-{next(_numbers)}"
