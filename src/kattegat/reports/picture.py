"""A picture of assets and links as SVG: a column per type, in the order in which one leads to another."""

from __future__ import annotations

from html import escape

from kattegat.reports.contents import AssetRef, Contents, LinkRow
from kattegat.reports.terminal import safe

COLUMNS = (("Network",), ("Hostname",), ("IPAddress",), ("Service", "Software"), ("Website", "URL"), ("Certificate",))
WIDTH, ROW, PAD = 230, 30, 16
MOST = 400


def svg(contents: Contents) -> str:
    """The picture; with more assets than fit, those with the worst findings and the declared ones come first."""
    worst = _worst(contents)
    assets = sorted(
        contents.assets, key=lambda row: (AssetRef(row.type, row.key) not in worst, not row.declared, row.key)
    )
    left_out = max(0, len(assets) - MOST)
    columns: list[list[AssetRef]] = [[] for _ in range(len(COLUMNS) + 1)]
    for row in assets[:MOST]:
        place = next((index for index, types in enumerate(COLUMNS) if row.type in types), len(COLUMNS))
        columns[place].append(AssetRef(row.type, row.key))
    columns = [sorted(column) for column in columns if column]
    places = {
        ref: (PAD + x * WIDTH, PAD + 20 + y * ROW) for x, column in enumerate(columns) for y, ref in enumerate(column)
    }
    declared = {AssetRef(row.type, row.key) for row in contents.assets if row.declared}
    width = PAD * 2 + max(len(columns), 1) * WIDTH
    height = PAD * 2 + 40 + max((len(column) for column in columns), default=1) * ROW
    heads = "".join(
        f'<text class="head" x="{PAD + x * WIDTH}" y="{PAD + 4}">{escape(safe(_types(column)))}</text>'
        for x, column in enumerate(columns)
    )
    lines = "".join(_line(link, places) for link in contents.links)
    boxes = "".join(_box(ref, place, worst.get(ref, ""), ref in declared) for ref, place in places.items())
    rest = (
        f'<text class="head" x="{PAD}" y="{height - 6}">{left_out} more assets are not drawn</text>' if left_out else ""
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="Assets and links"'
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}">{heads}{lines}{boxes}{rest}</svg>'
    )


def _worst(contents: Contents) -> dict[AssetRef, str]:
    worst: dict[AssetRef, str] = {}
    for finding in contents.findings:  # the most severe come first
        worst.setdefault(finding.asset, finding.severity)
    return worst


def _types(column: list[AssetRef]) -> str:
    return ", ".join(dict.fromkeys(ref.type for ref in column))


def _label(ref: AssetRef) -> str:
    key = ref.key.removeprefix("internet|")
    return key if len(key) <= 30 else key[:29] + "…"


def _line(link: LinkRow, places: dict[AssetRef, tuple[int, int]]) -> str:
    if link.origin not in places or link.target not in places:
        return ""
    (x1, y1), (x2, y2) = places[link.origin], places[link.target]
    start = x1 + WIDTH - 30 if x2 > x1 else x1
    end = x2 if x2 > x1 else x2 + WIDTH - 30
    if x1 == x2:
        start = end = x1 + WIDTH - 30
    y1, y2 = y1 + 11, y2 + 11
    bend = max(abs(end - start) // 2, 24)
    first, second = (
        (start + bend, end - bend)
        if x2 > x1
        else (start + bend, end + bend)
        if x1 == x2
        else (start - bend, end + bend)
    )
    title = escape(safe(f"{link.origin.key} {link.type} {link.target.key}"))
    return f'<path class="link" d="M{start},{y1} C{first},{y1} {second},{y2} {end},{y2}"><title>{title}</title></path>'


def _box(ref: AssetRef, place: tuple[int, int], severity: str, declared: bool) -> str:
    x, y = place
    marks = f"box {severity}{' declared' if declared else ''}"
    said = f"{ref.type} {ref.key}{f' ({severity})' if severity else ''}"
    return (
        f"<g><title>{escape(safe(said))}</title>"
        f'<rect class="{marks}" x="{x}" y="{y}" width="{WIDTH - 30}" height="22" rx="4"/>'
        f'<text x="{x + 6}" y="{y + 15}">{escape(safe(_label(ref)))}</text></g>'
    )
