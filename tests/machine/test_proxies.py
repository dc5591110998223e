"""Proxy variables of all kinds: clients can be made, and this computer is reached directly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from engine.machine.proxies import copy_system_proxies, prepare_proxies
from engine.workspace.paths import APP_FOLDER


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ALL_PROXY": "socks://127.0.0.1:9"}, ""),
        ({"all_proxy": "socks5h://user:secret@127.0.0.1:9"}, ""),
        ({"ALL_PROXY": "socks4://127.0.0.1:9"}, "socks4 are not supported"),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, ""),
        ({"http_proxy": "127.0.0.1:9", "https_proxy": "127.0.0.1:9"}, ""),
        ({"HTTPS_PROXY": "http://proxy:port"}, "not used"),
        ({"HTTPS_PROXY": "http://"}, "contains no server name"),
        ({"HTTPS_PROXY": ""}, ""),
        ({"no_proxy": "localhost,127.0.0.1,::1/128"}, ""),
        ({"no_proxy": "fe80::/10, [::1], .local, *.example.com, 10.0.0.0/8", "HTTP_PROXY": "http://p:1"}, "fe80::/10"),
        ({"NO_PROXY": "*", "HTTP_PROXY": "http://p:1"}, ""),
        ({"NO_PROXY": "b{}d, é", "HTTP_PROXY": "http://p:1"}, "b{}d"),
        ({"NO_PROXY": "other.org; <local>|::1", "HTTP_PROXY": "http://p:1"}, "<local>"),
        ({"NO_PROXY": '"localhost 127.0.0.1"', "HTTP_PROXY": "http://p:1"}, ""),
        ({"NO_PROXY": "[fd00::1]:8080 fe80::1%eth0 192.168.*", "HTTP_PROXY": "http://p:1"}, ""),
        ({"Http_Proxy": "http://p:1", "No_Proxy": "fd00::/8"}, "fd00::/8"),
        ({"HTTP_PROXY": "'http://p:1'\r"}, ""),
        ({"HTTP_PROXY": "\u200b//p:1"}, ""),
        ({"HTTP_PROXY": "DIRECT", "https_proxy": "none"}, ""),
        ({"HTTP_PROXY": "http://p x:1"}, "contains a blank"),
        ({"HTTP_PROXY": "http://p/proxy.pac"}, "scripts that choose a proxy"),
        ({"HTTP_PROXY": "http//p:1"}, "contains a path"),
        ({"HTTP_PROXY": "http://::1:3128"}, "no server name"),
        ({"HTTP_PROXY": "http://[::1]:3128"}, ""),
        ({"HTTP_PROXY": "http=p:1;https=p:2"}, "its port is not a number"),
        ({"HTTP_PROXY": "http://user:secret#1@p:1"}, "%23 for #"),
        ({"HTTP_PROXY": "http://user:secret/1@p:1"}, "%2F for /"),
        ({"HTTP_PROXY": "http://user:s@cret@p:1"}, ""),
    ],
)
def test_a_client_can_be_made_and_this_computer_needs_no_proxy(
    environ: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    for name, value in variables.items():
        environ.setenv(name, value)
    said = prepare_proxies()
    assert (told in " ".join(said)) if told else said == []
    assert "secret" not in " ".join(said)
    with httpx.Client(verify=False) as client:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            direct = client._transport_for_url(httpx.URL(f"http://{host}:7860/"))
            assert direct is client._transport
        if variables.get("HTTP_PROXY") == "http://p:1" and variables.get("NO_PROXY") != "*":
            assert client._transport_for_url(httpx.URL("http://elsewhere.org/")) is not client._transport


def test_without_proxies_nothing_is_set(environ: pytest.MonkeyPatch) -> None:
    assert prepare_proxies() == [] and not any(name.lower() == "no_proxy" for name in os.environ)


def test_the_systems_own_settings_become_variables() -> None:
    variables: dict[str, str] = {}
    copy_system_proxies(variables, lambda: {"http": "http://company:8080", "https": "http://company:8080"})
    assert variables == {"HTTP_PROXY": "http://company:8080", "HTTPS_PROXY": "http://company:8080"}
    copy_system_proxies(variables, lambda: {"http": "http://other:1"})
    assert variables["HTTP_PROXY"] == "http://company:8080"


def test_the_libraries_can_be_imported_after_it(tmp_path: Path) -> None:
    code = "from engine.machine.environment import prepare; prepare(); import gradio; print('imported')"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        "ALL_PROXY": "socks://127.0.0.1:9",
        "no_proxy": "::1/128,[::1],fe80::/10",
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=APP_FOLDER, env=environment, capture_output=True, text=True)
    assert done.stdout.strip().endswith("imported"), done.stderr
