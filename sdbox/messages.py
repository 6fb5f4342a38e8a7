"""Sentences that more than one place says to a person or a scheduler. Pure."""

from __future__ import annotations

MEGABYTE = 1024 * 1024


def memory_message(limit_bytes: int, used_bytes: int | None) -> str:
    """Return what can be shown as the reason of a hold, in the words that HTCondor uses."""
    message = f"Job has gone over memory limit of {limit_bytes // MEGABYTE} megabytes."
    if used_bytes is None:
        return message
    return f"{message} Last measured usage: {used_bytes // MEGABYTE} megabytes."


def disk_message(limit_bytes: int, used_bytes: int | None) -> str:
    """Return the same about what is on disk."""
    message = f"Job has gone over disk limit of {limit_bytes // MEGABYTE} megabytes."
    if used_bytes is None:
        return message
    return f"{message} Last measured usage: {used_bytes // MEGABYTE} megabytes."


def wall_message(limit_seconds: float) -> str:
    """The same of the clock's time."""
    return f"Job has gone over wall time limit of {limit_seconds:g} seconds."


def one_line(text: str) -> str:
    """Return text for a label: on one line, and of characters that can be encoded and shown."""
    spaced = " ".join(text.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in spaced)
