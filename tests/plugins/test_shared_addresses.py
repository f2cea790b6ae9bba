"""The order in which scanners go through the addresses of a host."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from kattegat.plugins.shared.addresses import in_order


def test_addresses_come_by_number_ipv4_first_and_each_once() -> None:
    found = ["2001:db8::10", "192.0.2.10", "2001:db8::2", "192.0.2.9", "2001:DB8:0::2"]
    assert in_order(found) == ["192.0.2.9", "192.0.2.10", "2001:db8::2", "2001:db8::10"]
    assert in_order([]) == []


@given(data=st.data(), addresses=st.lists(st.ip_addresses().map(str), max_size=8))
def test_the_order_of_answers_does_not_matter(data: st.DataObject, addresses: list[str]) -> None:
    turned = data.draw(st.permutations(addresses))
    assert in_order(turned) == in_order(addresses)
    assert set(map(ipaddress.ip_address, in_order(addresses))) == set(map(ipaddress.ip_address, addresses))
