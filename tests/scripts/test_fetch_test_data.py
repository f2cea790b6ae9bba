"""The script that fetches published test suites: what it refuses to take out of an archive."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CONTENT = b"description: a suite\n"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "scripts" / "fetch_test_data.py"
    spec = importlib.util.spec_from_file_location("fetch_test_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch_test_data", module)
    spec.loader.exec_module(module)
    return module


def archive(folder: Path, *members: tarfile.TarInfo) -> Path:
    path = folder / "suite-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(CONTENT))
    return path


def regular(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = len(CONTENT)
    return member


def source(script: ModuleType, path: Path, member: str = "suite-1.0/cases.yml") -> Any:
    return script.Source(
        package="suite",
        version="1.0",
        archive_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member=member,
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
        target="cases.yml",
    )


def test_the_pinned_member_is_read_and_nothing_else_is_unpacked(script: ModuleType, tmp_path: Path) -> None:
    path = archive(tmp_path, regular("../escape"), regular("suite-1.0/cases.yml"))
    assert script.extract(source(script, path), path) == CONTENT
    assert sorted(tmp_path.iterdir()) == [path]


def test_another_archive_is_refused(script: ModuleType, tmp_path: Path) -> None:
    path = archive(tmp_path, regular("suite-1.0/cases.yml"))
    pinned = source(script, path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(script.FetchError, match="does not have the pinned SHA-256"):
        script.extract(pinned, path)


def test_another_content_a_missing_member_and_a_link_are_refused(script: ModuleType, tmp_path: Path) -> None:
    link = tarfile.TarInfo("suite-1.0/link.yml")
    link.type = tarfile.SYMTYPE
    link.linkname = "/etc/passwd"
    path = archive(tmp_path, regular("suite-1.0/cases.yml"), link)
    changed = dataclasses.replace(source(script, path), member_sha256="0" * 64)
    with pytest.raises(script.FetchError, match="not the pinned one"):
        script.extract(changed, path)
    with pytest.raises(script.FetchError, match="has no member"):
        script.extract(source(script, path, "suite-1.0/other.yml"), path)
    with pytest.raises(script.FetchError, match="not a regular file"):
        script.extract(source(script, path, "suite-1.0/link.yml"), path)


def test_what_is_there_already_is_not_fetched_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path, regular("suite-1.0/cases.yml"))
    downloads = []

    def download(source: Any, folder: Path) -> Path:
        downloads.append(source)
        return path

    monkeypatch.setattr(script, "download", download)
    cache = tmp_path / "cache"
    assert script.fetch(source(script, path), cache)
    assert not script.fetch(source(script, path), cache)
    (cache / "cases.yml").write_bytes(b"changed")
    assert script.fetch(source(script, path), cache)
    assert (cache / "cases.yml").read_bytes() == CONTENT
    assert [entry.name for entry in cache.iterdir()] == ["cases.yml"]
    assert len(downloads) == 2
