"""The addresses that a job may talk to: systemd's syntax, and what it becomes on D-Bus. Pure.

An item is an address, a prefix such as 10.0.0.0/8, or one of systemd's words for some of them
(systemd.resource-control(5), IPAddressAllow=).
"""

from __future__ import annotations

import ipaddress

from sdbox.properties import UnitProperty
from sdbox.values import WHITESPACE, Refused, as_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_WORDS = {
    "any": ("0.0.0.0/0", "::/0"),
    "localhost": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/64"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
}
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_MAPPED_HINT = "Give the IPv4 address alone"
# Linux's AF_INET and AF_INET6.
_FAMILIES = {4: 2, 6: 10}


def item(raw: object) -> str:
    """One item as it is written: a word, or a prefix without what it does not cover."""
    text = as_text(raw).strip(WHITESPACE)
    return text if text in _WORDS else str(_network(text)).removesuffix(_whole(text))


def _whole(text: str) -> str:
    return "/128" if ":" in text else "/32"


def _network(text: str) -> Network:
    length = text.partition("/")[2] if "/" in text else "0"
    # A zone is no part of an address on the wire, and a mask is not systemd's syntax.
    if "%" in text or not (length.isascii() and length.isdecimal()):
        raise Refused
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Refused from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        # Such packets are IPv4 on the wire, where no IPv6 prefix is looked for.
        raise Refused("stands for an IPv4 address, and would match nothing", _MAPPED_HINT)
    return network


def property_of(name: str, items: Iterable[str]) -> tuple[UnitProperty, ...]:
    """The property `name` of items: family, address in network byte order, length of prefix."""
    networks = (ipaddress.ip_network(text) for one in items for text in _WORDS.get(one, (one,)))
    value = [
        [_FAMILIES[network.version], network.network_address.packed, network.prefixlen]
        for network in networks
    ]
    return (UnitProperty(name=name, signature="a(iayu)", value=value),)
