"""Proxies of the environment: this computer is never reached through one; values that httpx cannot read are reported.

gradio and huggingface_hub make HTTP clients while they are imported, and httpx, which they use, raises errors for
proxies and exceptions that other programs understand. So this has to run before they are imported.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import urllib.request
from collections.abc import Callable, MutableMapping
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_EXCEPTIONS = "no_proxy"
_SEPARATORS = re.compile(r"[,;|\s]+")  # programs differ; Windows' settings have semicolons
_AROUND = " \t\r\n\"'\u200b\u200e\ufeff"  # what gets around a value that is copied or quoted twice
_NO_PROXY = ("direct", "none", "off")


def prepare_proxies(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Make the proxy variables readable, and except this computer from them. Returns what was left out, in words."""
    copy_system_proxies(environ)
    said = [sentence for name in list(environ) if name.lower() in _PROXIES for sentence in _mend(name, environ)]
    given = {name: value for name, value in environ.items() if name.lower() in (*_PROXIES, _EXCEPTIONS)}
    if not any(given.values()):
        return said
    lists = [value for name, value in given.items() if name.lower() == _EXCEPTIONS]
    entries = [entry for value in lists for entry in _SEPARATORS.split(value.strip(_AROUND))]
    kept, dropped = _exceptions(entries)
    said += [f"The exception {entry} of NO_PROXY cannot be used and is ignored." for entry in dropped]
    for name in (_EXCEPTIONS, _EXCEPTIONS.upper()):
        environ[name] = ",".join(kept)
    return said


def copy_system_proxies(environ: MutableMapping[str, str], proxies: Callable[[], dict[str, str]] | None = None) -> None:
    """Copy the proxies of Windows' or macOS' settings into variables, since these have no exception for this computer.

    ``proxies``: the system's settings; None: asked for on Windows and macOS only, where there are some.
    """
    if any(name.lower() in _PROXIES for name in environ):
        return  # variables count more than settings
    if proxies is None and sys.platform not in ("win32", "darwin"):
        return
    found = (proxies or urllib.request.getproxies)()
    for scheme in ("http", "https"):
        if value := found.get(scheme):
            environ[f"{scheme.upper()}_PROXY"] = value


def proxies() -> dict[str, str]:
    """The proxy of each scheme, "http" and "https", as the environment names it."""
    found = urllib.request.getproxies_environment()
    named = {scheme: found.get(scheme) or found.get("all") for scheme in ("http", "https")}
    return {scheme: url if "://" in url else f"http://{url}" for scheme, url in named.items() if url}


def needs_no_proxy(host: str) -> bool:
    """Whether the environment excepts a host from its proxies."""
    return bool(urllib.request.proxy_bypass_environment(host))  # type: ignore[attr-defined]


def _mend(name: str, environ: MutableMapping[str, str]) -> list[str]:
    """Write a proxy as httpx reads it, or remove it. Returns a sentence if it was removed."""
    value = environ[name].strip(_AROUND).removeprefix("//")
    if value.lower() in _NO_PROXY:
        environ[name] = ""
        return []
    scheme, marks, rest = value.partition("://")
    scheme = {"socks": "socks5"}.get(scheme.lower(), scheme.lower()) if marks else "http"
    rest = rest if marks else value
    if not value:
        return []
    why = ""
    try:
        parts = urlsplit(f"//{rest}")
        if not parts.hostname or (parts.port is None and parts.netloc.endswith(":")):
            why = "it contains no server name"
        elif any(letter.isspace() for letter in rest):
            why = "it contains a blank"
        elif parts.path.strip("/") and parts.username is None:
            why = "it contains a path, and scripts that choose a proxy (.pac) are not supported"
    except ValueError:  # its text may hold a part of the password
        why = "its port is not a number"
        if "@" in rest:
            why += ", or a character of the password has to be written in another way, such as %23 for # and %2F for /"
    if scheme not in ("http", "https", "socks5", "socks5h"):
        why = f"proxies of the kind {scheme} are not supported"
    elif scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        why = "the package socksio is missing; install it with: pip install socksio"
    if why:
        del environ[name]
        return [f"The proxy {_without_password(value)} of {name} is not used: {why}."]
    environ[name] = f"{scheme}://{rest}" if marks else value
    return []


def _without_password(value: str) -> str:
    return f"…@{value.rsplit('@', 1)[1]}" if "@" in value else value


def _exceptions(entries: list[str]) -> tuple[list[str], list[str]]:
    """Exceptions that httpx can read, with this computer among them, and those that it cannot."""
    kept, dropped = [], []
    for entry in filter(None, (entry.strip() for entry in entries)):
        bare = entry.removeprefix("[").removesuffix("]")
        if bare.count(":") > 1:  # IPv6; httpx knows no ranges of it
            host, slash, length = bare.partition("/")
            if slash and length != "128":
                dropped.append(entry)
                continue
            bare = host.split("]")[0]
        elif bare.startswith("*."):
            bare = bare[1:]
        if all(letter.isascii() and (letter.isalnum() or letter in ".:-_*/%") for letter in bare):
            kept.append(bare)
        else:
            dropped.append(entry)
    return list(dict.fromkeys([*kept, *LOOPBACK])), dropped
