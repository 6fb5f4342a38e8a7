"""Draws a job's record: memory and CPU over time, with the limits as lines."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sdbox.errors import SdboxError
from sdbox.messages import MEGABYTE, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdbox.usage.series import Sample

# Told apart without colour, too: what is used is a filled line, what is allowed a dashed one.
_USED, _LIMIT = "#1f77b4", "#d62728"


def draw(header: Mapping[str, Any], samples: Sequence[Sample], path: str) -> None:
    """Write a picture, its kind by the path's ending (.svg, .png). Raises SdboxError."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise SdboxError(
            "matplotlib is not installed", hint="Install it: pip install 'sdbox[plot]'"
        ) from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    memory, cpu = figure.subplots(2, 1, sharex=True)
    _draw_memory(memory, header, samples)
    _draw_cpu(cpu, header, samples)
    figure.suptitle(_title(header))
    # A font may lack a character of the command: that is no fault of the picture.
    warnings.filterwarnings("ignore", "Glyph")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SdboxError(f"{path}: {error}", hint="Name a .svg or .png file") from None


def _draw_memory(axes: Any, header: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    known = [(s.seconds, s.memory_bytes / MEGABYTE) for s in samples if s.memory_bytes is not None]
    _line(axes, known)
    limit = header.get("memory_limit_bytes")
    _limit(axes, None if limit is None else limit / MEGABYTE, "MemoryMax")
    axes.set_ylabel("memory (MiB)")


def _draw_cpu(axes: Any, header: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    known = [(s.seconds, s.cpu_seconds) for s in samples if s.cpu_seconds is not None]
    rates = [
        (later, (used - used_before) / (later - earlier))
        for (earlier, used_before), (later, used) in pairwise(known)
        if later > earlier
    ]
    _line(axes, rates)
    _limit(axes, header.get("cpu_limit"), "CPUQuota")
    axes.set_ylabel("CPUs in use")
    axes.set_xlabel("seconds")


def _line(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    times, values = [x for x, _ in points], [y for _, y in points]
    axes.plot(times, values, color=_USED)
    axes.fill_between(times, values, color=_USED, alpha=0.2)
    axes.grid(visible=True, alpha=0.3)


def _limit(axes: Any, value: float | None, name: str) -> None:
    if value is not None:
        axes.axhline(value, color=_LIMIT, linestyle="--", label=name)
        axes.legend(loc="lower right")
    # Last, since it ends what makes room for the lines.
    axes.set_ylim(bottom=0)


def _title(header: Mapping[str, Any]) -> str:
    words = one_line(" ".join(map(str, header["command"])))
    # matplotlib takes what is between dollar signs for a formula.
    text = f"{header['job']}: {words}".replace("$", r"\$")
    return text if len(text) <= 80 else text[:79] + "…"
