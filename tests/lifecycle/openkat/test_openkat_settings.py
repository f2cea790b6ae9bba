"""KATalogus' settings between one document and one row each, plain and encrypted."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from nacl.public import Box, PrivateKey

from kattegat.cli import main as cli
from kattegat.lifecycle.openkat.environment import Dsn

PRIVATE = PrivateKey.generate()
BOX = Box(PRIVATE, PRIVATE.public_key)
SETTINGS = {"TOP_PORTS": "250", "API_KEY": "geheim é", "LONG": "x" * 200}


def seal(text: str) -> str:
    return base64.b64encode(bytes(BOX.encrypt(text.encode()))).decode()


def unseal(text: str) -> str:
    return BOX.decrypt(base64.b64decode(text)).decode()


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    keys = [base64.b64encode(bytes(key)).decode() for key in (PRIVATE, PRIVATE.public_key)]
    path.write_text(
        "BOEFJES_ENCRYPTION_MIDDLEWARE=NACL_SEALBOX\n"
        f"BOEFJES_KATALOGUS_PRIVATE_KEY={keys[0]}\nBOEFJES_KATALOGUS_PUBLIC_KEY={keys[1]}\n"
    )
    return path


def kat(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    code = cli.main(["openkat", *arguments, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else None, said.err


def fill(dsn: Dsn, document: str) -> None:
    with psycopg.connect(dsn.conninfo()) as connection:
        connection.execute("INSERT INTO organisation (id, name) VALUES ('acme', 'Acme')")
        connection.execute(
            "INSERT INTO settings (\"values\", plugin_id, organisation_pk) VALUES (%s, 'shodan', 1)", [document]
        )


def ask(dsn: Dsn, query: str) -> list[Any]:
    with psycopg.connect(dsn.conninfo()) as connection:
        return connection.execute(query.encode()).fetchall()


def test_encrypted_settings_there_and_back(make_part, env_file: Path, capsys) -> None:
    dsn = make_part("katalogus", "cd34fdfafdaf")
    fill(dsn, seal(json.dumps(SETTINGS)))
    before = ask(dsn, "SELECT * FROM settings")
    given = ("--katalogus", dsn.conninfo(), "--yes", "--no-backup")
    keys = ("--env-file", str(env_file))

    code, _, err = kat(capsys, "downgrade", *given, "--to", "1.6.2")
    assert code == 3
    assert "The settings of KATalogus are encrypted: give the env file" in " ".join(err.split())
    assert ask(dsn, "SELECT version_num FROM alembic_version") == [("cd34fdfafdaf",)]

    code, done, err = kat(capsys, "downgrade", *given, *keys, "--to", "1.6.2")
    assert code == 0, err
    assert "geheim" not in err + json.dumps(done)
    assert kat(capsys, "open", *given[:2], *keys)[0] == 0
    rows = dict(ask(dsn, "SELECT key, value FROM setting"))
    # 200 characters, encrypted, are more than a row of its own holds.
    assert {key: unseal(value) for key, value in rows.items()} == {"TOP_PORTS": "250", "API_KEY": "geheim é"}

    code, _, err = kat(capsys, "upgrade", *given, *keys, "--to", "1.7.0")
    assert code == 0, err
    assert kat(capsys, "open", *given[:2], *keys)[0] == 0
    assert ask(dsn, "SELECT * FROM settings") == before


def test_a_setting_that_the_older_release_changed_is_in_the_document(make_part, env_file: Path, capsys) -> None:
    dsn = make_part("katalogus", "cd34fdfafdaf")
    fill(dsn, seal(json.dumps({"TOP_PORTS": "250", "OLD": "1"})))
    given = ("--katalogus", dsn.conninfo(), "--env-file", str(env_file))
    assert kat(capsys, "downgrade", *given, "--yes", "--no-backup", "--to", "1.6.2")[0] == 0
    assert kat(capsys, "open", *given)[0] == 0
    with psycopg.connect(dsn.conninfo()) as connection:
        connection.execute("UPDATE setting SET value = %s WHERE key = 'TOP_PORTS'", [seal("1000")])
        connection.execute("DELETE FROM setting WHERE key = 'OLD'")
    assert kat(capsys, "upgrade", *given, "--yes", "--no-backup", "--to", "1.15.1")[0] == 0
    assert kat(capsys, "open", *given)[0] == 0
    ((document,),) = ask(dsn, 'SELECT "values" FROM settings')
    assert json.loads(unseal(document)) == {"TOP_PORTS": "1000"}


def test_plain_settings_need_no_env_file(make_part, capsys) -> None:
    dsn = make_part("katalogus", "cd34fdfafdaf")
    fill(dsn, json.dumps({"TOP_PORTS": "250", "N": 5}))
    given = ("--katalogus", dsn.conninfo())
    assert kat(capsys, "downgrade", *given, "--yes", "--no-backup", "--to", "1.6.2")[0] == 0
    assert kat(capsys, "open", *given)[0] == 0
    assert dict(ask(dsn, "SELECT key, value FROM setting")) == {"TOP_PORTS": "250", "N": "5"}
    assert kat(capsys, "upgrade", *given, "--yes", "--no-backup", "--to", "1.7.1")[0] == 0
    assert kat(capsys, "open", *given)[0] == 0
    assert ask(dsn, 'SELECT "values" FROM settings') == [('{"TOP_PORTS": "250", "N": 5}',)]


def test_the_wrong_key_changes_nothing(make_part, tmp_path: Path, capsys) -> None:
    dsn = make_part("katalogus", "cd34fdfafdaf")
    fill(dsn, seal(json.dumps(SETTINGS)))
    other = base64.b64encode(bytes(PrivateKey.generate())).decode()
    path = tmp_path / ".env"
    path.write_text(
        f"ENCRYPTION_MIDDLEWARE=NACL_SEALBOX\nKATALOGUS_PRIVATE_KEY_B64={other}\nKATALOGUS_PUBLIC_KEY_B64={other}"
    )
    given = ("--katalogus", dsn.conninfo(), "--env-file", str(path), "--yes", "--no-backup")
    code, _, err = kat(capsys, "downgrade", *given, "--to", "1.6.2")
    assert code == 3
    assert "can't be decrypted with the keys of the env file" in " ".join(err.split())
    assert other not in err
    assert ask(dsn, "SELECT version_num FROM alembic_version") == [("cd34fdfafdaf",)]
