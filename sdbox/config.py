"""The administrator's configuration: defaults for every box, boxes and root directories by name.

[defaults]
PrivateTmp = true

[box.small]
MemoryMax = "512M"
Environment = { OMP_NUM_THREADS = "1" }

[roots]
el7 = "/srv/roots/el7"
"""

from __future__ import annotations

from sdbox.box import Box
from sdbox.errors import InvalidConfiguration, InvalidDirective
from sdbox.record import record
from sdbox.values import Refused, as_text
from sdbox.values.names import path as absolute_path
from sdbox.values.names import root_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DEFAULT_PATH = "/etc/sdbox/sdbox.toml"

# There without any configuration; one of the same name in it is taken instead. No capability and no
# namespace alone locks a job of root in: these do so together.
_SHIPPED: Mapping[str, Mapping[str, object]] = {
    "strict": {
        "PrivateTmp": True,
        "PrivateShm": True,
        "PrivatePIDs": True,
        "PrivateIPC": True,
        "PrivateDevices": True,
        "NoNewPrivileges": True,
        "CapabilityBoundingSet": "",
        "SystemCallFilter": "@system-service",
        "SystemCallErrorNumber": "EPERM",
        "SystemCallArchitectures": "native",
        "RestrictNamespaces": True,
        "RestrictRealtime": True,
        "RestrictSUIDSGID": True,
        "LockPersonality": True,
        "ProtectSystem": "strict",
        "ProtectHome": "tmpfs",
        "ProtectProc": "invisible",
        "ProtectKernelTunables": True,
        "ProtectKernelModules": True,
        "ProtectControlGroups": True,
        "ManagerAccess": False,
    }
}

_TABLES = ("defaults", "box", "roots")


@record
class Configuration:
    """What a configuration file says. `roots` are directories by their names."""

    path: str
    defaults: Box
    boxes: Mapping[str, Box]
    roots: Mapping[str, str]

    def box(self, name: str) -> Box:
        """The box called `name`, without the defaults, or a shipped one.

        Raises InvalidConfiguration.
        """
        if name in self.boxes:
            return self.boxes[name]
        if name in _SHIPPED:
            return Box.from_mapping(_SHIPPED[name])
        known = ", ".join(self.boxes)
        raise InvalidConfiguration(
            f"{name!r}: no such box in {self.path}",
            hint=f"There are: {known}" if known else f"Add a table [box.{name}] to the file",
        )


def load(path: str | None = None, *, default: str = DEFAULT_PATH) -> Configuration:
    """The configuration in the file `path`, or in `default`, which may be missing.

    Raises InvalidConfiguration, naming file and key.
    """
    place = default if path is None else path
    try:
        with open(place, "rb") as file:
            contents = file.read()
    except FileNotFoundError:
        if path is None:
            return Configuration(path=place, defaults=Box(), boxes={}, roots={})
        raise InvalidConfiguration(
            f"{place}: no such file", hint="Name a configuration file that is there"
        ) from None
    except OSError as error:
        raise InvalidConfiguration(
            f"{place}: {error.strerror}", hint="Make it a file that can be read"
        ) from None
    return _configuration(place, _parsed(place, contents))


def _parsed(path: str, contents: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(contents.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise InvalidConfiguration(f"{path}: not TOML: {problem}", hint="Mend the file") from None


def _configuration(path: str, document: dict[str, Any]) -> Configuration:
    for name in document:
        if name not in _TABLES:
            raise InvalidConfiguration(
                f"{path}: {name!r}: no such table",
                hint="There are [defaults], [box.NAME] and [roots]",
            )
    boxes = _table(path, "box", document.get("box", {}))
    roots = _table(path, "roots", document.get("roots", {}))
    return Configuration(
        path=path,
        defaults=_box(path, "defaults", document.get("defaults", {})),
        boxes={name: _box(path, f"box.{name}", table) for name, table in boxes.items()},
        roots={name: _root(path, name, place) for name, place in roots.items()},
    )


def _table(path: str, name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise InvalidConfiguration(f"{path}: {name} is not a table", hint=f"Write it as [{name}]")


def _root(path: str, name: str, place: Any) -> str:
    try:
        root_name(name)
        return absolute_path(as_text(place))
    except Refused as refusal:
        problem = refusal.problem or "is not a root's name and directory"
        hint = refusal.hint or 'Write it as name = "/directory"'
        raise InvalidConfiguration(f"{path}: [roots] {name}: {problem}", hint=hint) from None


def _box(path: str, name: str, value: Any) -> Box:
    try:
        return Box.from_mapping(_table(path, name, value))
    except InvalidDirective as error:
        raise InvalidConfiguration(f"{path}: [{name}] {error.message}", hint=error.hint) from None
