"""The page about writing a plugin, followed to the letter: what it shows has to work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kattegat.cli import plugin

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-plugin.md"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The generated plugin with the page's blocks in the places that the page says."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    *parts, tests = blocks
    plugin.new("robots-txt", folder=tmp_path)
    module = tmp_path / "robots-txt" / "robots_txt.py"
    imports, kept, _ = module.read_text().partition("\nPATH = ")
    assert kept
    module.write_text(imports + "\n\n" + "\n\n".join(parts))
    cases = tmp_path / "robots-txt" / "tests" / "test_robots_txt.py"
    helpers, kept, _ = cases.read_text().partition("\n\ndef test_")
    assert kept
    cases.write_text(helpers + "\n\n" + tests)
    return module.parent


def test_the_plugin_of_the_page_passes_the_tests_of_the_page(written: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=written,
        env={**os.environ, "PYTHONPATH": str(written)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b5 passed", done.stdout)


def test_the_plugin_of_the_page_is_typed(written: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(written / ".mypy"), "robots_txt.py"],
        cwd=written,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
