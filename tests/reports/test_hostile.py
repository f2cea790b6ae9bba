"""What targets send may say anything; no report lets it steer a terminal, a browser or the order of reading."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from kattegat.reports import page, terminal
from kattegat.reports.contents import (
    FORM,
    AssetRef,
    AssetRow,
    Change,
    Changes,
    Contents,
    Coverage,
    CoverageRow,
    FindingRow,
    LinkRow,
    Trouble,
    sentence,
)

WHEN = datetime(2030, 1, 1, tzinfo=UTC)
BAD = "<script>alert(1)</script>\x1b[31m\x1b]0;owned\x07\x9b2J\u202ebackwards\u2066\x00\r\n[bold]{x}" + "y" * 5000
FORBIDDEN = ("<script", "\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\x00", "\r")


def contents() -> Contents:
    """A report with hostile text wherever a target's text can come."""
    ref = AssetRef("Other" + BAD, BAD)
    change = Change("high", ref, "check", BAD, BAD, BAD)
    finding = FindingRow(
        "high", ref, "check", "title", [BAD] * 9, "open", WHEN, [], "risk", "fix", "RFC 0", [ref] * 4, BAD
    )
    covered = CoverageRow("check", ref, BAD)
    return Contents(
        FORM, "default", [BAD], WHEN, WHEN, False, BAD, [finding], Coverage([covered], [covered], [covered]),
        [AssetRow(ref.type, ref.key, 1, True, WHEN)], [LinkRow(BAD, ref, ref)],
        Changes(WHEN, [change], [change], [change], [change]), [Trouble("scanner", ref, "failed", BAD)],
    )  # fmt: skip


@pytest.mark.parametrize("width", [60, 100, 160])
def test_a_terminal_gets_no_control_characters(width: int) -> None:
    out = io.StringIO()
    terminal.show(Console(file=out, width=width, force_terminal=False), contents())
    assert [bad for bad in FORBIDDEN[1:] if bad in out.getvalue()] == []


def test_the_page_has_no_foreign_markup_or_control_characters() -> None:
    html = page.render(contents())
    assert [bad for bad in FORBIDDEN if bad in html] == []
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize("template", ["{x.y}", "{x[0]}", "{0}", "{", "{x!q}", "{x:d}", "{missing}"])
def test_a_sentence_that_does_not_fit_its_values_is_shown_as_it_is(template: str) -> None:
    assert sentence(template, {"x": 1.5}) == template
