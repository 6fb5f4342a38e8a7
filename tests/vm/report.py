"""The results of all tiers as one closing summary: what passed, what failed, what was skipped."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# pytest's exit codes: all passed, and some failed, which its report tells one by one.
_TOLD_BY_PYTEST = ("0", "1")
# A tier that is there for the controllers has shown nothing where it lacks one.
_WITH_CONTROLLERS = ("limits", "limits-252", "cpus", "vm-1", "vm-2")
_LACKS_ONE = re.compile(r"\b(no|not|lacks?|without|missing)\b.*\bcontroller", re.IGNORECASE)
_HEADER = ("tier", "passed", "failed", "skipped", "seconds", "")


@dataclass(frozen=True, kw_only=True)
class Tier:
    """What came of one tier: each failure by the test's name, each skip's reason as often."""

    name: str
    facts: tuple[str, ...] = ()
    seconds: float = 0.0
    passes: int = 0
    failures: tuple[str, ...] = ()
    skips: Counter[str] = field(default_factory=Counter)

    @property
    def passed(self) -> bool:
        """Whether it has shown something, and nothing amiss."""
        return self.passes > 0 and not self.failures


def read(name: str, place: str) -> Tier:
    """Read a tier's results: a directory as a machine leaves it, or a JUnit file."""
    path = Path(place)
    if not path.is_dir():
        return _read(name, path)
    status = _text(path / "status") or "no status"
    trouble = () if status in _TOLD_BY_PYTEST else (f"the tests themselves: status {status}",)
    facts = tuple(_text(path / "facts").splitlines())
    return _read(name, path / "junit.xml", facts, trouble)


def summary(tiers: Iterable[Tier]) -> str:
    """Return the closing lines."""
    tiers = list(tiers)
    rows = [_HEADER, *(_row(tier) for tier in tiers)]
    table = [f"{n:<12}{p:>7}{f:>8}{s:>9}{t:>9}  {about}".rstrip() for n, p, f, s, t, about in rows]
    skipped = [
        f"{tier.name}: skipped {times}: {reason}"
        for tier in tiers
        for reason, times in sorted(tier.skips.items())
    ]
    failed = [f"{tier.name}: FAILED: {failure}" for tier in tiers for failure in tier.failures]
    empty = [f"{tier.name}: FAILED: no test has passed" for tier in tiers if not tier.passes]
    return "\n".join([*table, *skipped, *failed, *empty])


def _read(
    name: str, junit: Path, facts: tuple[str, ...] = (), troubles: tuple[str, ...] = ()
) -> Tier:
    try:
        suites = ElementTree.parse(junit).getroot()  # noqa: S314 (pytest's own, or nobody's)
    except (OSError, ElementTree.ParseError) as error:
        return Tier(name=name, facts=facts, failures=(*troubles, f"{junit.name}: {error}"))
    cases = list(suites.iter("testcase"))
    skips = Counter(reason for case in cases for reason in _messages(case, "skipped"))
    failures = [
        f"{_name(case)}: {message}"
        for case in cases
        for message in _messages(case, "failure", "error")
    ]
    return Tier(
        name=name,
        facts=facts,
        seconds=sum(float(suite.get("time", 0)) for suite in suites.iter("testsuite")),
        passes=sum(1 for case in cases if not set(_OUTCOMES) & {child.tag for child in case}),
        failures=(*troubles, *failures, *_forbidden(name, skips)),
        skips=skips,
    )


_OUTCOMES = ("failure", "error", "skipped")


def _messages(case: ElementTree.Element, *outcomes: str) -> Iterator[str]:
    for child in case:
        if child.tag in outcomes:
            yield (child.get("message") or child.tag).partition("\n")[0]


def _forbidden(name: str, skips: Counter[str]) -> list[str]:
    if name not in _WITH_CONTROLLERS:
        return []
    reasons = filter(_LACKS_ONE.search, skips)
    return [f"skipped for want of a controller: {reason}" for reason in reasons]


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '')}::{case.get('name', '')}"


def _row(tier: Tier) -> tuple[str, ...]:
    counts = (tier.passes, len(tier.failures), tier.skips.total())
    return (tier.name, *map(str, counts), f"{tier.seconds:.0f}", ", ".join(tier.facts))


def _text(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""
