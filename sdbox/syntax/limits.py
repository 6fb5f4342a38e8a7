"""The syntaxes of limits."""

from __future__ import annotations

from sdbox.syntax import NUMBER_OR_TEXT, ListSyntax, Syntax, list_schema
from sdbox.syntax.common import MORE_HINT, sizes
from sdbox.values import names, quantities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SIZE_HINT = "Give bytes with an optional suffix K, M, G or T, a percentage, or infinity"
_PLAIN_SIZE_HINT = "Give bytes with an optional suffix K, M, G or T, or infinity"

# Below this a process can't even exec, and systemd's user manager has been seen to hang over
# such limits (systemd issue 40208).
LEAST_MEMORY = 1024 * 1024
_LEAST_HINT = "Give at least 1M: with less, no program can start"


def _size_or_share(least: int) -> Callable[[str], Any]:
    return quantities.or_percent(
        quantities.or_infinity(quantities.at_least(least, quantities.size, _LEAST_HINT))
    )


MEMORY_LIMIT = sizes(_size_or_share(LEAST_MEMORY), _SIZE_HINT)
MEMORY_MARK = sizes(_size_or_share(1), _SIZE_HINT)
SWAP_LIMIT = sizes(quantities.or_infinity(quantities.size), _PLAIN_SIZE_HINT)

DISK_LIMIT = sizes(
    quantities.or_infinity(quantities.at_least(1, quantities.size, MORE_HINT)), _PLAIN_SIZE_HINT
)

TASKS = Syntax(
    word="N",
    noun="a number of tasks",
    hint="Give a number, a percentage, or infinity",
    parse=quantities.or_percent(
        quantities.or_infinity(lambda text: quantities.positive(quantities.count(text)))
    ),
    schema=NUMBER_OR_TEXT,
)

QUOTA = Syntax(
    word="PERCENT",
    noun="a percentage",
    hint="Give a share of one CPU such as 50%, or 200% for two",
    parse=quantities.percent,
    schema={"type": "string", "pattern": r"^\s*(0|[1-9][0-9]*)(\.[0-9]{1,2})?%\s*$"},
)

WEIGHT = Syntax(
    word="WEIGHT",
    noun="a weight",
    hint="Give 1 to 10000 (the default is 100), or idle",
    parse=names.weight,
    schema={"type": ["integer", "string"], "minimum": 1, "maximum": 10_000},
)

OOM_POLICY = Syntax(
    word="POLICY",
    noun="a policy",
    hint="Give continue, stop or kill",
    parse=names.choice("continue", "stop", "kill"),
    schema={"enum": ["continue", "stop", "kill"]},
)

CPUS = ListSyntax(
    word="CPUS",
    noun="a CPU or a range of them",
    hint="Give numbers and ranges such as 0-3,8",
    split=names.split_cpus,
    item=names.cpu_range,
    fold=names.union,
    unfold=names.format_cpus,
    join=",".join,
    schema=list_schema({"type": ["integer", "string"], "minimum": 0}, "integer"),
)

CPU_REQUEST = Syntax(
    word="N|LIST",
    noun="a number of CPUs or a list of them",
    hint="Give how many, or which, as in 0,4-5; 3-3 is CPU 3 alone",
    parse=names.cpu_request,
    format=names.format_cpu_request,
    schema=NUMBER_OR_TEXT,
)

DEVICE_RATES = ListSyntax(
    word="PATH BYTES",
    noun="a path and a rate",
    hint="Give a path and bytes a second, with an optional suffix K, M, G or T (base 1000)",
    split=names.split_device_rates,
    item=names.device_rate,
    fold=names.last_of_each,
    unfold=names.format_device_rates,
    join=lambda items: "\n".join(map(names.quote_device_rate, items)),
    schema=list_schema({"type": "string"}),
)
