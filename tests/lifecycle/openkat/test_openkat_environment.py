"""The env file of an install: its forms, its references, and that no value of it is ever shown."""

from __future__ import annotations

import base64

import pytest

from kattegat.errors import UsageError
from kattegat.lifecycle.openkat import environment

ENV = """
# An install as its own example has it
POSTGRES_USER=postgres
export POSTGRES_PASSWORD="sesame ${SALT}"   # a remark
SALT='$literal'
SCHEDULER_DB_USER=mula_dba
SCHEDULER_DB_PASSWORD=pass#word
SCHEDULER_DB=mula_db
SCHEDULER_DB_URI=postgresql://${SCHEDULER_DB_USER}:${SCHEDULER_DB_PASSWORD_URI}@postgres:5432/${SCHEDULER_DB}
SCHEDULER_DB_PASSWORD_URI=pass%23word
KATALOGUS_DB_URI="postgresql://katalogus_app:k@postgres/katalogus"
BYTES_DB_URI=postgresql+psycopg2://bytes_app:${UNSET:-b}@postgres:5432/bytes
ROCKY_DB=rocky_db
ROCKY_DB_USER=rocky_app
ROCKY_DB_PASSWORD=cost$$5
ROCKY_DB_HOST=postgres
ROCKY_DB_PORT=5432
"""


def test_the_dsns_of_all_parts() -> None:
    found = environment.parse(ENV).dsns()
    assert {part: str(where) for part, where in found.items()} == {
        "scheduler": "mula_dba@postgres:5432/mula_db",
        "katalogus": "katalogus_app@postgres:5432/katalogus",
        "bytes": "bytes_app@postgres:5432/bytes",
        "rocky": "rocky_app@postgres:5432/rocky_db",
    }
    passwords = {part: where.environment()["PGPASSWORD"] for part, where in found.items()}
    assert passwords == {"scheduler": "pass#word", "katalogus": "k", "bytes": "b", "rocky": "cost$5"}


def test_forms_of_values() -> None:
    found = environment.parse(
        'A=plain # remark\nB=\'single ${A} # kept\'\nC="double ${A} \\"q\\" \\${A}"\nD=\nE=a=b\nF="two\nlines"\n'
        "G=$A-x\nH=${D:-given}\nI=${D-kept}\nJ=#nothing\nK=in#side\n"
    )
    assert [found.get(key) for key in "ABCEFGHK"] == [
        "plain", "single ${A} # kept", 'double plain "q" ${A}', "a=b", "two\nlines", "plain-x", "given", "in#side",
    ]  # fmt: skip
    assert found.get("D") is None
    assert found.get("I") is None
    assert found.get("J") is None
    assert found.get("D", "A") == "plain"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\nnonsense\n", r"Line 2 of the env file is no KEY=VALUE"),
        ("A='open\n", r"quote in line 1"),
        ("SCHEDULER_DB_URI=${NOWHERE}/x\n", r"refers to NOWHERE"),
        ("SCHEDULER_DB_URI=${B}\nB=${SCHEDULER_DB_URI}\n", r"refers to itself"),
        ("SCHEDULER_DB_URI=mysql://secret@host/x\n", r"SCHEDULER_DB_URI in the env file is no PostgreSQL DSN"),
    ],
)
def test_what_is_wrong_is_named_without_its_value(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        environment.parse(text).dsns()
    assert "secret" not in str(raised.value)


def test_no_password_is_shown() -> None:
    where = environment.dsn("postgresql://app:hush@db:5432/x")
    assert "hush" not in f"{where} {where!r} {environment.Secret('hush')!r}"
    assert "hush" in where.conninfo()


def test_a_host_inside_is_reached_from_outside() -> None:
    hosts = environment.host_map(["postgres:5433=[::1]:6000", "postgres=127.0.0.1:5432", "other=there"])
    where = environment.dsn("postgresql://a@postgres:5433/x")
    assert environment.mapped(where, hosts).server() == ("::1", "6000")
    assert environment.mapped(where.with_(port="5432"), hosts).server() == ("127.0.0.1", "5432")
    assert environment.mapped(where.with_(host="other"), hosts).server() == ("there", "5433")
    assert environment.mapped(where.with_(host="third"), hosts).server() == ("third", "5433")
    with pytest.raises(UsageError, match="is no host map"):
        environment.host_map(["postgres"])


def test_a_database_is_reached_with_the_login_of_another_dsn() -> None:
    admin = environment.dsn("postgresql://postgres:root@elsewhere/postgres")
    where = environment.dsn("postgresql://app:hush@db:5432/x").login(admin)
    assert str(where) == "postgres@db:5432/x"
    assert where.environment()["PGPASSWORD"] == "root"


def test_encryption() -> None:
    key = base64.b64encode(bytes(32)).decode()
    assert not environment.parse("").encryption().sealed
    assert not environment.parse("BOEFJES_ENCRYPTION_MIDDLEWARE=IDENTITY").encryption().sealed
    names = ("BOEFJES_KATALOGUS_PRIVATE_KEY", "BOEFJES_KATALOGUS_PUBLIC_KEY", "BOEFJES_ENCRYPTION_MIDDLEWARE")
    older = ("KATALOGUS_PRIVATE_KEY_B64", "KATALOGUS_PUBLIC_KEY_B64", "ENCRYPTION_MIDDLEWARE")
    for private, public, middleware in (names, older):
        found = environment.parse(f"{middleware}=NACL_SEALBOX\n{private}={key}\n{public}={key}").encryption()
        assert found.sealed
        assert found.private is not None
        assert found.private.reveal() == key
        with pytest.raises(UsageError, match="no base64 of 32 bytes"):
            environment.parse(f"{middleware}=NACL_SEALBOX\n{private}=AAAA\n{public}={key}").encryption()
    with pytest.raises(UsageError, match="neither IDENTITY nor NACL_SEALBOX"):
        environment.parse("ENCRYPTION_MIDDLEWARE=ROT13").encryption()
