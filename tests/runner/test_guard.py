"""Which addresses a scan may contact."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattegat.model.work import Limits
from kattegat.runner.guard import Guard, Refused, embedded, own_addresses, plain

NOTHING = Guard(Limits("internet"))
PRIVATE_4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]


def inside(network: ipaddress.IPv4Network) -> st.SearchStrategy[ipaddress.IPv4Address]:
    return st.integers(int(network[0]), int(network[-1])).map(ipaddress.IPv4Address)


refused_4 = st.sampled_from(PRIVATE_4).flatmap(inside)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.5",
        "127.0.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "100.64.0.1",
        "100.100.100.200",
        "0.0.0.0",
        "255.255.255.255",
        "192.88.99.1",
        "::",
        "::1",
        "fe80::1",
        "fec0::1",
        "fd00::1",
        "fd00:ec2::254",
        "ff02::1",
        "ff0e::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "4000::1",
        "64:ff9b:1::8.8.8.8",
        "2001:20::1",
        "100::1",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:a00:1::1",
        "2a01:4f8::5efe:a00:1",
        "2a01:4f8::200:5efe:a00:1",
    ],
)
def test_not_public(address: str) -> None:
    assert NOTHING.reason(address) is not None
    with pytest.raises(Refused):
        NOTHING.check(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "193.0.6.139", "2001:67c:2e8::1", "2a01:4f8::1", "64:ff9b::8.8.8.8"])
def test_public(address: str) -> None:
    assert NOTHING.reason(address) is None


@pytest.mark.parametrize(
    "address", ["", "example.org", "fe80::1%eth0", "10.0.0.1/8", "127.1", "0x7f.0.0.1", "8.8.8.8\0"]
)
def test_no_address(address: str) -> None:
    assert "no IP address" in str(NOTHING.reason(address))


def test_sentences() -> None:
    assert NOTHING.reason("10.0.0.5") == (
        "10.0.0.5 is a private address that the organisation has not declared as its own: "
        "--allow 10.0.0.0/8 declares it"
    )
    assert "--allow ::1/128 declares it" in str(NOTHING.reason("::1"))
    with pytest.raises(Refused, match=r"^evil\.test resolves to 10\.0\.0\.5, but 10\.0\.0\.5 is .* declares it\.$"):
        raise Refused("10.0.0.5", str(NOTHING.reason("10.0.0.5")), "evil.test")


def test_own_network_is_allowed_and_no_other() -> None:
    guard = Guard(Limits("inside", own_networks=["10.1.0.0/16", "fd00:1::/32"]))
    assert guard.reason("10.1.2.3") is None
    assert guard.reason("::ffff:10.1.2.3") is None
    assert guard.check("::ffff:10.1.2.3") == ipaddress.IPv4Address("10.1.2.3")
    assert guard.reason("64:ff9b::10.1.2.3") is None
    assert guard.reason("fd00:1::5") is None
    assert guard.reason("10.2.0.1") is not None
    assert guard.reason("fd00:2::1") is not None


def test_every_address_declared_opens_neither_secrets_nor_what_is_no_host() -> None:
    guard = Guard(Limits("internet", own_networks=["0.0.0.0/0", "::/0"]))
    assert guard.reason("127.0.0.1") is None
    for address in (
        "169.254.169.254",
        "fd00:ec2::254",
        "0.0.0.0",
        "224.0.0.1",
        "::",
        "ff02::1",
        "64:ff9b::169.254.169.254",
    ):
        assert guard.reason(address) is not None, address


def test_metadata_address_declared_by_itself() -> None:
    guard = Guard(Limits("internet", own_networks=["169.254.169.254/32"]))
    assert guard.reason("169.254.169.254") is None
    assert guard.reason("169.254.169.253") is not None


def test_refused_beats_own() -> None:
    limits = Limits(
        "internet",
        own_networks=["10.0.0.0/8"],
        refused=[("10.9.0.0/16", "clearance 0, needs 1."), ("8.8.8.0/24", "blocked")],
    )
    guard = Guard(limits)
    assert guard.reason("10.8.0.1") is None
    assert guard.reason("10.9.0.1") == "10.9.0.1 is in 10.9.0.0/16, which is not scanned: clearance 0, needs 1"
    for address in ("8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"):
        assert "blocked" in str(guard.reason(address))
    # Nor does declaring the prefix of a gateway open what is refused behind it.
    gateway = Guard(Limits("internet", own_networks=["64:ff9b::/96"], refused=[("8.8.8.0/24", "blocked")]))
    assert gateway.reason("64:ff9b::10.0.0.1") is None
    assert "blocked" in str(gateway.reason("64:ff9b::8.8.8.8"))


def test_addresses_of_this_machine() -> None:
    machine = ["193.0.6.139", "2a01:4f8::1", "127.0.0.1"]
    guard = Guard(Limits("internet"), machine)
    assert "this machine itself" in str(guard.reason("193.0.6.139"))
    assert "this machine itself" in str(guard.reason("2a01:4f8::1"))
    assert guard.reason("193.0.6.140") is None
    assert Guard(Limits("internet", own_networks=["193.0.6.139/32"]), machine).reason("193.0.6.139") is None


def test_own_addresses_has_loopback() -> None:
    found = own_addresses()
    assert "127.0.0.1" in found
    for address in found:
        assert str(plain(address)) == address


def test_a_network_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        Guard(Limits("internet", own_networks=["10.0.0.1/8"]))


@given(refused_4)
def test_refused_ipv4_is_refused_in_every_disguise(four: ipaddress.IPv4Address) -> None:
    number = int(four)
    hidden = [
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address(number),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | number),
        ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1),
        ipaddress.IPv6Address(0x20010000 << 96 | number << 64 | 0xFFFFFFFF ^ number),
        ipaddress.IPv6Address(0x2A01_04F8 << 96 | 0x5EFE << 32 | number),
    ]
    assert NOTHING.reason(str(four)) is not None
    for six in hidden:
        assert NOTHING.reason(str(six)) is not None, six
        assert six.ipv4_mapped is not None or four in embedded(six)


@given(st.ip_addresses())
def test_what_is_allowed_is_global_unicast(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if NOTHING.reason(str(address)) is None:
        judged = NOTHING.check(str(address))
        assert judged.is_global
        for kind in ("is_multicast", "is_loopback", "is_link_local", "is_unspecified"):
            assert not getattr(judged, kind)


@given(st.ip_addresses(), st.integers(0, 32))
def test_declaring_a_network_only_adds(address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int) -> None:
    own = ipaddress.ip_network((address, prefix), strict=False)
    if NOTHING.reason(str(address)) is None:
        assert Guard(Limits("internet", own_networks=[str(own)])).reason(str(address)) is None


@given(st.ip_addresses(), st.integers(0, 32))
def test_refused_networks_always_hold(address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int) -> None:
    network = str(ipaddress.ip_network((address, prefix), strict=False))
    if getattr(address, "ipv4_mapped", None) is None:
        limits = Limits("internet", own_networks=[network], refused=[(network, "blocked")])
        assert "blocked" in str(Guard(limits).reason(str(address)))


@given(st.text(max_size=50))
def test_any_text_gets_an_answer(text: str) -> None:
    NOTHING.reason(text)
