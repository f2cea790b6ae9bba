"""put and get: what goes in comes out, in any role, whole or not at all."""

from __future__ import annotations

import math
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from kattegat import settings
from kattegat.evidence import errors, keys, leaf
from kattegat.evidence import vault as vaults
from kattegat.evidence.vault import Entry, Vault
from kattegat.evidence.verify import verify
from kattegat.store.database import Database

Make = Callable[..., Entry]


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """The statements sent meanwhile as kat_system."""
    sent: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    engine = database.engine("kat_system")
    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def test_what_was_put_is_given_back(database: Database, vault: Vault, organisation: int, make_entry: Make) -> None:
    entries = [make_entry(1), make_entry(2, content=b""), make_entry(3, content=os.urandom(300_000), detail={})]
    with database.begin("kat_system") as conn:
        ids = vaults.put(conn, vault, organisation, entries)
    assert ids == [1, 2, 3]
    with database.begin("kat_app", [organisation]) as conn:
        for id_, entry in zip(ids, entries, strict=True):
            stored = vaults.get(conn, vault, organisation, id_)
            assert stored.content == entry.content
            for field in set(entry.__struct_fields__) - {"content"}:
                assert getattr(stored, field) == getattr(entry, field), field


def test_numbers_go_on_without_gaps_also_after_a_rollback(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        assert vaults.put(conn, vault, organisation, [make_entry(1), make_entry(2)]) == [1, 2]
    with database.engine("kat_system").connect() as conn:
        assert vaults.put(conn, vault, organisation, [make_entry(3)]) == [3]
        conn.rollback()
    with database.begin("kat_system") as conn:
        assert vaults.put(conn, vault, organisation, [make_entry(4)]) == [3]
        assert vaults.put(conn, vault, organisation, []) == []
        assert vaults.get(conn, vault, organisation, 3).asset_key == "internet|192.0.2.4"


def test_a_batch_takes_the_same_statements_whatever_its_size(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry()])
    numbers = []
    for size in (1, 200):
        with counted(database) as sent, database.begin("kat_system") as conn:
            vaults.put(conn, vault, organisation, [make_entry(n) for n in range(size)])
        numbers.append(len(sent))
    assert numbers == [4, 4]


def test_bytes_lie_compressed_and_encrypted(
    database: Database, vault: Vault, organisation: int, make_entry: Make, tmp_path: Path
) -> None:
    secret = b"swordfish " * 5000
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(n, content=secret) for n in range(10)])
    (pack,) = (tmp_path / "data" / "evidence").rglob("*.pack")
    assert b"swordfish" not in pack.read_bytes()
    assert pack.stat().st_size < len(secret)
    assert stat.S_IMODE(pack.stat().st_mode) == 0o600
    key = tmp_path / "data" / "secrets" / "install.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_large_batches_are_split_over_packs(
    database: Database,
    vault: Vault,
    organisation: int,
    make_entry: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kattegat.evidence.packs.PACK_BYTES", 2500)
    contents = [os.urandom(1000), os.urandom(1000), os.urandom(5000), os.urandom(10)]
    with database.begin("kat_system") as conn:
        ids = vaults.put(conn, vault, organisation, [make_entry(content=content) for content in contents])
        assert [vaults.get(conn, vault, organisation, id_).content for id_ in ids] == contents
    assert len(list((tmp_path / "data" / "evidence").rglob("*.pack"))) == 3


def test_organisations_have_their_own_numbers_and_keys(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        other = conn.execute(
            text("INSERT INTO organisation (code, name) VALUES ('other', 'Other') RETURNING id")
        ).scalar_one()
        assert vaults.put(conn, vault, organisation, [make_entry(1)]) == [1]
        assert vaults.put(conn, vault, other, [make_entry(2)]) == [1]
        mine = keys.current(conn, vault.install_key, organisation, objects=vault.objects)
        theirs = keys.current(conn, vault.install_key, other, objects=vault.objects)
    assert mine.secret != theirs.secret
    with database.begin("kat_app", [organisation]) as conn, pytest.raises(errors.UnknownEvidenceError):
        vaults.get(conn, vault, other, 1)


def test_missing_records_packs_and_changed_bytes_have_errors_of_their_own(
    database: Database, vault: Vault, organisation: int, make_entry: Make, tmp_path: Path
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1), make_entry(2)])
    (pack,) = (tmp_path / "data" / "evidence").rglob("*.pack")
    whole = pack.read_bytes()
    with database.begin("kat_system") as conn:
        with pytest.raises(errors.UnknownEvidenceError):
            vaults.get(conn, vault, organisation, 3)
        pack.write_bytes(whole[:-1])
        with pytest.raises(errors.MissingPackError, match="ends before"):
            vaults.get(conn, vault, organisation, 2)
        pack.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(errors.ChangedBytesError):
            vaults.get(conn, vault, organisation, 2)
        vaults.get(conn, vault, organisation, 1)
        pack.unlink()
        with pytest.raises(errors.MissingPackError, match="no such object"):
            vaults.get(conn, vault, organisation, 1)


def test_changed_metadata_are_not_given_out(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1)])
        conn.execute(text("UPDATE evidence SET asset_key = 'internet|192.0.2.99'"))
        with pytest.raises(errors.ChangedBytesError):
            vaults.get(conn, vault, organisation, 1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("pack = ''", errors.MissingPackError),
        ("pack = '../../secrets/install.key'", errors.MissingPackError),
        ("pack = NULL", errors.ChangedBytesError),
        ("pack_length = NULL", errors.ChangedBytesError),
        ("pack_offset = -1", errors.ChangedBytesError),
        ("pack_offset = 1000000", errors.MissingPackError),
        ("pack_length = pack_length - 1", errors.ChangedBytesError),
        ("key_id = 7", errors.ChangedBytesError),
        ("detail = '[]'", errors.ChangedBytesError),
    ],
)
def test_a_row_that_was_tampered_with_leads_nowhere(
    database: Database, vault: Vault, organisation: int, make_entry: Make, change: str, error: type[Exception]
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1)])
        conn.execute(text(f"UPDATE evidence SET {change}"))
        with pytest.raises(error):
            vaults.get(conn, vault, organisation, 1)


def test_a_lost_install_key_is_never_replaced(
    database: Database, vault: Vault, organisation: int, make_entry: Make, tmp_path: Path
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1)])
        other = conn.execute(
            text("INSERT INTO organisation (code, name) VALUES ('other', 'Other') RETURNING id")
        ).scalar_one()
    vault.install_key.path.unlink()
    again = vaults.open_vault(settings.load({"KAT_DATA_DIR": str(tmp_path / "data")}))
    with database.begin("kat_system") as conn, pytest.raises(errors.InstallKeyError, match="missing"):
        vaults.get(conn, again, organisation, 1)
    # Also where the role sees no wrapped key at all.
    with database.begin("kat_app", [other]) as conn, pytest.raises(errors.InstallKeyError, match="missing"):
        vaults.put(conn, again, other, [make_entry(1)])
    assert not again.install_key.exists()


def test_a_damaged_or_foreign_install_key_is_named(
    database: Database, vault: Vault, organisation: int, make_entry: Make, tmp_path: Path
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1)])
    conf = settings.load({"KAT_DATA_DIR": str(tmp_path / "data")})
    vault.install_key.path.write_text("not a key\n")
    with database.begin("kat_system") as conn, pytest.raises(errors.InstallKeyError, match="damaged"):
        vaults.get(conn, vaults.open_vault(conf), organisation, 1)
    vault.install_key.path.unlink()
    keys.InstallKey(vault.install_key.path).make()
    with database.begin("kat_system") as conn, pytest.raises(errors.WrappedKeyError):
        vaults.get(conn, vaults.open_vault(conf), organisation, 1)


def test_two_processes_that_make_the_install_key_use_the_same_one(tmp_path: Path) -> None:
    first, second = keys.InstallKey(tmp_path / "s" / "k"), keys.InstallKey(tmp_path / "s" / "k")
    assert first.make() == second.make()
    assert list((tmp_path / "s").iterdir()) == [tmp_path / "s" / "k"]


def test_a_destroyed_key_is_the_end_of_the_content(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1)])
        assert keys.destroy(conn, organisation) == 1
    with database.begin("kat_system") as conn:
        with pytest.raises(errors.DestroyedKeyError):
            vaults.get(conn, vault, organisation, 1)
        with pytest.raises(errors.DestroyedKeyError):
            vaults.put(conn, vault, organisation, [make_entry(2)])
        assert vaults.get(conn, vault, organisation, 1, content=False).scanner == "tcp-ports"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"asset_key": "a\x00b"}, "asset_key"),
        ({"runner": "\ud800"}, "runner"),
        ({"started_at": datetime(2026, 1, 1)}, "started_at"),  # noqa: DTZ001
        ({"ended_at": datetime(2026, 1, 1, tzinfo=UTC)}, "ended_at"),
        ({"detail": {"x": math.nan}}, "detail"),
        ({"detail": {"x": b"bytes"}}, "detail"),
    ],
)
def test_an_entry_that_cannot_be_kept_stores_nothing(
    database: Database, vault: Vault, organisation: int, make_entry: Make, changes: dict[str, Any], field: str
) -> None:
    with database.begin("kat_system") as conn:
        with pytest.raises(errors.EntryError) as raised:
            vaults.put(conn, vault, organisation, [make_entry(1), make_entry(2, **changes)])
        assert (raised.value.index, raised.value.field) == (1, field)
        assert conn.execute(text("SELECT count(*) FROM evidence")).scalar_one() == 0
    assert vault.objects.empty()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(detail=st.dictionaries(st.text(), json_values, max_size=4))
def test_any_detail_has_the_same_leaf_after_the_database(
    database: Database, vault: Vault, organisation: int, make_entry: Make, detail: dict[str, Any]
) -> None:
    with database.begin("kat_system") as conn:
        (id_,) = vaults.put(conn, vault, organisation, [make_entry(1, detail=detail)])
        assert leaf.canonical(vaults.get(conn, vault, organisation, id_).detail) == leaf.canonical(leaf.clean(detail))


def test_another_object_store_by_its_url(
    database: Database, organisation: int, make_entry: Make, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    conf = settings.load({"KAT_DATA_DIR": str(tmp_path), "KAT_EVIDENCE_URL": f"file://{tmp_path}/elsewhere"})
    with database.begin("kat_system") as conn:
        vault = vaults.open_vault(conf)
        vaults.put(conn, vault, organisation, [make_entry(1)])
        assert vaults.get(conn, vault, organisation, 1).content == make_entry(1).content
    assert list((tmp_path / "elsewhere").rglob("*.pack"))
    with pytest.raises(errors.StoreError, match="KAT_EVIDENCE_URL"):
        vaults.open_vault(settings.load({"KAT_DATA_DIR": str(tmp_path), "KAT_EVIDENCE_URL": "nonsense://x"}))


def test_records_are_listed_newest_first(database: Database, vault: Vault, organisation: int, make_entry: Make) -> None:
    with database.begin("kat_system") as conn:
        entries = [make_entry(number, scanner="http" if number % 2 else "tls") for number in range(5)]
        vaults.put(conn, vault, organisation, [*entries, make_entry(0)])
    with database.begin("kat_app", [organisation]) as conn:
        assert [each.id for each in vaults.page(conn, organisation, limit=2)] == [6, 5]
        assert [each.id for each in vaults.page(conn, organisation, limit=2, before=5)] == [4, 3]
        assert [each.id for each in vaults.page(conn, organisation, scanner="http")] == [4, 2]
        found = vaults.page(conn, organisation, asset=("IPAddress", "internet|192.0.2.0"))
        assert [each.id for each in found] == [6, 1]
        assert found[0] == vaults.get(conn, vault, organisation, 6, content=False)
    with database.begin("kat_app", []) as conn:
        assert vaults.page(conn, organisation) == []


def test_the_application_role_can_keep_evidence_too(
    database: Database, vault: Vault, organisation: int, make_entry: Make
) -> None:
    with database.begin("kat_app", [organisation]) as conn:
        assert vaults.put(conn, vault, organisation, [make_entry(1)]) == [1]
        assert vaults.get(conn, vault, organisation, 1).content == make_entry(1).content


def test_an_object_store_that_refuses_leaves_no_row(
    database: Database, vault: Vault, organisation: int, make_entry: Make, tmp_path: Path
) -> None:
    # A file where the organisation's folder would be.
    (tmp_path / "data" / "evidence" / str(organisation)).write_text("")
    with database.begin("kat_system") as conn:
        with pytest.raises(errors.StoreError, match="object store"):
            vaults.put(conn, vault, organisation, [make_entry(1)])
        assert conn.execute(text("SELECT count(*) FROM evidence")).scalar_one() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    place = tmp_path / "data" / "evidence"
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_nothing_is_lost(
    database: Database, organisation: int, make_entry: Make, tmp_path: Path, small_disk: Path
) -> None:
    vault = vaults.open_vault(settings.load({"KAT_DATA_DIR": str(tmp_path / "data")}))
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, organisation, [make_entry(1)])
    with database.engine("kat_system").connect() as conn, pytest.raises(errors.StoreError) as raised:
        vaults.put(conn, vault, organisation, [make_entry(content=os.urandom(300_000))])
    assert "space" in str(raised.value)
    with database.begin("kat_system") as conn:
        assert vaults.put(conn, vault, organisation, [make_entry(2)]) == [2]
        report = verify(conn, vault, organisation)
        assert (report.ok, report.records, report.unused_packs) == (True, 2, [])
