"""What can go wrong with a tier itself, other than a test."""

from __future__ import annotations

from sdbox.errors import SdboxError


class TierFailed(SdboxError):
    """A tier could not be prepared, booted or read back."""
