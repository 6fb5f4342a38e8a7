"""`sdbox plot`: a picture of what `sdbox run --record` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbox.errors import SdboxError

if TYPE_CHECKING:
    import argparse


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add `plot` to the command line."""
    parser = verbs.add_parser(
        "plot",
        help="draw what run --record wrote",
        description="Draws memory and CPU over time, with the limits as lines.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("record", metavar="FILE", help="what `sdbox run --record` wrote")
    parser.add_argument(
        "-o", "--output", metavar="PICTURE", required=True, help="a .svg or .png file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw, and return the exit status."""
    from sdbox.usage.plot import draw
    from sdbox.usage.series import read_series

    try:
        header, samples = read_series(arguments.record)
    except OSError as error:
        raise SdboxError(f"{arguments.record}: {error.strerror}") from None
    draw(header, samples, arguments.output)
    return 0
