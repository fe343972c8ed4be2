"""A request to a host that a client chose reaches only public addresses, however an address is written."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixtools.outbound.addresses import AddressPolicy

PUBLIC_ONLY, PRIVATE_TOO = AddressPolicy(), AddressPolicy(allow_private=True)

PRIVATE = ["10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fd00::/16", "fdff::/16"]
ALWAYS_BLOCKED = [
    *("0.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
    *("::/128", "::/96", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001::/32"),
    *("2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16"),
    *("fe80::/10", "fec0::/10", "ff00::/8", "ff02::1/128", "4000::/3", "8000::/1"),
]
METADATA = [
    *("169.254.169.254", "169.254.170.2", "169.254.42.42", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42"),
]
OPEN = [
    *("1.0.0.0", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255"),
    *("172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0"),
    *("198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255"),
    *("2000::", "2001:200::", "2001:4860:4860::8888", "2001:db7:ffff::", "2001:db9::", "2003::", "2606:4700::1111"),
    *("3ffe::", "3fff:1000::", "64:ff9b::8.8.8.8"),
]

EMBEDDINGS = {
    "mapped": lambda v4: 0xFFFF << 32 | v4,
    "compatible": lambda v4: v4,
    "6to4": lambda v4: 0x2002 << 112 | v4 << 80 | 1,
    "nat64": lambda v4: 0x0064_FF9B << 96 | v4,
    "nat64 with a local prefix": lambda v4: 0x0064_FF9B_0001 << 80 | v4,
    "teredo server": lambda v4: 0x2001 << 112 | v4 << 64 | 0x0808_0808 ^ 0xFFFF_FFFF,
    "teredo client": lambda v4: 0x2001 << 112 | 0x0808_0808 << 64 | v4 ^ 0xFFFF_FFFF,
    "isatap": lambda v4: 0x2606_4700 << 96 | 0x5EFE << 32 | v4,
    "isatap of a global address": lambda v4: 0x2606_4700 << 96 | 0x0200_5EFE << 32 | v4,
    "isatap on a private network": lambda v4: 0xFD12 << 112 | 0x5EFE << 32 | v4,
}


@pytest.mark.parametrize("network", [*PRIVATE, *ALWAYS_BLOCKED])
def test_the_first_and_the_last_address_of_each_special_network_are_blocked(network):
    assert PUBLIC_ONLY.blocks(ip_network(network)[0])
    assert PUBLIC_ONLY.blocks(ip_network(network)[-1])


@pytest.mark.parametrize("address", OPEN)
@pytest.mark.parametrize("policy", [PUBLIC_ONLY, PRIVATE_TOO])
def test_public_addresses_are_open_up_to_the_edge_of_the_special_networks(policy, address):
    assert not policy.blocks(ip_address(address))


@pytest.mark.parametrize("network", PRIVATE)
def test_private_addresses_are_open_if_the_policy_allows_them(network):
    assert not PRIVATE_TOO.blocks(ip_network(network)[0])
    assert not PRIVATE_TOO.blocks(ip_network(network)[-1])


@pytest.mark.parametrize("network", ALWAYS_BLOCKED)
def test_other_special_networks_are_blocked_even_if_private_addresses_are_allowed(network):
    assert PRIVATE_TOO.blocks(ip_network(network)[0])
    assert PRIVATE_TOO.blocks(ip_network(network)[-1])


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("policy", [PUBLIC_ONLY, PRIVATE_TOO])
def test_metadata_servers_are_always_blocked(policy, address):
    assert policy.blocks(ip_address(address))


@pytest.mark.parametrize("inner", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "168.63.129.16", "0.0.0.0"])
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_an_internal_ipv4_address_inside_an_ipv6_address_is_blocked(kind, inner):
    assert PUBLIC_ONLY.blocks(IPv6Address(EMBEDDINGS[kind](int(IPv4Address(inner)))))


@pytest.mark.parametrize("inner", ["169.254.169.254", "168.63.129.16", "100.100.100.200", "224.0.0.1"])
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_a_metadata_server_inside_an_ipv6_address_is_blocked_even_if_private_addresses_are_allowed(kind, inner):
    assert PRIVATE_TOO.blocks(IPv6Address(EMBEDDINGS[kind](int(IPv4Address(inner)))))


def test_an_address_with_a_zone_is_judged_like_the_address_without_it():
    assert PUBLIC_ONLY.blocks(ip_address("fe80::1%1"))
    assert PRIVATE_TOO.blocks(ip_address("fe80::1%1"))


@given(st.ip_addresses())
def test_an_address_that_the_standard_library_does_not_call_global_is_blocked(address):
    assert address.is_global or PUBLIC_ONLY.blocks(address)


@given(st.ip_addresses())
def test_a_policy_that_allows_private_addresses_opens_no_other_address(address):
    private = any(address in ip_network(network) for network in (*PRIVATE, "fc00::/7"))
    assert private or PRIVATE_TOO.blocks(address) == PUBLIC_ONLY.blocks(address)
