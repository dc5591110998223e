"""Which host names are ours: a web page elsewhere can point its own name at 127.0.0.1 (DNS rebinding)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def machine_names() -> frozenset[str]:
    """Return the names of this computer in its own network."""
    name = socket.gethostname().lower()
    return frozenset({name, f"{name.split('.')[0]}.local"}) if name else frozenset()


def written_forms(name: str) -> frozenset[str]:
    """How a host name may be written in a Host header: browsers send "xn--mnchen-3ya.example" for "münchen.example"."""
    name = name.lower().rstrip(".")
    try:
        return frozenset({name, name.encode("idna").decode("ascii")})
    except UnicodeError:  # a part is empty or too long
        return frozenset({name})


def host_allowed(host: str, names: Iterable[str], any_address: bool) -> bool:
    """Return whether a Host header, ``name`` or ``name:port``, is one of ours.

    ``any_address``: accept every plain IP address too. Unlike a name, nobody can point an address elsewhere.
    """
    name = name_of(f"//{host}")
    if name is None:
        return False
    if name in names:
        return True
    if not any_address:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def origin_allowed(origin: str, host: str) -> bool:
    """Return whether an Origin header names this very server (``host``: the Host header, already checked)."""
    try:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
    except ValueError:
        return False


def name_of(address: str) -> str | None:
    """The host name in "//name:port"; None if there is more in it than that."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError if the port is not a number
        if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
            return None
        return parts.hostname.rstrip(".") if parts.hostname else None  # "name." is the same host
    except ValueError:
        return None
