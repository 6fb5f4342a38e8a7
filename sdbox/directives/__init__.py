"""The table of directives: the one source of what a box can hold.

Command line, configuration, help, JSON schema, the translation to D-Bus and what is read back
from the cgroup all follow from a row. A directive is added by adding its row to the module of its
section, with its syntax in the module of the same name in sdbox.syntax, and an operation of init
where a scope needs one.
"""

from __future__ import annotations

from sdbox import syntax
from sdbox.directives import files, isolation, limits, process, unit
from sdbox.directives.row import Directive, Option
from sdbox.errors import InvalidDirective
from sdbox.values import Refused, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DIRECTIVES", "OPTIONS", "Directive", "Option", "find", "option_value"]

_TABLE = (*limits.TABLE, *isolation.TABLE, *files.TABLE, *process.TABLE, *unit.TABLE)

DIRECTIVES: Mapping[str, Directive] = {row.name: row for row in _TABLE}
"""Every directive by its name, in the order in which help and boxes list them."""

OPTIONS: Mapping[str, Directive] = {row.option.flag: row for row in _TABLE if row.option}
"""The directives that have a command-line option, by that option."""


def find(name: str) -> Directive:
    """The directive called `name`. Raises InvalidDirective, naming the closest that there is."""
    if name in DIRECTIVES:
        return DIRECTIVES[name]
    raise InvalidDirective(f"{_shown_name(name)}: no such directive", hint=_closest(name))


def _shown_name(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 80 else shown(name)


def _closest(name: str) -> str:
    import difflib

    lower = {known.lower(): known for known in DIRECTIVES}
    close = difflib.get_close_matches(name[:80].lower(), lower, n=1)
    question = f"Did you mean {lower[close[0]]}? " if close else ""
    return question + "`sdbox run --help` lists them"


def option_value(flag: str, raw: str, environment: Mapping[str, str]) -> object:
    """What the directive of option `flag` reads, from the option's raw text.

    An option with an empty value is refused: it comes from a variable that is not set, and
    must not quietly take a limit away. Raises InvalidDirective.
    """
    directive = OPTIONS[flag]
    option = directive.option or Option(flag=flag)
    try:
        if not raw:
            raise Refused("says nothing")
        return option.to_value(raw, environment)
    except Refused as refusal:
        raise syntax.invalid(directive.syntax, raw, refusal, flag) from None
