"""Where webhooks may not go: inside, whatever the URL looks like."""

from collections.abc import Sequence

import pytest

from app.settings import get_settings
from app.webhooks import addresses
from app.webhooks.addresses import AddressRefused, check_url


def allow(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    changed = get_settings().model_copy(update=fields)
    monkeypatch.setattr(addresses, "get_settings", lambda: changed)


PUBLIC = ("93.184.215.14",)


def names(*found: str) -> "addresses.Resolve":
    def resolve(_host: str, _port: int) -> Sequence[str]:
        return found

    return resolve


def test_a_public_name_leads_to_the_address_that_was_checked() -> None:
    target = check_url("https://example.com:8443/hook?a=1", names(*PUBLIC))
    assert target.address == "93.184.215.14"
    assert (target.host, target.port, target.authority) == ("example.com", 8443, "example.com:8443")
    assert target.path == "/hook?a=1"
    assert check_url("https://example.com", names("2606:2800:21f:cb07::1")).path == "/"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.0.1",
        "198.18.0.1",
        "192.88.99.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001:0:7f00:1::1",
        "2001:db8::1",
    ],
)
def test_what_is_not_public_is_refused_by_name_and_by_number(address: str) -> None:
    with pytest.raises(AddressRefused, match="webhooks go to public addresses"):
        check_url("https://example.com/", names(address))
    # One of several is enough, wherever it stands.
    with pytest.raises(AddressRefused):
        check_url("https://example.com/", names(*PUBLIC, address))
    host = f"[{address.replace('%', '%25')}]" if ":" in address else address
    with pytest.raises(AddressRefused):
        check_url(f"https://{host}/", names(*PUBLIC))


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "127.0.0.1.", "1.2.3.4.5", "①"],
)
def test_no_spelling_of_a_number_gets_past(host: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(f"https://{host}/", names(*PUBLIC))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "https is needed"),
        ("ftp://example.com/", "https is needed"),
        ("example.com", "https is needed"),
        ("https://user:pass@example.com/", "user name or password"),
        ("https://user@example.com/", "user name or password"),
        ("https://example.com/#there", "fragment"),
        ("https:///path", "names no host"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:70000/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://exa mple.com/", "percent-encoded"),
        ("https://example.com\\@127.0.0.1/", "percent-encoded"),
        ("https://example.com/\r\nHost: inside", "percent-encoded"),
        ("https://bücher.example/", "percent-encoded"),
        ("https://-a.example/", "no host name"),
        ("https://" + "a" * 2000, "2008 characters; the limit is 2000"),
    ],
)
def test_a_url_that_is_none_for_webhooks_is_refused(url: str, words: str) -> None:
    with pytest.raises(AddressRefused, match=words):
        check_url(url, names(*PUBLIC))


def test_an_operator_may_allow_networks_and_http(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, webhook_allowed_networks=("10.1.0.0/16", "::1/128"), webhook_allow_http=True)
    assert check_url("http://inside.example/", names("10.1.2.3")).port == 80
    assert check_url("http://[::1]:9000/").address == "::1"
    with pytest.raises(AddressRefused, match=r"10\.2\.0\.1, a private address"):
        check_url("http://inside.example/", names("10.2.0.1"))
    # A network of IPv4 is not opened by its other spellings' prefix alone.
    assert check_url("http://inside.example/", names("::ffff:10.1.2.3")).address
    with pytest.raises(AddressRefused):
        check_url("http://inside.example/", names("64:ff9b::a01:203"))


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(AddressRefused, match="has no address"):
        check_url("https://no-such-name.invalid/")
