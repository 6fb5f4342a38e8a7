"""`sdbox doctor`: what this host can enforce, and the remedy for what it can't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbox.cli import table
from sdbox.record import values_of
from sdbox.systemd.endpoint import CHOICES

if TYPE_CHECKING:
    import argparse

    from sdbox.doctor import Examination

_GREEN, _YELLOW, _RED = "\x1b[32m", "\x1b[33m", "\x1b[31m"
_COLOURS = {
    "kernel": _GREEN,
    "manager": _GREEN,
    "ok": _GREEN,
    "affinity": _YELLOW,
    "quota": _YELLOW,
    "watch": _YELLOW,
}


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add `doctor` to the command line."""
    parser = verbs.add_parser(
        "doctor",
        help="tell what this host can enforce, and the remedy for what it can't",
        description="Tells what this host can enforce, by whom, and the remedy for what it can't.",
        epilog="Exit status: 0 if jobs can be started here, 1 if not.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--manager", choices=CHOICES, default="auto", help="the systemd to ask")


def run(arguments: argparse.Namespace) -> int:
    """Examine, print, and return the exit status."""
    from sdbox.doctor import examine

    examination = examine(arguments.manager)
    if arguments.json:
        _print_json(examination)
    else:
        _print_text(examination)
    return 0 if examination.good else 1


def _print_json(examination: Examination) -> None:
    import json

    document = {
        "good": examination.good,
        "manager": examination.manager,
        "findings": list(map(values_of, examination.findings)),
        "directives": list(map(values_of, examination.directives)),
    }
    print(json.dumps(document, indent=2))


def _print_text(examination: Examination) -> None:
    for finding in examination.findings:
        _line(finding.name, "ok" if finding.good else "missing", finding.seen)
        if not finding.good:
            _line("", "", finding.remedy)
    if examination.directives:
        print()
    for keeping in examination.directives:
        _line(keeping.directive, keeping.kept_by, keeping.remedy)


def _line(name: str, word: str, text: str) -> None:
    padded = f"{word:8}"
    if word:
        padded = table.in_colour(padded, _COLOURS.get(word, _RED))
    print(f"{name:20} {padded} {text}".rstrip())
