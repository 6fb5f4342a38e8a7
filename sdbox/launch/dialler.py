"""The way to a manager for who launches through a helper, begun ahead of need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.bus import Bus, Peer
from sdbox.errors import SdboxError
from sdbox.journal.writer import Journal
from sdbox.launch.placing import Connection
from sdbox.manager import Manager

if TYPE_CHECKING:
    import asyncio

    from sdbox.launch.helper import Helper
    from sdbox.systemd.endpoint import Endpoint

# A manager under load takes its time; what hangs for longer is broken.
_CALL_SECONDS = 60.0


class Dialler:
    """Reaches a manager through the helper; it can begin with that ahead of need."""

    def __init__(self, endpoint: Endpoint, helper: Helper) -> None:
        self.endpoint = endpoint
        self.helper = helper
        self._first: asyncio.Task[Bus] | None = None

    def begin(self) -> None:
        """Begin to make the first connection."""
        if self.endpoint.has_bus:
            self._first = loop.running().create_task(self._dial())

    async def dial(self) -> Bus:
        """Return a connection to the bus. Raises ManagerUnavailable and TimedOut."""
        first, self._first = self._first, None
        return await (first or self._dial())

    async def close(self) -> None:
        """Let go of a first connection that nobody has needed in the end."""
        first, self._first = self._first, None
        if first is None:
            return
        first.cancel()
        try:
            await (await first).close()
        except BaseException as error:
            if not (isinstance(error, SdboxError) or loop.is_cancellation(error)):
                raise

    async def _dial(self) -> Bus:
        self.endpoint.check()
        sock = await self.helper.connect(self.endpoint.bus_socket)
        kind = Peer if self.endpoint.direct else Bus
        return await kind.connect_socket(sock, timeout=_CALL_SECONDS)


async def connect(dialler: Dialler, *, only: str | None = None) -> Connection:
    """Reach the manager. `only` is the one unit that will be started.

    Raises ManagerUnavailable and TimedOut.
    """
    endpoint, helper = dialler.endpoint, dialler.helper
    if endpoint.kind == "none":
        from sdbox.launch.unmanaged import Unmanaged

        journal = Journal(endpoint.journal)
        return Connection(endpoint=endpoint, manager=Unmanaged(), helper=helper, journal=journal)
    if endpoint.kind == "nested":
        from sdbox.nesting import inner

        manager: Manager = await inner.connect(endpoint.bus_socket)
    else:
        manager = await Manager.connect(dialler.dial, timeout=_CALL_SECONDS, only=only)
    sender = None if endpoint.pid_namespace is None else helper.pid
    journal = Journal(endpoint.journal, sender)
    return Connection(endpoint=endpoint, manager=manager, helper=helper, journal=journal)
