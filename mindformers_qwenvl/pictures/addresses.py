"""Which internet addresses belong to a private machine or network, so that no picture is fetched from there.

The ranges are those of the IANA special-purpose address registries (RFC 6890 and its updates). They are written out
here because `ipaddress.is_global` differs between versions of Python, and not every version looks at an IPv4 address
inside an IPv6 one.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

__all__ = ["NEVER", "Address", "kind", "network", "real_address"]

Address: TypeAlias = "IPv4Address | IPv6Address"

_V4 = (
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a provider's customers"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "reserved for documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "reserved for benchmarks"),
    ("198.51.100.0/24", "reserved for documentation"),
    ("203.0.113.0/24", "reserved for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
)
_V6 = (
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b:1::/48", "private"),  # a NAT64 of the local network
    ("2001::/23", "reserved"),  # Teredo, ORCHID and others
    ("2001:db8::/32", "reserved for documentation"),
    ("3fff::/20", "reserved for documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
)
_UNICAST = IPv6Network("2000::/3")  # all IPv6 addresses that are assigned
_TABLES = {
    4: tuple((IPv4Network(network), name) for network, name in _V4),
    6: tuple((IPv6Network(network), name) for network, name in _V6),
}
# Networks whose addresses contain the IPv4 address they lead to, and the place of its lowest bit: mapped, translated
# (SIIT), compatible, NAT64, 6to4.
_CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("::ffff:0:0:0/96"), 0),
    (IPv6Network("::/96"), 0),
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("2002::/16"), 80),
)
_ISATAP = (0x00005EFE, 0x02005EFE)  # bits 32 to 63 of an address that carries IPv4 in the last 32

# Kinds that no setting allows: there are no pictures at such addresses, and 0.0.0.0 is another name of this machine.
NEVER = frozenset(("unspecified", "multicast", "reserved"))


def real_address(address: str | Address) -> Address:
    """The address where a connection ends: the IPv4 address inside an IPv6 one, if it contains one, else itself.

    Raises:
        ValueError: `address` is not an address.
    """
    parsed = ip_address(address)
    return _carried(parsed) or _isatap(parsed) or parsed


def kind(address: str | Address) -> str | None:
    """What kind of address it is ("loopback", "private", "link-local", ...) if it is not public, else None.

    Raises:
        ValueError: `address` is not an address.
    """
    parsed = ip_address(address)
    if carried := _carried(parsed):
        return _own_kind(carried)
    inner = _isatap(parsed)
    return (_own_kind(inner) if inner else None) or _own_kind(parsed)


def _carried(address: Address) -> IPv4Address | None:
    if address.version == 4 or int(address) in (0, 1):  # :: and ::1 contain none
        return None
    return next((IPv4Address(int(address) >> bit & 0xFFFFFFFF) for net, bit in _CARRIERS if address in net), None)


def _isatap(address: Address) -> IPv4Address | None:
    """The IPv4 address in an ISATAP address. Unlike with the carriers, the network of the IPv6 address counts too."""
    number = int(address)
    if address.version == 4 or number >> 32 & 0xFFFFFFFF not in _ISATAP:
        return None
    return IPv4Address(number & 0xFFFFFFFF)


def _own_kind(address: Address) -> str | None:
    for network, name in _TABLES[address.version]:
        if address in network:
            return name
    return "reserved" if address.version == 6 and address not in _UNICAST else None


@lru_cache(maxsize=256)
def network(text: str) -> IPv4Network | IPv6Network:
    """A network of `allow_private`: "10.1.0.0/16", or a single address.

    Raises:
        ValueError: `text` is not a network, or has host bits set.
    """
    return ip_network(text)
