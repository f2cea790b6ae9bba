"""Every setting of an install: its name in the environment, type, default and one line of documentation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kattegat.errors import UsageError

LEVELS = ("debug", "info", "warning", "error")


class SettingError(UsageError):
    """A setting with a value that can't be read."""

    def __init__(self, name: str, value: str, reason: str) -> None:
        self.name = name
        self.value = value
        super().__init__(f"{name} is {value!r}, but {reason}; correct it or unset it.")


class Setting(msgspec.Struct, frozen=True):
    """One setting. `read` turns the environment's text into the value and raises ValueError with a phrase."""

    name: str
    default: str
    doc: str
    read: Callable[[str], Any]


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _optional_path(text: str) -> Path | None:
    return _path(text) if text else None


def _number(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError("it must be a whole number") from None
    if value < 0:
        raise ValueError("it must not be negative")
    return value


def _positive(text: str) -> int:
    value = _number(text)
    if value < 1:
        raise ValueError("it must be at least 1")
    return value


def _level(text: str) -> str:
    if text.lower() not in LEVELS:
        raise ValueError("it must be debug, info, warning or error")
    return text.lower()


def _port(text: str) -> int:
    value = _number(text)
    if value > 65535:
        raise ValueError("a port is at most 65535")
    return value


def _database(text: str) -> str:
    if text and not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("it must start with postgresql://")
    return text


def _upgrade(text: str) -> str:
    if text not in ("", "auto"):
        raise ValueError("it must be auto or nothing")
    return text


def default_data_dir() -> str:
    """/var/lib/kattegat for root (whose home other users can't enter, and PostgreSQL never runs as root)."""
    if os.geteuid() == 0:
        return "/var/lib/kattegat"
    return os.path.join(os.environ.get("XDG_DATA_HOME") or "~/.local/share", "kattegat")


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("KAT_DATA_DIR", "", "Where this install keeps everything; /var/lib/kattegat for root.", _path),
        Setting("KAT_DATABASE_URL", "", "A PostgreSQL server (15 or newer) in place of the embedded one.", _database),
        Setting("KAT_PG_BIN", "", "The folder with pg_dump and pg_restore; by default looked for.", _optional_path),
        Setting("KAT_LISTEN", "127.0.0.1", "The address that the web process listens on.", str),
        Setting("KAT_PORT", "8480", "The port that the web process listens on.", _port),
        Setting("KAT_DNS_SERVER", "", "The resolver to ask, ADDRESS[:PORT]; by default the machine's own.", str),
        Setting("KAT_TRUST_ANCHOR", "", "A file with DNSKEY or DS records to trust; by default the root's.", str),
        Setting("KAT_CA_FILE", "", "Root certificates to trust in scans, as PEM; by default the system's.", str),
        Setting("KAT_CONCURRENCY", "50", "How many scans a runner has under way at once.", _positive),
        Setting("KAT_CONNECTIONS_PER_ADDRESS", "8", "Connections a runner has open to one address at once.", _positive),
        Setting("KAT_CONNECT_SECONDS", "5", "Seconds to wait for a connection.", _positive),
        Setting("KAT_SCAN_SECONDS", "300", "Seconds after which a scan is ended.", _positive),
        Setting("KAT_EVIDENCE_URL", "", "An object store for evidence (s3://...); by default a folder.", str),
        Setting("KAT_UPGRADE", "", "auto: kat up takes an older database to its release, with a backup.", _upgrade),
        Setting("KAT_LOG", "warning", "What is logged: debug, info, warning or error.", _level),
    )
}


class Settings(msgspec.Struct, frozen=True):
    """The settings in force in this process."""

    data_dir: Path
    database_url: str
    pg_bin: Path | None
    listen: str
    port: int
    dns_server: str
    trust_anchor: str
    ca_file: str
    concurrency: int
    connections_per_address: int
    connect_seconds: int
    scan_seconds: int
    evidence_url: str
    upgrade: str
    log: str


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Reads the environment; raises `SettingError` for an unreadable value and for a `KAT_` name unknown here."""
    env = os.environ if environment is None else environment
    for name in env:
        if name.startswith("KAT_") and not name.startswith("KAT_TEST_") and name not in SETTINGS:
            raise SettingError(name, env[name], f"there is no such setting (there are: {', '.join(SETTINGS)})")
    values: dict[str, Any] = {}
    for setting in SETTINGS.values():
        text = env.get(setting.name) or setting.default
        if setting.name == "KAT_DATA_DIR" and not text:
            text = default_data_dir()
        try:
            values[setting.name.removeprefix("KAT_").lower()] = setting.read(text)
        except ValueError as problem:
            raise SettingError(setting.name, text, str(problem)) from None
    return Settings(**values)
