from __future__ import annotations

from hypothesis import settings

# A loaded machine is slow, and that is no failure.
settings.register_profile("sdbox", deadline=None)
settings.load_profile("sdbox")
