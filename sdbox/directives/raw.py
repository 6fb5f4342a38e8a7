"""Raw text of command-line options to what their directives read."""

from __future__ import annotations

from sdbox.values import Refused
from sdbox.values.filesystems import split_commas
from sdbox.values.names import flag_of, split_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def one_item(raw: str, environment: Mapping[str, str]) -> list[str]:
    """One item more."""
    return [raw]


def only_cpus(raw: str, environment: Mapping[str, str]) -> list[str]:
    """These CPUs."""
    # An option names the CPUs that are meant, not some more of them: it resets what was before.
    return ["", *split_cpus(raw)]


def only_capabilities(raw: str, environment: Mapping[str, str]) -> list[str]:
    """These capabilities."""
    return ["~" if raw.startswith("~") else "none", raw]


def only_calls(raw: str, environment: Mapping[str, str]) -> list[str]:
    """These system calls."""
    return ["", raw]


def variable(raw: str, environment: Mapping[str, str]) -> list[str]:
    """NAME=VALUE, or NAME with the value that the caller has. Raises Refused."""
    if "=" in raw:
        return [raw]
    if raw not in environment:
        raise Refused("is not in the environment", "Give NAME=VALUE, or set it before")
    return [f"{raw}={environment[raw]}"]


def only_paths(raw: str, environment: Mapping[str, str]) -> list[str]:
    """These paths, with commas between them."""
    return ["", *split_commas(raw)]


def overlay(raw: str, environment: Mapping[str, str]) -> str:
    """Where the layer above a root is: tmpfs, or a directory. Raises Refused."""
    if raw == "tmpfs":
        return "yes"
    if not raw.startswith("/"):
        raise Refused("is neither tmpfs nor an absolute path", "Give tmpfs, or a directory")
    return raw


def network(raw: str, environment: Mapping[str, str]) -> bool:
    """Whether none is wanted. Raises Refused."""
    return flag_of({"none": True, "host": False}, raw)
