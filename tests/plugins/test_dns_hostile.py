"""Whatever is in the evidence, the DNS and DNSSEC parsers end with facts or with what was not measured."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat import registry
from kattegat.model import assets
from kattegat.plugin import Evidence, Found, NotMeasured, Part
from kattegat.plugins.dns import message
from kattegat.plugins.dnssec import replies

FOLDER = Path(__file__).parent / "recorded"
SUBJECTS = {"reverse-dns": assets.IPAddress("192.0.2.1")}
FILES = sorted((*FOLDER.glob("dns/*.evidence"), *FOLDER.glob("dnssec/*.evidence")))
HEADER = struct.pack("!HHHHHH", 1, 0x8180, 1, 1, 0, 0)

some_notes = st.dictionaries(
    st.sampled_from(["name", "rdtype", "server", "of", "problem", "reason", "asked_at", "other"]),
    st.one_of(
        st.none(),
        st.integers(-(2**63), 2**64 - 1),
        st.text(max_size=70),
        st.sampled_from(
            ["A", "NS", "SOA", "DS", "DNSKEY", "ANY", "TYPE65534", "good.test", "..", "a" * 64, "\\", "\\1", "a." * 200]
        ),
    ),
    max_size=5,
)


def parse(scanner: str, evidence: Evidence) -> list[Any]:
    spec = registry.load().scanner(scanner)
    asset = SUBJECTS.get(scanner, assets.Hostname("good.test"))
    # As the worker reads it: packed and read back.
    found = list(spec.implementation().parse(asset, Evidence.unpack(evidence.pack())))
    assert all(isinstance(one, Found | NotMeasured) for one in found)
    return found


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_parsers_never_raise_on_mutated_evidence(data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(FILES))
    parts = list(Evidence.unpack(file.read_bytes()).parts)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(parts) - 1))
        part = parts[at]
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "notes", "name", "drop"]))
        if kind == "notes":
            parts[at] = Part(part.name, part.content, {**part.notes, **data.draw(some_notes)})
        elif kind == "name":
            parts[at] = Part(
                data.draw(st.sampled_from(["dns", "server", "address", "refused", "anchor"])), part.content, {}
            )
        elif kind == "drop" and len(parts) > 1:
            del parts[at]
        elif part.content:
            where = data.draw(st.integers(0, len(part.content) - 1))
            content = bytearray(part.content)
            if kind == "flip":
                content[where] = data.draw(st.integers(0, 255))
            elif kind == "cut":
                del content[where:]
            else:
                content[where:where] = data.draw(st.binary(max_size=8))
            parts[at] = Part(part.name, bytes(content), part.notes)
    parse(file.name.partition("--")[0], Evidence(tuple(parts)))


@given(st.binary(max_size=200), some_notes)
@settings(max_examples=200, deadline=None)
def test_reading_never_raises_on_any_bytes(content: bytes, notes: dict[str, Any]) -> None:
    for wire in (content, HEADER + content):
        part = Part("dns", wire, notes)
        assert message.read(part).problem or len(wire) >= len(HEADER)
        assert replies.read(part).problem or len(wire) >= len(HEADER)


def question(name: bytes) -> bytes:
    return HEADER + name + struct.pack("!HH", 1, 1)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        HEADER,
        question(b"\xc0\x0c"),  # a name that points to itself
        question(b"\x01a\xc0\x0c"),  # a name that goes on with itself
        question(b"\xc0\xff"),  # a pointer past the end
        question(b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 5 + b"\x00"),  # longer than 255 bytes
        question(b"\x80a\x00"),  # a kind of label that there is none of
        question(b"\x01a\x00") + b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + b"\x01",  # cut off
        question(b"\x01a\x00") + b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 60, 2) + b"\xc0\x1f",  # an alias to itself
    ],
)
def test_malformed_messages_are_problems(wire: bytes) -> None:
    part = Part("dns", wire, {"name": "a", "rdtype": "A", "problem": ""})
    assert "can't be read" in message.read(part).problem
    assert "can't be read" in replies.read(part).problem


@pytest.mark.parametrize("scanner", ["dns-records", "name-servers", "reverse-dns", "dnssec"])
def test_evidence_without_parts(scanner: str) -> None:
    assert all(isinstance(one, NotMeasured) for one in parse(scanner, Evidence()))
