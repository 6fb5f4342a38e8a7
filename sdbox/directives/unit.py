"""Directives about its unit."""

from __future__ import annotations

from sdbox.directives import translate
from sdbox.directives.row import Directive, Option
from sdbox.syntax import unit as syntax
from sdbox.syntax.common import BOOLEAN

_SECTION = "Unit"

TABLE = (
    Directive(
        name="Slice",
        syntax=syntax.SLICE,
        section=_SECTION,
        help="the slice that its unit is put in; sdbox.slice if not said",
        option=Option(flag="--slice"),
        unit=translate.unit_property("Slice", "s"),
    ),
    Directive(
        name="Nestable",
        syntax=BOOLEAN,
        section=_SECTION,
        help="whether sdbox can be called in it: boxes inside of this one, which bounds them",
        option=Option(flag="--nestable", constant="yes"),
    ),
    Directive(
        name="Description",
        syntax=syntax.LINE,
        section=_SECTION,
        help="what systemctl and the journal call it",
        option=Option(flag="--description"),
        unit=translate.unit_property("Description", "s"),
    ),
)
