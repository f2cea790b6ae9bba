"""What an install is, by what its databases record: one release, mixed versions, or nobody knows."""

from __future__ import annotations

from typing import cast

import pytest

from kattegat.lifecycle.openkat import facts, recognise
from kattegat.lifecycle.openkat.facts import PARTS, Part
from kattegat.lifecycle.openkat.recognise import At


def at(part: Part, which: str) -> At:
    """A part at a revision; for Rocky at the migrations of a release."""
    if part == "rocky":
        return recognise.at_migrations({app: set(names) for app, names in recognise.migrations_of(which).items()})
    return recognise.at_revisions(part, [which])


def install(release: str) -> dict[Part, At]:
    """All four parts as a release has them."""
    known = facts.release(release)
    return {part: at(part, release if part == "rocky" else getattr(known, part)) for part in PARTS}


@pytest.mark.parametrize("release", facts.releases())
def test_every_release_is_recognised(release: str) -> None:
    found = recognise.verdict(install(release).values())
    assert found.state == "one"
    assert release in found.releases


@pytest.mark.parametrize("release", facts.releases())
def test_the_last_migrations_of_a_release_are_among_its_migrations(release: str) -> None:
    for app, last in facts.release(release).rocky.items():
        assert last in recognise.migrations_of(release)[app]


# scheduler, katalogus, bytes, rocky (by release) -> state, closest or the span, the parts that are off
MIXED = [
    ("0010", "fdeaea4481b8", "1dde0213e9fe", "1.20.1", "one", "1.20.0–1.20.1 and main", ""),
    ("0010", "fc0295b38184", "1dde0213e9fe", "1.19.0", "one", "1.19.0–1.19.1", ""),
    ("0008", "fc0295b38184", "1dde0213e9fe", "1.18.2", "one", "1.18.0–1.18.2", ""),
    ("0008", "5be152459a7b", "1dde0213e9fe", "1.17.0", "one", "1.17.0", ""),
    ("0007", "6f99834a4a5a", "1dde0213e9fe", "1.16.0", "one", "1.16.0", ""),
    ("0007", "cd34fdfafdaf", "1dde0213e9fe", "1.15.1", "one", "1.15.0–1.15.1", ""),
    ("0007", "cd34fdfafdaf", "1dde0213e9fe", "1.14.0", "one", "1.14.0–1.14.2", ""),
    ("0007", "cd34fdfafdaf", "d216ad75177d", "1.12.1", "one", "1.11.0–1.13.0", ""),
    ("0007", "cd34fdfafdaf", "09a2929108d9", "1.10.0", "one", "1.10.0–1.10.2", ""),
    ("0006_add_jsonb_fields", "cd34fdfafdaf", "ec68d3eb14b1", "1.9.0", "one", "1.9.0", ""),
    ("0006_add_jsonb_fields", "cd34fdfafdaf", "fa64454868a9", "1.8.0", "one", "1.8.0–1.8.1", ""),
    ("0004", "cd34fdfafdaf", "fa64454868a9", "1.7.1", "one", "1.7.0–1.7.1", ""),
    ("003", "197672984df0", "ebc7de8be4e3", "1.5.0", "one", "1.5.0–1.6.2", ""),
    # the page's own case: the scheduler alone went up
    ("0010", "fc0295b38184", "1dde0213e9fe", "1.18.2", "mixed", "1.18.2", "scheduler"),
    ("0010", "fdeaea4481b8", "1dde0213e9fe", "1.19.1", "mixed", "1.19.1", "katalogus"),
    ("0010", "fc0295b38184", "1dde0213e9fe", "1.20.0", "mixed", "1.20.1", "katalogus"),
    ("0008", "fdeaea4481b8", "1dde0213e9fe", "1.20.0", "mixed", "1.20.1", "scheduler"),
    ("0010", "fdeaea4481b8", "1dde0213e9fe", "1.18.0", "mixed", "1.20.1", "rocky"),
    ("0010", "fdeaea4481b8", "d216ad75177d", "1.20.1", "mixed", "1.20.1", "bytes"),
    ("0010", "fdeaea4481b8", "09a2929108d9", "1.20.1", "mixed", "1.20.1", "bytes"),
    ("0010", "fdeaea4481b8", "ebc7de8be4e3", "1.20.1", "mixed", "1.20.1", "bytes"),
    ("0009", "fdeaea4481b8", "1dde0213e9fe", "1.20.1", "mixed", "1.20.1", "scheduler"),
    ("0007", "fdeaea4481b8", "1dde0213e9fe", "1.20.1", "mixed", "1.20.1", "scheduler"),
    ("0001", "fdeaea4481b8", "1dde0213e9fe", "1.20.1", "mixed", "1.20.1", "scheduler"),
    ("0011", "fdeaea4481b8", "1dde0213e9fe", "1.20.1", "mixed", "1.20.1", "scheduler"),
    ("0010", "a2c8d54b0124", "1dde0213e9fe", "1.20.1", "mixed", "1.20.1", "katalogus"),
    ("0010", "9f48560b0000", "1dde0213e9fe", "1.19.0", "mixed", "1.19.1", "katalogus"),
    ("0010", "0001", "1dde0213e9fe", "1.19.0", "mixed", "1.19.1", "katalogus"),
    ("0010", "deadbeef0000", "1dde0213e9fe", "1.19.0", "mixed", "1.19.1", "katalogus"),
    ("0008", "5be152459a7b", "1dde0213e9fe", "1.18.0", "mixed", "1.18.2", "katalogus"),
    ("0008", "fc0295b38184", "1dde0213e9fe", "1.17.0", "mixed", "1.18.2", "rocky"),
    ("0008", "6f99834a4a5a", "1dde0213e9fe", "1.17.0", "mixed", "1.16.0", "scheduler"),
    ("0007", "5be152459a7b", "1dde0213e9fe", "1.17.0", "mixed", "1.17.0", "scheduler"),
    ("0008", "6f99834a4a5a", "1dde0213e9fe", "1.16.0", "mixed", "1.16.0", "scheduler"),
    ("0007", "7c88b9cd96aa", "1dde0213e9fe", "1.16.0", "mixed", "1.16.0", "katalogus"),
    ("0007", "f9de6eb7824b", "1dde0213e9fe", "1.16.0", "mixed", "1.16.0", "katalogus"),
    ("0007", "cd34fdfafdaf", "1dde0213e9fe", "1.20.1", "mixed", "1.15.1", "rocky"),
    ("0007", "cd34fdfafdaf", "1dde0213e9fe", "1.12.0", "one", "1.14.0–1.14.2", ""),
    ("0007", "cd34fdfafdaf", "d216ad75177d", "1.10.0", "mixed", "1.10.2", "bytes"),
    ("0007", "cd34fdfafdaf", "ec68d3eb14b1", "1.10.0", "mixed", "1.10.2", "bytes"),
    ("0006_add_jsonb_fields", "cd34fdfafdaf", "ec68d3eb14b1", "1.8.0", "mixed", "1.8.1", "bytes"),
    ("0006_add_jsonb_fields", "cd34fdfafdaf", "fa64454868a9", "1.9.0", "mixed", "1.9.0", "bytes"),
    ("0005", "cd34fdfafdaf", "fa64454868a9", "1.8.0", "mixed", "1.8.1", "scheduler"),
    ("0004", "197672984df0", "fa64454868a9", "1.7.0", "mixed", "1.7.1", "katalogus"),
    ("003", "cd34fdfafdaf", "fa64454868a9", "1.7.0", "mixed", "1.7.1", "scheduler"),
    ("003", "197672984df0", "fa64454868a9", "1.6.0", "mixed", "1.6.2", "bytes"),
    ("003", "197672984df0", "0009", "1.6.0", "mixed", "1.6.2", "bytes"),
    ("003", "197672984df0", "e2f76e95f1e7", "1.6.0", "mixed", "1.6.2", "bytes"),
    ("0010", "fdeaea4481b8", "ebc7de8be4e3", "1.5.0", "mixed", "1.6.2", "scheduler katalogus"),
    ("0010", "197672984df0", "ebc7de8be4e3", "1.20.1", "mixed", "1.20.1", "katalogus bytes"),
    ("0008", "fdeaea4481b8", "1dde0213e9fe", "1.18.0", "mixed", "1.18.2", "katalogus"),
    ("0011", "ffffffffffff", "ffffffffffff", "1.6.0", "mixed", "1.6.2", "scheduler katalogus bytes"),
]


@pytest.mark.parametrize(("scheduler", "katalogus", "bytes_", "rocky", "state", "named", "off"), MIXED)
def test_a_combination_is_named_rightly(
    scheduler: str, katalogus: str, bytes_: str, rocky: str, state: str, named: str, off: str
) -> None:
    found = recognise.verdict(
        [at("scheduler", scheduler), at("katalogus", katalogus), at("bytes", bytes_), at("rocky", rocky)]
    )
    assert found.state == state
    assert found.off == tuple(off.split())
    if state == "one":
        assert found.words == f"OpenKAT {named}"
        assert not found.mend
    else:
        assert found.closest == named
        assert found.words.startswith("mixed versions: ")
        assert len(found.mend) == len(found.off)
        for part, mend in zip(found.off, found.mend, strict=True):
            assert mend.startswith(f"{part}: ")


def test_the_combinations_are_fifty() -> None:
    assert len(MIXED) >= 50
    assert len({case[:4] for case in MIXED}) == len(MIXED)


def test_what_would_mend_the_pages_own_case() -> None:
    parts = install("1.18.2") | {"scheduler": at("scheduler", "0010")}
    found = recognise.verdict(parts.values())
    assert found.mend == ("scheduler: `kat openkat downgrade --to 1.18.2` takes it to 0008.",)
    assert "scheduler is at 0010, OpenKAT 1.19.0–1.20.1 and main" in found.words


def test_any_subset_of_the_parts_is_judged() -> None:
    assert recognise.verdict([at("bytes", "1dde0213e9fe")]).words == "OpenKAT 1.14.0–1.20.1 and main"
    assert recognise.verdict([]).state == "unknown"
    assert recognise.verdict([at("bytes", "0099")]).state == "unknown"


def test_a_revision_is_looked_up_within_its_part() -> None:
    found = at("katalogus", "0010")
    assert not found.known
    assert "the scheduler (Mula), Bytes has one of that name" in found.words


@pytest.mark.parametrize("part", ["scheduler", "katalogus", "bytes", "rocky"])
def test_a_part_is_known_by_its_tables_at_every_revision(part: str) -> None:
    which = cast("Part", part)
    for revision in facts.chain(which):
        names = [name.removeprefix("public.") for name in facts.shape(which, revision).tables]
        assert recognise.part_of(names) == part


def test_other_databases_are_no_part() -> None:
    assert recognise.part_of(["alembic_version"]) is None
    assert recognise.part_of(["alembic_version", "tasks", "organisation", "setting"]) is None


def test_two_heads_at_once_and_no_revision_at_all() -> None:
    both = recognise.at_revisions("bytes", ["0011_2", "0011"])
    assert both.words == "0011 and 0011_2 at once, which e2f76e95f1e7 merges"
    assert not both.releases
    assert recognise.at_revisions("bytes", []).words == "no revision is recorded"


def test_rocky_with_originals_squashed_rows_or_both() -> None:
    full = recognise.migrations_of("1.20.1")
    squashed = {app: {name for name in names if "squashed" in name or name >= "0042" or app == "crisis_room"
                      or name.startswith("0005")} for app, names in full.items()}  # fmt: skip
    plain = {app: {name for name in names if "squashed" not in name} for app, names in full.items()}
    assert squashed["tools"] & {"0001_squashed_0041_merge_20230731_1131"}
    assert "0001_initial" not in squashed["account"]
    for form in (full, squashed, plain):
        assert recognise.at_migrations({app: set(names) for app, names in form.items()}).revision == "1.20"


def test_rocky_between_releases_and_newer_than_known() -> None:
    half = {app: set(names) for app, names in recognise.migrations_of("1.19.0").items()}
    half["crisis_room"].discard("0006_rename_dashboarddata_dashboarditem")
    assert not recognise.at_migrations(half).releases
    newer = {app: set(names) for app, names in recognise.migrations_of("1.20.1").items()}
    newer["tools"].add("0048_something_new")
    found = recognise.at_migrations(newer)
    assert not found.known
    assert "tools.0048_something_new" in found.words


def test_the_old_forms_of_1_15_have_no_squashed_rows_and_1_16_has() -> None:
    assert not any("squashed" in name for names in recognise.migrations_of("1.15.1").values() for name in names)
    assert "0001_squashed_0041_merge_20230731_1131" in recognise.migrations_of("1.16.0")["tools"]


def test_the_way_between_two_revisions() -> None:
    assert recognise.path("scheduler", "0010", "0008") == ("0010", "0009", "0008")
    assert recognise.path("bytes", "0010", "e2f76e95f1e7") == ("0010", "e2f76e95f1e7")
    assert recognise.path("bytes", "65a39ab3e224", "0011") == ("65a39ab3e224", "e2f76e95f1e7", "0011")
    assert recognise.path("bytes", "0011_2", "0009") == ("0011_2", "0010", "0009")


def test_a_release_without_a_snapshot_is_named() -> None:
    with pytest.raises(facts.NoSnapshotError, match=r"rocky at OpenKAT 1\.14\.2 is not known: run `kat openkat snap"):
        facts.revision_of("rocky", "1.14.2")
    with pytest.raises(facts.UnknownReleaseError, match=r"OpenKAT 2\.0\.0 is not in the table"):
        facts.release("2.0.0")
    assert facts.release("v1.20.1") == facts.release("1.20.1")
