"""The typed values that directives hold, and how each is written as text.

Text is the common form: whatever a caller gives becomes text by `as_text`, and text is what a
syntax parses. So a value that was parsed once is accepted again, unchanged.
"""

from __future__ import annotations

from sdbox.record import record

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from typing import Any

INFINITY = 2**64 - 1
"""No limit: UINT64_MAX, as systemd's D-Bus properties have it."""

WHITESPACE = " \t\n\r"


class Refused(Exception):
    """A text that a syntax does not accept: what is wrong with it, and the remedy.

    Where `problem` is empty the syntax says that the text is not one of its kind.
    """

    def __init__(self, problem: str = "", hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class Usec(int):
    """A span of time in microseconds. A plain number means seconds wherever text is read."""

    __slots__ = ()

    @property
    def seconds(self) -> float:
        """The span in seconds; `inf` for no limit."""
        return float("inf") if self == INFINITY else self / 1_000_000

    def __str__(self) -> str:
        return "infinity" if self == INFINITY else " ".join(_terms(int(self))) or "0"


# Months and years are left out: they are not whole days, and would not read back exactly.
_UNITS = (
    ("w", 604_800_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
)


def _terms(usec: int) -> list[str]:
    terms = []
    for unit, length in _UNITS:
        count, usec = divmod(usec, length)
        if count:
            terms.append(f"{count}{unit}")
    return terms


@record
class Percent:
    """A share in hundredths of a percent, of something that only the host knows."""

    permyriad: int

    def of(self, total: int) -> int:
        """This share of `total`, rounded down."""
        return total * self.permyriad // 10_000

    def __str__(self) -> str:
        whole, rest = divmod(self.permyriad, 100)
        return f"{whole}.{rest:02}".rstrip("0").rstrip(".") + "%"


@record
class Bind:
    """One bind mount. Its text is SRC:DST:OPTION with `:` and a backslash escaped by one."""

    source: str
    destination: str
    ignore_missing: bool = False
    recursive: bool = True

    def __str__(self) -> str:
        return ":".join(self.fields())

    def fields(self) -> list[str]:
        """The shortest fields that say it, each escaped."""
        fields = [escape_field(self.source), escape_field(self.destination)]
        if not self.recursive:
            fields.append("norbind")
        elif self.source == self.destination:
            del fields[1]
        if self.ignore_missing:
            fields[0] = "-" + fields[0]
        return fields


def escape_field(text: str) -> str:
    r"""`text` as a field of a colon-separated item: `\` and `:` get a `\`."""
    return text.replace("\\", "\\\\").replace(":", "\\:")


@record
class Tmpfs:
    """A file system in memory, with options as mount(8) has them. Its text is PATH:OPTION,…"""

    path: str
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = escape_field(self.path)
        return f"{place}:{','.join(self.options)}" if self.options else place


@record
class MountImage:
    """A file that holds a file system, and where that is to be seen. Its text is SRC:DST."""

    source: str
    destination: str
    ignore_missing: bool = False

    def __str__(self) -> str:
        mark = "-" if self.ignore_missing else ""
        return f"{mark}{escape_field(self.source)}:{escape_field(self.destination)}"


@record
class WorkingDirectory:
    """Where the payload starts: an absolute path, or `~` for the user's home directory."""

    path: str
    missing_ok: bool = False

    def __str__(self) -> str:
        return f"-{self.path}" if self.missing_ok else self.path


@record
class CPURequest:
    """CPUs that are asked for: so many, or, where `cpus` has some, exactly these."""

    count: int
    cpus: tuple[int, ...] = ()

    def __str__(self) -> str:
        if len(self.cpus) == 1:
            # The number alone would say how many.
            return f"{self.cpus[0]}-{self.cpus[0]}"
        return ",".join(map(str, self.cpus)) or str(self.count)


@record
class GPURequest:
    """GPUs by their numbers; none for no GPU at all."""

    gpus: tuple[int, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.gpus)) or "none"


@record
class ResourceLimit:
    """Soft and hard limit as setrlimit(2) takes them; `INFINITY` for none."""

    soft: int
    hard: int

    def __str__(self) -> str:
        soft, hard = as_text(self.soft), as_text(self.hard)
        return soft if soft == hard else f"{soft}:{hard}"


_SAY_THEMSELVES = (
    *(Usec, Percent, Bind, Tmpfs, MountImage, WorkingDirectory),
    *(CPURequest, GPURequest, ResourceLimit),
)


def as_text(raw: Any) -> str:
    """The text that says `raw`, whether a caller's natural type or one of the values above.

    Bytes that are not UTF-8 become surrogates (PEP 383), as in sys.argv and os.environ.
    Raises Refused for types that say nothing here.
    """
    if hasattr(raw, "__fspath__"):
        raw = raw.__fspath__()
    if isinstance(raw, str):
        return canonical(raw)
    if isinstance(raw, bytes):
        return canonical(raw.decode("utf-8", "surrogateescape"))
    if isinstance(raw, bool):
        return "yes" if raw else "no"
    if isinstance(raw, _SAY_THEMSELVES):
        return str(raw)
    if isinstance(raw, (int, float)):
        return _number_text(raw)
    if hasattr(raw, "total_seconds"):
        return f"{raw // type(raw)(microseconds=1)}us"
    raise Refused


def _number_text(number: float) -> str:
    if number in (INFINITY, float("inf")):
        return "infinity"
    whole = isinstance(number, int) or number.is_integer()
    return str(int(number)) if whole else repr(number)


def canonical(text: str) -> str:
    """`text` with its surrogates as decoding its bytes gives them; Refused if it has no bytes.

    A NUL byte is refused: no path, argument or variable can hold one.
    """
    if "\0" in text:
        raise Refused("contains a NUL byte", "Leave the NUL byte out")
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Refused("contains a lone surrogate", "Give text that has an encoding") from None


def shown(raw: object) -> str:
    """`raw` for a message: quoted, on one line, and not longer than a line."""
    text = f'"{raw}"' if isinstance(raw, str) else repr(raw)
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line if len(line) <= 80 else line[:76] + "…" + line[-1]
