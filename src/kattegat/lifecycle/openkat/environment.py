"""What an install's env file says: where the parts' databases are, and how KATalogus encrypts its settings.

The file has the form that docker compose and systemd read: KEY=VALUE lines, quotes, `${OTHER}` references. No value of
it is ever printed or logged: errors name the key alone.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from kattegat.errors import KattegatError, UsageError
from kattegat.lifecycle.openkat.facts import PARTS, Part

_URIS: dict[Part, tuple[str, ...]] = {
    "scheduler": ("SCHEDULER_DB_URI", "SCHEDULER_DB_DSN"),
    "katalogus": ("KATALOGUS_DB_URI",),
    "bytes": ("BYTES_DB_URI",),
}
_ROCKY = {
    "dbname": "ROCKY_DB",
    "user": "ROCKY_DB_USER",
    "password": "ROCKY_DB_PASSWORD",
    "host": "ROCKY_DB_HOST",
    "port": "ROCKY_DB_PORT",
}
_MIDDLEWARE = ("BOEFJES_ENCRYPTION_MIDDLEWARE", "ENCRYPTION_MIDDLEWARE")
_PRIVATE = ("BOEFJES_KATALOGUS_PRIVATE_KEY", "KATALOGUS_PRIVATE_KEY_B64")
_PUBLIC = ("BOEFJES_KATALOGUS_PUBLIC_KEY", "KATALOGUS_PUBLIC_KEY_B64")

_LINE = re.compile(r"^\s*(?:export\s+)?(?P<key>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)$", re.DOTALL)
_REFERENCE = re.compile(
    r"\$(?:\{(?P<braced>[A-Za-z_]\w*)(?:(?P<mark>:?[-?])(?P<other>[^}]*))?\}|(?P<plain>[A-Za-z_]\w*))"
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class EnvironmentFileError(UsageError):
    """An env file that can't be read; the sentence names the line or key, never a value."""


class Secret:
    """Bytes or text that no `repr`, log or traceback shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"


class Dsn:
    """Where a database is. `str()` leaves the password out."""

    def __init__(self, words: Mapping[str, Any]) -> None:
        self._words = {key: str(value) for key, value in words.items() if value not in (None, "")}

    @property
    def host(self) -> str:
        """Name, address or socket folder; `localhost` where none is given."""
        return self._words.get("host", "localhost")

    @property
    def port(self) -> str:
        return self._words.get("port", "5432")

    @property
    def database(self) -> str:
        return self._words.get("dbname", self.user)

    @property
    def user(self) -> str:
        return self._words.get("user", "")

    def __str__(self) -> str:
        return f"{self.user or '?'}@{self.host}:{self.port}/{self.database}"

    __repr__ = __str__

    def with_(self, **changes: str) -> Dsn:
        """The same place but for some words of libpq (host, port, dbname, user, password)."""
        return Dsn({**self._words, **changes})

    def login(self, other: Dsn) -> Dsn:
        """This database, logged in to as the user of another DSN."""
        words = {key: value for key, value in self._words.items() if key not in ("user", "password")}
        return Dsn(words | {key: other._words[key] for key in ("user", "password") if key in other._words})

    def conninfo(self) -> str:
        """libpq's connection string, the password included: never to be shown."""
        return make_conninfo("", **self._words)

    def environment(self) -> dict[str, str]:
        """Variables for libpq's programs (pg_dump), so that no password stands on a command line."""
        names = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER", "password": "PGPASSWORD"}
        return {names[key]: value for key, value in self._words.items() if key in names}

    def server(self) -> tuple[str, str]:
        """What tells servers apart."""
        return self.host, self.port

    def engine(self) -> Engine:
        """An engine without a pool: each connection is closed after use."""
        conninfo = self.conninfo()
        return create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(conninfo, connect_timeout=10, application_name="kat openkat"),
            poolclass=NullPool,
        )


class Environment:
    """The values of an env file, with references resolved when they are asked for."""

    def __init__(self, values: Mapping[str, tuple[str, bool]], name: str = "the env file") -> None:
        self._values = dict(values)  # key -> text, and whether references in it count
        self._name = name

    def get(self, *keys: str) -> str | None:
        """The value of the first key that is set and not empty; raises `EnvironmentFileError` for a reference that
        leads nowhere or in a circle."""
        for key in keys:
            if key in self._values and (value := self._resolved(key, ())):
                return value
        return None

    def _resolved(self, key: str, via: tuple[str, ...]) -> str:
        if key in via:
            raise EnvironmentFileError(f"{key} in {self._name} refers to itself; give it a value of its own.")
        text, refers = self._values[key]
        if not refers:
            return text

        def value(found: re.Match[str]) -> str:
            name = found["braced"] or found["plain"]
            given = self._resolved(name, (*via, key)) if name in self._values else ""
            mark = found["mark"] or ""
            if name in self._values and (given or not mark.startswith(":")):
                return given
            if mark.endswith("-"):
                return str(found["other"])
            raise EnvironmentFileError(
                f"{key} in {self._name} refers to {name}, which the file does not set; set it there or give the "
                "DSN with an option."
            )

        return _REFERENCE.sub(value, text.replace("$$", "\0")).replace("\0", "$")

    def dsns(self) -> dict[Part, Dsn]:
        """The databases of the parts that the file tells of."""
        found: dict[Part, Dsn] = {}
        for part in PARTS:
            if part == "rocky":
                words = {word: self.get(key) for word, key in _ROCKY.items()}
                if words["dbname"] or words["host"]:
                    found[part] = Dsn(words)
            elif uri := self.get(*_URIS[part]):
                found[part] = dsn(uri, f"{_URIS[part][0]} in {self._name}")
        return found

    def encryption(self) -> Encryption:
        """How KATalogus keeps its settings; raises `EnvironmentFileError` for keys that are none."""
        middleware = (self.get(*_MIDDLEWARE) or "IDENTITY").upper()
        if middleware == "IDENTITY":
            return Encryption(sealed=False)
        if middleware != "NACL_SEALBOX":
            raise EnvironmentFileError(
                f"{_MIDDLEWARE[0]} in {self._name} is neither IDENTITY nor NACL_SEALBOX; its settings can't be read."
            )
        private, public = self.get(*_PRIVATE), self.get(*_PUBLIC)
        for keys, value in ((_PRIVATE, private), (_PUBLIC, public)):
            try:
                size = len(base64.b64decode(value or "", validate=True))
            except (binascii.Error, ValueError):
                size = 0
            if size != 32:
                raise EnvironmentFileError(
                    f"{keys[0]} in {self._name} is no base64 of 32 bytes; KATalogus' settings can't be read without."
                )
        return Encryption(sealed=True, private=Secret(private or ""), public=Secret(public or ""))


class Encryption:
    """KATalogus' way of keeping settings: plain, or NaCl boxes with this pair of keys (base64, 32 bytes each)."""

    def __init__(self, *, sealed: bool, private: Secret | None = None, public: Secret | None = None) -> None:
        self.sealed = sealed
        self.private = private
        self.public = public


def read(path: Path) -> Environment:
    """The env file at this path; raises `EnvironmentFileError` where it is missing or a line of it is no setting."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "no UTF-8 text"
        raise EnvironmentFileError(f"{path} can't be read ({reason}); give the env file of the install.") from None
    return parse(text, str(path))


def parse(text: str, name: str = "the env file") -> Environment:
    """The values of a text of this form."""
    values: dict[str, tuple[str, bool]] = {}
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.match(line)
        if found is None:
            raise EnvironmentFileError(f"Line {number} of {name} is no KEY=VALUE; mend it or give the DSNs instead.")
        value = found["value"]
        quote = value[:1]
        if quote in ("'", '"'):
            # A quoted value may go on over lines.
            while _closing(value, quote) < 0:
                following = next(lines, None)
                if following is None:
                    raise EnvironmentFileError(f"The quote in line {number} of {name} is never closed; close it.")
                value += "\n" + following[1]
            inner = value[1 : _closing(value, quote)]
            values[found["key"]] = (inner, False) if quote == "'" else (_unescaped(inner), True)
        else:
            values[found["key"]] = (re.sub(r"(^|\s+)#.*$", "", value).strip(), True)
    return Environment(values, name)


def _closing(value: str, quote: str) -> int:
    at = 1
    while at < len(value):
        if value[at] == "\\" and quote == '"':
            at += 1
        elif value[at] == quote:
            return at
        at += 1
    return -1


def _unescaped(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        # An escaped dollar is no reference.
        return "$$" if found[1] == "$" else _ESCAPES.get(found[1], found[1])

    return re.sub(r"\\(.)", one, text, flags=re.DOTALL)


def dsn(text: str, what: str = "the DSN") -> Dsn:
    """A DSN from a URI (`postgresql://`, also SQLAlchemy's `postgresql+driver://`) or libpq's `key=value` form; raises
    `UsageError`, which does not repeat the text."""
    plain = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", text.strip())
    try:
        words = conninfo_to_dict(plain)
    except psycopg.Error:
        raise UsageError(
            f"{what} is no PostgreSQL DSN; write it as postgresql://user:password@host:5432/database."
        ) from None
    return Dsn(words)


def host_map(given: Sequence[str]) -> dict[str, tuple[str, str]]:
    """`postgres=127.0.0.1:5432` and `postgres:5432=127.0.0.1:5433` as a mapping to (host, port)."""
    result: dict[str, tuple[str, str]] = {}
    for one in given:
        inside, equals, outside = one.partition("=")
        host, colon, port = outside.rpartition(":")
        if not equals or not inside or not (host if colon else outside):
            raise UsageError(f"{one!r} is no host map; write it as postgres:5432=127.0.0.1:5432.")
        result[inside] = (host.strip("[]"), port) if colon else (outside, "")
    return result


def mapped(where: Dsn, hosts: Mapping[str, tuple[str, str]]) -> Dsn:
    """The DSN as it is reached from here: what is given for host and port, or for the host alone."""
    found = hosts.get(f"{where.host}:{where.port}") or hosts.get(where.host)
    if found is None:
        return where
    return where.with_(host=found[0], port=found[1] or where.port)


class CannotConnectError(KattegatError):
    """A database that can't be reached; the sentence has what the server said, which holds no password."""

    def __init__(self, part: str, where: Dsn, reason: str) -> None:
        self.part = part
        said = " ".join(reason.split()).rstrip(".")
        super().__init__(
            f"The database of {part} ({where}) can't be reached: {said}; where the name is one of a container network, "
            "say how it is reached from here with --host-map."
        )
