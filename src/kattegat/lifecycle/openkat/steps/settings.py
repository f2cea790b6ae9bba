"""KATalogus' settings between one document per plugin (since 1.7) and one row per setting (before), each encrypted.

A data step can't decrypt, so the plan has a mark where this belongs, and what it stands for is worked out on the
database as it is when that plan is about to run. The SQL has the values as the database has them, encrypted ones too.
"""

# ruff: noqa: S608 - the SQL is our own, and the values in it are quoted

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection

from kattegat.errors import KattegatError
from kattegat.lifecycle.openkat.environment import Encryption
from kattegat.lifecycle.openkat.steps import entry
from kattegat.schema import ddl
from kattegat.schema.steps import Plan

ROW_LIMIT = 128
DOCUMENT_LIMIT = 512
_LONG_ROW = entry("katalogus", "cd34fdfafdaf", "row")
_LONG_DOCUMENT = entry("katalogus", "cd34fdfafdaf", "document")
_MARK = re.compile(r"^/\* settings to (rows|documents): (\S+) to (\S+) \*/ SELECT 1$")
# Which document stood for which rows: where neither has changed since, both stay as they are.
_RECORD = (
    "CREATE TABLE IF NOT EXISTS parked.openkat_settings (organisation_pk integer, plugin_id text, document text,"
    " rows text, PRIMARY KEY (organisation_pk, plugin_id))"
)
_ROWS_MD5 = "md5(string_agg(r.key || '=' || r.value, chr(10) ORDER BY r.key, r.id))"

Group = tuple[int, str]  # organisation_pk, plugin_id


class SettingsKeyError(KattegatError):
    """KATalogus' settings are encrypted and can't be read with what was given."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"The settings of KATalogus {reason}: give the env file of the install, with KATalogus' private and public "
            "key, as --env-file."
        )


class Cipher:
    """Reads and writes single values. Raises `SettingsKeyError` for one that can't be read; values are never shown."""

    def __init__(self, encryption: Encryption | None) -> None:
        self._given = encryption
        self._box: Any = None
        if encryption is not None and encryption.sealed and encryption.private and encryption.public:
            from nacl.public import Box, PrivateKey, PublicKey

            private = PrivateKey(base64.b64decode(encryption.private.reveal()))
            self._box = Box(private, PublicKey(base64.b64decode(encryption.public.reveal())))

    def read(self, value: str) -> str:
        """The text behind a stored value."""
        if self._box is not None:
            from nacl.exceptions import CryptoError

            try:
                return bytes(self._box.decrypt(base64.b64decode(value, validate=True))).decode()
            except (CryptoError, ValueError, binascii.Error):
                raise SettingsKeyError("can't be decrypted with the keys of the env file") from None
        if self._given is None and _looks_sealed(value):
            raise SettingsKeyError("are encrypted")
        return value

    def write(self, text: str) -> str:
        """A text as it is stored."""
        return base64.b64encode(bytes(self._box.encrypt(text.encode()))).decode() if self._box is not None else text

    def document(self, value: str) -> dict[str, Any]:
        """The settings in a stored document."""
        # The default of a configuration without settings is stored as it is.
        text = value if value == "{}" else self.read(value)
        try:
            found = msgspec.json.decode(text)
        except msgspec.DecodeError:
            found = None
        if not isinstance(found, dict):
            raise SettingsKeyError("are no JSON document" if self._given else "are encrypted")
        return found


def _looks_sealed(value: str) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) >= 40  # nonce and authenticator
    except (ValueError, binascii.Error):
        return False


def marked(plan: Plan) -> bool:
    """Whether a plan has a mark that the database has to be asked for."""
    return any(_MARK.match(sql) for step in plan.steps for sql in step.do)


def settle(plan: Plan, connection: Connection, encryption: Encryption | None) -> Plan:
    """The plan with the SQL of the conversion in the place of its mark. The other direction's mark stays: whoever
    undoes this plan drops what it has made, and what it was made from was never touched."""
    cipher = Cipher(encryption)
    changed = []
    for step in plan.steps:
        do: list[str] = []
        for sql in step.do:
            found = _MARK.match(sql)
            if found is None:
                do.append(sql)
            elif found[1] == "rows":
                do += _to_rows(connection, cipher, found[2], found[3])
            else:
                do += _to_documents(connection, cipher, found[2], found[3])
        changed.append(msgspec.structs.replace(step, do=tuple(do)))
    return msgspec.structs.replace(plan, steps=tuple(changed))


def check(connection: Connection, encryption: Encryption | None) -> int:
    """How many stored settings there are, having read each; raises `SettingsKeyError`."""
    cipher = Cipher(encryption)
    count = 0
    reading: tuple[tuple[str, str, Callable[[str], object]], ...] = (
        ("settings", "values", cipher.document),
        ("boefje_config", "settings", cipher.document),
        ("setting", "value", cipher.read),
    )
    for table, column, read in reading:
        if connection.exec_driver_sql(f"SELECT to_regclass('public.{table}')").scalar() is None:
            continue
        for value in connection.exec_driver_sql(f'SELECT "{column}" FROM public.{table}').scalars():
            read(value)
            count += 1
    return count


def _record(connection: Connection) -> dict[Group, tuple[str, str]]:
    if connection.exec_driver_sql("SELECT to_regclass('parked.openkat_settings')").scalar() is None:
        return {}
    rows = connection.exec_driver_sql("SELECT organisation_pk, plugin_id, document, rows FROM parked.openkat_settings")
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def _parked(connection: Connection, was: str) -> str | None:
    """Where a table lies that is parked now, or under its own name."""
    if connection.exec_driver_sql(f"SELECT to_regclass('{was}')").scalar() is not None:
        return was
    found = connection.exec_driver_sql(
        "SELECT now_is FROM parked.entry WHERE was = %(was)s AND kind = 'table' AND state = 'parked'", {"was": was}
    ).scalar()
    return None if found is None else str(found)


def _documents(connection: Connection) -> dict[Group, str]:
    place = _parked(connection, "public.settings")
    if place is None:
        return {}
    rows = connection.exec_driver_sql(f'SELECT organisation_pk, plugin_id, "values" FROM {place}')
    return {(row[0], row[1]): row[2] for row in rows}


def _rows(connection: Connection) -> dict[Group, tuple[str, list[tuple[str, str]]]]:
    place = _parked(connection, "public.setting")
    if place is None:
        return {}
    query = (
        f"SELECT r.organisation_pk, r.plugin_id, {_ROWS_MD5}, array_agg(r.key ORDER BY r.key, r.id),"
        f" array_agg(r.value ORDER BY r.key, r.id) FROM {place} AS r GROUP BY 1, 2"
    )
    return {
        (row[0], row[1]): (row[2], list(zip(row[3], row[4], strict=True))) for row in connection.exec_driver_sql(query)
    }


def _to_rows(connection: Connection, cipher: Cipher, documents: str, rows: str) -> list[str]:
    known, have, there = _record(connection), _documents(connection), _rows(connection)
    done = [_RECORD]
    for group, document in sorted(have.items()):
        former = known.get(group)
        if former and former[0] == document and group in there and former[1] == there[group][0]:
            continue
        content = cipher.document(document)
        done.append(f"DELETE FROM {rows} WHERE {_of(group)}")
        for key, value in content.items():
            stored = cipher.write(value if isinstance(value, str) else msgspec.json.encode(value).decode())
            if len(key) > ROW_LIMIT or len(stored) > ROW_LIMIT:
                done.append(_held(_LONG_ROW, "public.setting", group, key, stored, "is too long for a row of its own"))
            else:
                texts = ", ".join(ddl.literal(text) for text in (key, stored))
                done.append(
                    f"INSERT INTO {rows} (key, value, organisation_pk, plugin_id)"
                    f" VALUES ({texts}, {group[0]}, {ddl.literal(group[1])})"
                )
    # Rows of settings that the newer release has removed since.
    gone = [group for group in there.keys() & known.keys() - have.keys() if known[group][1] == there[group][0]]
    done += [f"DELETE FROM {rows} WHERE {_of(group)}" for group in sorted(gone)]
    return [*done, *_remember(documents, rows)]


def _to_documents(connection: Connection, cipher: Cipher, rows: str, documents: str) -> list[str]:
    known, have, there = _record(connection), _documents(connection), _rows(connection)
    done = [_RECORD]
    for group, (digest, pairs) in sorted(there.items()):
        former = known.get(group)
        if former and former[1] == digest and have.get(group) == former[0]:
            continue
        content = {key: cipher.read(value) for key, value in pairs}
        stored = cipher.write(msgspec.json.encode(content).decode())
        done.append(f"DELETE FROM {documents} WHERE {_of(group)}")
        if len(stored) > DOCUMENT_LIMIT:
            done.append(
                _held(_LONG_DOCUMENT, "public.settings", group, "values", stored, "is too long for one document")
            )
        else:
            done.append(
                f'INSERT INTO {documents} ("values", organisation_pk, plugin_id)'
                f" VALUES ({ddl.literal(stored)}, {group[0]}, {ddl.literal(group[1])})"
            )
    gone = [
        group
        for group in have.keys() & known.keys() - there.keys()
        if known[group][0] == have[group] and known[group][1]
    ]
    done += [f"DELETE FROM {documents} WHERE {_of(group)}" for group in sorted(gone)]
    return [*done, *_remember(documents, rows)]


def _of(group: Group) -> str:
    return f"organisation_pk = {group[0]} AND plugin_id = {ddl.literal(group[1])}"


def _held(number: int, table: str, group: Group, key: str, stored: str, why: str) -> str:
    name = msgspec.json.encode({"organisation_pk": group[0], "plugin_id": group[1], "key": key}).decode()
    content = msgspec.json.encode({"value": stored}).decode()
    texts = ", ".join(ddl.literal(text) for text in (table, name, content, why))
    return (
        f"INSERT INTO parked.quarantine (entry, table_name, key, contents, reason, state)"
        f" SELECT {number}, t.one, CAST(t.two AS jsonb), CAST(t.three AS jsonb), t.four, 'stale'"
        f" FROM (VALUES ({texts})) AS t (one, two, three, four)"
    )


def _remember(documents: str, rows: str) -> list[str]:
    return [
        "DELETE FROM parked.openkat_settings",
        'INSERT INTO parked.openkat_settings SELECT d.organisation_pk, d.plugin_id, d."values",'
        f" coalesce((SELECT {_ROWS_MD5} FROM {rows} AS r WHERE r.organisation_pk = d.organisation_pk"
        f" AND r.plugin_id = d.plugin_id), '') FROM {documents} AS d",
    ]
