"""Which hosts a call may reach: the rules for addresses, before any name is resolved by a connection.

Owns the machine's side of trust in an endpoint. Knows nothing of requests and loads no HTTP client.
Invariant: an address that hands out cloud credentials (link-local, metadata services) is denied, whatever a
chain, a DNS answer or the settings say.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from chains.errors import ConnectionFailed, EnvironmentLacks, Refused

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local; EC2, GCP, Azure and others serve credentials at 169.254.169.254
        "fe80::/10",  # link-local
        "fd00:ec2::/32",  # EC2 metadata over IPv6
        "100.100.100.200/32",  # Alibaba Cloud metadata
        "168.63.129.16/32",  # Azure wire server
        "192.0.0.192/32",  # Oracle Cloud metadata
    )
)
NEVER_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"}
)
PLACE = re.compile(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+(?:%[a-z0-9._-]+)?\])(?::\d*)?", re.I)
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def split_url(url: str, where: str) -> SplitResult:
    """Return the parts of an endpoint's address; raise when it is none, or carries secrets."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # Its message may quote what stands before an `@`.
        raise EnvironmentLacks(f"{where}: base_url is no valid address.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EnvironmentLacks(
            f"{where}: base_url must be an http or https address.",
            hint="Write it up to and including /v1, such as http://127.0.0.1:8000/v1.",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EnvironmentLacks(
            f"{where}: base_url of host {parts.hostname!r} carries a user name, password or query.",
            hint="Give the secret as api_key: '{{ env.NAME }}'.",
        )
    if not PLACE.fullmatch(parts.netloc):
        # Escapes and letters of other scripts are read in more than one way; check and call must not differ.
        raise EnvironmentLacks(
            f"{where}: the host {parts.hostname!r:.200} is not written in plain letters, digits, dots and -.",
            hint="Write an international name in its xn-- form.",
        )
    return parts


def check_host(host: str, allowed: Sequence[str] | None, where: str) -> None:
    """Raise Refused unless the machine's settings let a chain call this host."""
    name = host.lower().rstrip(".")
    address = literal_address(name)
    if name in NEVER_NAMES or (address is not None and is_denied(address)):
        raise Refused(f"{where}: {host!r} is a link-local or metadata address, which is never called.")
    if allowed is not None and not matches(host, allowed):
        raise Refused(
            f"{where}: the host {host!r} is not among the hosts that this machine's settings allow.",
            hint="Add it to HEADRACE_ALLOWED_HOSTS if you trust it with your prompts and the key.",
        )


def matches(host: str, patterns: Sequence[str]) -> bool:
    """Whether a host is one of these, of which `*` stands for any letters."""
    name = host.lower().rstrip(".")
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns)


def check_addresses(host: str, port: int | None, where: str) -> None:
    """Resolve a host and raise Refused where one of its addresses is never called.

    For clients that resolve names by themselves; those of this package use `GuardedResolver`.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectionFailed(f"{where}: the host {host!r} cannot be reached: {error}.") from error
    for *_, place in found:
        if is_denied(ipaddress.ip_address(str(place[0]).split("%", 1)[0])):
            raise Refused(
                f"{where}: {host!r} leads to a link-local or metadata address, which is never called."
            )


def literal_address(host: str) -> Address | None:
    """Return the IP address that a host is written as in any of its spellings, or None for a name."""
    try:
        return ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        pass
    try:
        # What the system connects to for `127.1`, `2852039166` or `0xa9.0xfe.43518`.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def is_denied(address: Address) -> bool:
    """Whether an address, or the IPv4 address inside it, is link-local or a metadata service."""
    candidates: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        candidates += [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
        if address in NAT64:
            candidates.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return any(
        candidate.version == network.version and candidate in network
        for candidate in candidates
        for network in NEVER
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    address = literal_address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)
