"""Trees, roots, their chain, anchors and time stamps."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from kattegat.evidence import anchor, errors, leaf, merkle, seal, timestamp
from kattegat.evidence import vault as vaults
from kattegat.evidence.vault import Entry, Vault
from kattegat.evidence.verify import verify
from kattegat.store.database import Database

AT = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
Make = Callable[..., Entry]


def recursive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + recursive_root(leaves[:split]) + recursive_root(leaves[split:])).digest()


def test_the_tree_is_the_one_of_certificate_transparency() -> None:
    # The test vectors of the certificate-transparency reference tree: these inputs, this root.
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [hashlib.sha256(b"\x00" + bytes.fromhex(each)).digest() for each in inputs]
    assert merkle.root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(count=st.integers(0, 70))
def test_the_root_follows_the_definition(count: int) -> None:
    leaves = [hashlib.sha256(bytes([0, number])).digest() for number in range(count)]
    assert merkle.root(leaves) == recursive_root(leaves)


@given(count=st.integers(1, 70), data=st.data())
def test_an_inclusion_proof_holds_for_its_leaf_and_place_only(count: int, data: st.DataObject) -> None:
    leaves = [hashlib.sha256(bytes([0, number])).digest() for number in range(count)]
    index = data.draw(st.integers(0, count - 1))
    path, root = merkle.inclusion(leaves, index), merkle.root(leaves)
    assert merkle.included(leaves[index], index, count, path, root)
    assert not merkle.included(bytes(32), index, count, path, root)
    for other in set(range(count)) - {index}:
        assert not merkle.included(leaves[index], other, count, path, root)
        assert not merkle.included(leaves[other], index, count, path, root)
    assert not merkle.included(leaves[index], index, count, [*path, bytes(32)], root)
    if path:
        assert not merkle.included(leaves[index], index, count, path[:-1], root)


@given(at=st.datetimes(timezones=st.just(UTC)))
def test_times_are_exact_text(at: datetime) -> None:
    seconds, _, micros = leaf.instant(at).lstrip("-").partition(".")
    assert len(micros) == 6
    whole = timedelta(seconds=int(seconds), microseconds=int(micros))
    assert datetime(1970, 1, 1, tzinfo=UTC) + (-whole if leaf.instant(at).startswith("-") else whole) == at


def test_one_root_per_minute_chained_to_the_last(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        assert seal.seal(conn, organisation, at=AT) is None
        assert seal.due(conn) == []
        vaults.put(conn, vault, organisation, [make_entry(1), make_entry(2)])
        assert seal.due(conn) == [organisation]
        with pytest.raises(errors.UnsealedError):
            seal.proof(conn, organisation, 1)
        first = seal.seal(conn, organisation, at=AT)
        assert first is not None
        vaults.put(conn, vault, organisation, [make_entry(3)])
        assert seal.seal(conn, organisation, at=AT + timedelta(seconds=20)) is None
        second = seal.seal(conn, organisation, at=AT + timedelta(seconds=40))
        assert second is not None
        assert (first.sequence, first.first_leaf, first.leaves, first.previous) == (1, 1, 2, None)
        assert (second.sequence, second.first_leaf, second.leaves, second.previous) == (2, 3, 1, first.chained())
        assert seal.due(conn) == []
        for number in (1, 2, 3):
            proof = seal.proof(conn, organisation, number)
            assert proof.leaf == vaults.get(conn, vault, organisation, number).leaf
            assert merkle.included(proof.leaf, proof.index, proof.size, proof.path, proof.root)
        with pytest.raises(errors.UnknownEvidenceError):
            seal.proof(conn, organisation, 4)


def test_numbers_stay_without_gaps_when_many_put_at_once(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    given_: list[int] = []

    def work() -> None:
        for _ in range(5):
            with database.begin("kat_system") as conn:
                given_.extend(vaults.put(conn, vault, organisation, [make_entry(1), make_entry(2)]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given_) == list(range(1, 41))


def test_a_root_that_is_not_committed_is_not_anchored(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1)])
        seal.seal(conn, organisation, at=AT)
        assert anchor.write(conn, vault.anchors, organisation) == 0
    with database.begin("kat_system") as conn:
        assert anchor.write(conn, vault.anchors, organisation) == 1
        assert anchor.write(conn, vault.anchors, organisation) == 0


def test_a_line_cut_short_by_a_crash_is_written_again(database: Database, vault: Vault, sealed: int) -> None:
    file = anchor.path(vault.anchors, sealed)
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert list(anchor.read(vault.anchors, sealed).lines) == [1, 2]
    with database.begin("kat_system") as conn:
        assert anchor.write(conn, vault.anchors, sealed) == 1
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"x", b"\xff", b"\n"])
def test_a_damaged_last_line_is_not_written_again(
    database: Database, vault: Vault, sealed: int, damage: bytes, make_entry: Make
) -> None:
    file = anchor.path(vault.anchors, sealed)
    whole = file.read_bytes()
    file.write_bytes(whole[:-30] + damage + whole[-29:])
    lines = 3 + damage.count(b"\n")
    assert anchor.last(vault.anchors, sealed) == lines
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, sealed, [make_entry(1)])
        assert seal.seal(conn, sealed) is not None
    seal.run(database, vault)
    assert file.read_bytes().startswith(whole[:-30] + damage + whole[-29:])
    with database.begin("kat_system") as conn:
        assert not verify(conn, vault, sealed).ok


def test_the_last_line_is_found_at_the_end_of_a_long_file(tmp_path: Path) -> None:
    file = anchor.path(tmp_path, 7)
    assert anchor.last(tmp_path, 7) == 0
    lines = [anchor.Line(number, 10 * number, "ab" * 32, "cd" * 32).text() for number in range(1, 41)]
    for count in range(len(lines) + 1):
        file.write_bytes(b"".join(lines[:count]))
        assert anchor.last(tmp_path, 7) == count
        file.write_bytes(b"".join(lines[:count]) + lines[0][:-1])
        assert anchor.last(tmp_path, 7) == count


def test_a_run_seals_and_anchors_all_that_is_due(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        other = conn.execute(
            text("INSERT INTO organisation (code, name) VALUES ('other', 'Other') RETURNING id")
        ).scalar_one()
        vaults.put(conn, vault, organisation, [make_entry(1)])
        vaults.put(conn, vault, other, [make_entry(2), make_entry(3)])
    done = seal.run(database, vault)
    assert (done.roots, done.anchored, done.unstamped) == (2, 2, {})
    again = seal.run(database, vault)
    assert (again.roots, again.anchored) == (0, 0)
    with database.begin("kat_app", [organisation, other]) as conn:
        for each in (organisation, other):
            report = verify(conn, vault, each)
            assert report.ok
            assert (report.roots, report.anchored, report.unsealed) == (1, 1, 0)


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[tuple[str, x509.Certificate]]:
    """A time-stamping authority on loopback, signing with openssl; gives its URL and its root certificate."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "ext.cnf").write_text(
        "[e]\nextendedKeyUsage=critical,timeStamping\nkeyUsage=critical,digitalSignature\n"
    )
    (tmp_path / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa=t\n[t]\ndir=.\nserial=./serial\nsigner_cert=tsa.pem\nsigner_key=tsa.key\n"
        "signer_digest=sha256\ndefault_policy=1.2.3.4\ndigests=sha256,sha512\ness_cert_id_alg=sha256\n"
        "ess_cert_id_chain=no\ntsa_name=no\n"
    )
    (tmp_path / "serial").write_text("01\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Root", "-days", "30")
    openssl("req", *curve, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=Authority")
    issue = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30")
    openssl("x509", "-req", "-in", "tsa.csr", *issue, "-out", "tsa.pem", "-extfile", "ext.cnf", "-extensions", "e")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (tmp_path / "q.tsq").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            openssl("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "q.tsq", "-out", "r.tsr")
            body = (tmp_path / "r.tsr").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        root = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
        yield f"http://127.0.0.1:{server.server_port}/", root
        server.shutdown()
        thread.join()


def test_roots_are_time_stamped_by_an_authority(
    database: Database,
    vault: Vault,
    organisation: int,
    make_entry: Make,
    authority: tuple[str, x509.Certificate],
) -> None:
    url, root = authority
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1)])
    done = seal.run(database, vault, authority=timestamp.authority(url))
    assert (done.roots, done.unstamped) == (1, {})
    with database.begin("kat_system") as conn:
        report = verify(conn, vault, organisation)
        assert report.ok
        assert report.timestamped == 1
        row = conn.execute(text("SELECT chained, timestamp_token FROM evidence_root")).one()
        token, chained = bytes(row.timestamp_token), bytes(row.chained)
        assert timestamp.wrong(token, chained, trusted=[root]) is None
        assert timestamp.wrong(token, bytes(32)) == "it stamps something else"
        assert "no time stamp" in (timestamp.wrong(b"nonsense", chained) or "")
        forged = bytearray(token)
        forged[-1] ^= 1
        assert "signature" in (timestamp.wrong(bytes(forged), chained, trusted=[root]) or "")
        conn.execute(text("UPDATE evidence_root SET timestamp_token = NULL"))
        assert [problem.kind for problem in verify(conn, vault, organisation).problems] == ["timestamp"]
        conn.rollback()


def test_an_authority_that_is_away_holds_nothing_up(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1)])
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    done = seal.run(database, vault, authority=timestamp.authority(f"http://127.0.0.1:{port}/"))
    assert (done.roots, done.anchored) == (1, 1)
    assert "does not answer" in done.unstamped[organisation]
