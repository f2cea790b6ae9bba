"""What every scanner is told of the install."""

from __future__ import annotations

from pathlib import Path

import pytest

from kattegat import settings
from kattegat.errors import UsageError
from kattegat.runner.job import install_options


def test_without_settings_both_are_empty() -> None:
    assert install_options(settings.load({})) == {"trust_anchor": "", "ca_file": ""}


def test_the_anchor_is_read_and_the_certificates_are_named(tmp_path: Path) -> None:
    anchor = tmp_path / "anchor"
    anchor.write_text("test. IN DS 1 13 2 00\n")
    given = settings.load({"KAT_TRUST_ANCHOR": str(anchor), "KAT_CA_FILE": "/etc/roots.pem"})
    assert install_options(given) == {"trust_anchor": "test. IN DS 1 13 2 00\n", "ca_file": "/etc/roots.pem"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_anchor_that_can_not_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    """Going on with the root's keys would judge by other keys than the install says."""
    anchor = tmp_path / "anchor"
    if content is not None:
        anchor.write_bytes(content)
    with pytest.raises(UsageError, match="The file that KAT_TRUST_ANCHOR names can't be read"):
        install_options(settings.load({"KAT_TRUST_ANCHOR": str(anchor)}))
