"""`python -m sdbox`, the same as the command `sdbox`."""

from __future__ import annotations

from sdbox.cli import entry

entry()
