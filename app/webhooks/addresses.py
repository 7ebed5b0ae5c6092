"""Which addresses a webhook may go to: public ones, looked up once and then connected to.

A name is resolved here and nowhere else: who sends connects to the address that was checked, so a
name that means something else a moment later changes nothing. A name that means several addresses
is refused if one of them is.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from app.settings import get_settings

MAX_URL_CHARS = 2000
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Host and port to addresses, as text.
Resolve = Callable[[str, int], Sequence[str]]
# Ranges that Python's `is_global` lets pass, though they lead, or may lead, into a private network.
_TUNNELS: dict[Network, str] = {
    ipaddress.ip_network("64:ff9b::/96"): "NAT64",
    ipaddress.ip_network("64:ff9b:1::/48"): "NAT64",
    ipaddress.ip_network("2002::/16"): "6to4",
    ipaddress.ip_network("2001::/32"): "Teredo",
    ipaddress.ip_network("fec0::/10"): "site-local",
    ipaddress.ip_network("192.88.99.0/24"): "6to4",
}
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?", re.IGNORECASE)
# What some resolvers take for IPv4 ends in a number: decimal, octal or hexadecimal. No name does.
_ENDS_IN_NUMBER = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)


class AddressRefused(ValueError):
    """A URL that webhooks are not sent to; the text says why."""


@dataclass(frozen=True)
class Target:
    """Where to connect to, and what to say there.

    Attributes:
        address: the one that was checked, as text.
        host: of the URL, for `Host` and the certificate; IPv6 without brackets.
        port: 1 to 65535.
        authority: host and port as the URL has them.
        path: with the query.
    """

    scheme: str
    address: str
    host: str
    port: int
    authority: str
    path: str


def check_url(url: str, resolve: Resolve | None = None) -> Target:
    """Where a URL leads now.

    Raises:
        AddressRefused: it is no URL for webhooks, its name is unknown, or leads to an address
            that is not public and not among LORAWRIGHT_WEBHOOK_ALLOWED_NETWORKS.
    """
    parts, port = _parts(url)
    host = (parts.hostname or "").rstrip(".")
    try:
        found = [str(ipaddress.ip_address(host))]
    except ValueError:
        if _ENDS_IN_NUMBER.fullmatch(host) or not _NAME.fullmatch(host):
            raise AddressRefused(f"{host!r} is no host name") from None
        found = list((resolve or _resolve)(host, port))
    if not found:
        raise AddressRefused(f"{host} has no address")
    for text in found:
        address = ipaddress.ip_address(text.partition("%")[0])
        if (reason := _refusal(address)) is not None:
            raise AddressRefused(
                f"{host} is {address}, {reason}; webhooks go to public addresses, and to those of "
                "LORAWRIGHT_WEBHOOK_ALLOWED_NETWORKS"
            )
    path = parts.path or "/"
    return Target(
        scheme=parts.scheme,
        address=found[0],
        host=host,
        port=port,
        authority=parts.netloc,
        path=f"{path}?{parts.query}" if parts.query else path,
    )


def _parts(url: str) -> tuple[SplitResult, int]:
    if len(url) > MAX_URL_CHARS:
        raise AddressRefused(f"The URL has {len(url)} characters; the limit is {MAX_URL_CHARS}")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise AddressRefused("The URL has characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressRefused(f"The URL cannot be read: {error}") from None
    schemes = ("https", "http") if get_settings().webhook_allow_http else ("https",)
    if parts.scheme not in schemes:
        detail = f"The URL begins with {parts.scheme or 'nothing'}; https is needed"
        raise AddressRefused(f"{detail} unless LORAWRIGHT_WEBHOOK_ALLOW_HTTP is set")
    if parts.username is not None or parts.password is not None:
        raise AddressRefused("The URL holds a user name or password; put a secret in its path")
    if parts.fragment:
        raise AddressRefused("The URL has a fragment, which is never sent")
    if not parts.hostname:
        raise AddressRefused("The URL names no host")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    if port == 0:
        raise AddressRefused("The URL has the port 0")
    return parts, port


def _refusal(address: Address) -> str | None:
    """Why nothing is sent to an address; None if it may be."""
    if any(address in ipaddress.ip_network(text) for text in _allowed()):
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _refusal(address.ipv4_mapped)
        if address.scope_id is not None:
            return "which is of one link only"
    for network, kind in _TUNNELS.items():
        if address in network:
            return f"a {kind} address"
    if address.is_loopback:
        return "which is this machine itself"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified or address.is_reserved:
        return "a reserved address"
    return None if address.is_global else "a private address"


def _allowed() -> Sequence[str]:
    return get_settings().webhook_allowed_networks


def _resolve(host: str, port: int) -> Sequence[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressRefused(f"{host} has no address: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
