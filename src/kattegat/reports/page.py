"""The contents of a scan as one self-contained HTML page: no script, no request to anywhere."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kattegat.model.verdict import SEVERITIES
from kattegat.reports import picture, terminal
from kattegat.reports.contents import AssetRef, Contents


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("kattegat.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters["moment"] = terminal.moment
    made.filters["safe_text"] = terminal.safe
    return made


def render(contents: Contents) -> str:
    """The page."""
    unknown: dict[tuple[AssetRef, str], list[str]] = defaultdict(list)
    for row in contents.coverage.unknown:
        unknown[row.asset, row.reason].append(row.check)
    counts = Counter(finding.severity for finding in contents.findings)
    return (
        _environment()
        .get_template("scan.html")
        .render(
            contents=contents,
            counts=[(severity, counts[severity]) for severity in SEVERITIES],
            unknown=sorted(unknown.items()),
            picture=Markup(picture.svg(contents)),  # noqa: S704 - escaped where it is drawn
        )
    )
