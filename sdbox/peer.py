"""systemd at the other end of its private socket: D-Bus messages, with no daemon in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbox.bus import Bus

if TYPE_CHECKING:
    from collections.abc import Sequence


class Peer(Bus):
    """A connection to systemd itself. Nobody has a name on it, and all signals come unasked for.

    systemd can't tell one such peer from another, so it keeps no unit for it (`AddRef`).
    """

    direct = True

    async def _call_driver(
        self, member: str, signature: str = "", body: Sequence[Any] = (), *, timeout: float
    ) -> list[Any]:
        """Ask nothing of the daemon that there is not: no name to get, no signals to choose."""
        return []
