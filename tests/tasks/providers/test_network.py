"""Which hosts may be called."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import pytest

from chains.errors import ConnectionFailed, EnvironmentLacks, Refused
from tasks.providers.hosts import check_addresses, check_host, is_denied, is_loopback, split_url
from tasks.providers.network import DeniedAddress, GuardedResolver, certificates


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
    ],
)
def test_addresses_that_hand_out_credentials_are_denied_in_every_spelling(text: str) -> None:
    assert is_denied(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "10.0.0.5", "8.8.8.8", "2606:4700::1111"])
def test_other_addresses_are_not_denied(text: str) -> None:
    assert not is_denied(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "169.254.43518",
        "169.16689662",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.169.254.",
        "fe80::1%eth0",
        "metadata.google.internal",
        "METADATA",
    ],
)
def test_a_metadata_host_is_refused_even_when_the_settings_allow_it(host: str) -> None:
    with pytest.raises(Refused, match="never called"):
        check_host(host, (host, "*"), "model 'm'")


@pytest.mark.parametrize(
    ("allowed", "host", "passes"),
    [
        (None, "anything.example", True),
        ((), "api.openai.com", False),
        (("api.openai.com",), "API.OpenAI.com", True),
        (("api.openai.com",), "api.openai.com.evil.example", False),
        (("*.example.com",), "llm.example.com", True),
        (("*.example.com",), "example.com", False),
        (("*.example.com",), "example.com.evil", False),
    ],
)
def test_only_hosts_of_the_settings_pass(allowed: tuple[str, ...] | None, host: str, passes: bool) -> None:
    if passes:
        check_host(host, allowed, "model 'm'")
    else:
        with pytest.raises(Refused, match=r"model 'm'.*settings allow.*HEADRACE_ALLOWED_HOSTS"):
            check_host(host, allowed, "model 'm'")


@pytest.mark.parametrize(
    "url", ["ftp://h/v1", "h/v1", "http://", "http://h:99999/v1", "http://[::1/v1", "file:///etc/passwd", ""]
)
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(EnvironmentLacks, match="base_url"):
        split_url(url, "model 'm'")


@pytest.mark.parametrize("url", ["http://me:hunter2@h/v1", "http://h/v1?key=hunter2", "http://h/v1#hunter2"])
def test_a_secret_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(EnvironmentLacks, match="api_key") as caught:
        split_url(url, "model 'm'")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["169%2e254.169.254", "①⑥⑨.254.169.254", "a_b%00", "[::1%25lo]x"])
def test_a_host_that_can_be_read_in_two_ways_is_refused(host: str) -> None:
    with pytest.raises(EnvironmentLacks):
        split_url(f"http://{host}/v1", "model 'm'")


def test_every_address_of_a_name_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    check_addresses("two-faced.example", 80, "collection 'c'")

    found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80)))
    with pytest.raises(Refused, match=r"collection 'c'.*leads to"):
        check_addresses("two-faced.example", 80, "collection 'c'")


def test_a_name_that_leads_nowhere_is_a_failed_connection() -> None:
    with pytest.raises(ConnectionFailed, match="no-such-host"):
        check_addresses("no-such-host.invalid", 80, "collection 'c'")


def test_loopback_is_this_machine_only() -> None:
    assert is_loopback("127.1") and is_loopback("2130706433")
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("10.0.0.1") and not is_loopback("localhost.evil.example")


async def test_a_name_that_resolves_to_a_metadata_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]

    async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        return list(answer)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    resolver = GuardedResolver()
    with pytest.raises(DeniedAddress):
        await resolver.resolve("rebind.example", 80)

    answer.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 80)))
    assert [item["host"] for item in await resolver.resolve("rebind.example", 80)] == ["10.0.0.7"]


def test_a_certificate_bundle_that_is_not_there_is_named() -> None:
    with pytest.raises(EnvironmentLacks, match=r"'/no/such/bundle.pem'.*SSL_CERT_FILE"):
        certificates({"SSL_CERT_FILE": "/no/such/bundle.pem"})
