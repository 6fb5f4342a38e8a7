"""`python -m sdbox`, the same as the command `sdbox`."""

from __future__ import annotations

import sys

from sdbox.cli import main

sys.exit(main())
