"""The watch over rows whose values are parked: what an older release does to them is kept in `parked.touched`."""

from __future__ import annotations

from collections.abc import Sequence

from kattegat.schema import ddl
from kattegat.schema.draft import Draft, note, returned
from kattegat.schema.shape import Column


def start_watch(draft: Draft, table: str, watch: int, parked: Sequence[str], *, inserts: bool) -> list[str]:
    """SQL for the triggers that keep the key and the parked values of rows that are changed, deleted or truncated, and
    with `inserts` the keys of new ones."""
    key = draft.key(table)
    names = ", ".join(ddl.literal(each) for each in parked)

    def contents(row: str) -> str:
        texts = ", ".join(f"{row}.{ddl.ident(each)}::text" for each in parked)
        return f"pg_catalog.to_jsonb({row}) || pg_catalog.jsonb_object(ARRAY[{names}]::text[], ARRAY[{texts}]::text[])"

    def keyed(row: str) -> str:
        if not key:
            return f"pg_catalog.to_jsonb({row})"
        pairs = ", ".join(f"{ddl.literal(c)}, pg_catalog.to_jsonb({row}) -> {ddl.literal(c)}" for c in key)
        return f"pg_catalog.jsonb_build_object({pairs})"

    # Without a key two equal rows can't be told apart, so each change is kept.
    update, once = ("U", " ON CONFLICT DO NOTHING") if key else ("M", "")
    into = "INSERT INTO parked.touched (entry, act, key, contents)"
    function = f"parked.watch_{watch}"
    body = f"""
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET extra_float_digits = 1
SET bytea_output = 'hex' SET row_security = off AS $kat_watch$
BEGIN
    IF pg_catalog.current_setting('kat.change', true) = 'on' THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD OPERATOR(pg_catalog.*<>) NEW THEN
            {into} VALUES ({watch}, '{update}', {keyed("NEW")}, {contents("OLD")}){once};
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        {into} VALUES ({watch}, 'D', {keyed("OLD")}, {contents("OLD")});
    ELSIF TG_OP = 'INSERT' THEN
        {into} VALUES ({watch}, 'I', {keyed("NEW")}, NULL);
    ELSE
        {into} SELECT {watch}, 'T', {keyed("t")}, {contents("t")} FROM {ddl.name(table)} AS t;
    END IF;
    RETURN NULL;
END $kat_watch$"""  # noqa: S608
    acts = "INSERT OR UPDATE OR DELETE" if inserts else "UPDATE OR DELETE"
    place = ddl.name(table)
    return [
        body,
        f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC",
        f"CREATE TRIGGER _kat_watch_{watch} AFTER {acts} ON {place} FOR EACH ROW EXECUTE FUNCTION {function}()",
        f"CREATE TRIGGER _kat_swept_{watch} BEFORE TRUNCATE ON {place} FOR EACH STATEMENT"
        f" EXECUTE FUNCTION {function}()",
        f"ALTER TABLE {place} ENABLE ALWAYS TRIGGER _kat_watch_{watch}",
        f"ALTER TABLE {place} ENABLE ALWAYS TRIGGER _kat_swept_{watch}",
        note(watch, "watch", table, function, {"columns": parked, "key": key}),
    ]


def end_watch(table: str, watch: int) -> list[str]:
    """SQL that ends it; what it has seen stays on record."""
    place = ddl.name(table)
    return [
        f"DROP TRIGGER IF EXISTS _kat_watch_{watch} ON {place}",
        f"DROP TRIGGER IF EXISTS _kat_swept_{watch} ON {place}",
        f"DROP FUNCTION IF EXISTS parked.watch_{watch}()",
        returned(watch),
    ]


def touched(draft: Draft, table: str, watches: Sequence[int], act: str, further: str = "true") -> str:
    """A condition over alias t: an older release did this to the row."""
    pairs = ", ".join(
        f"{ddl.literal(column)}, pg_catalog.to_jsonb(t.{ddl.ident(column)})" for column in draft.key(table)
    )
    key = f"pg_catalog.jsonb_build_object({pairs})" if pairs else "pg_catalog.to_jsonb(t)"
    listed = ", ".join(str(watch) for watch in watches)
    return (
        f"EXISTS (SELECT 1 FROM parked.touched AS w WHERE w.entry IN ({listed}) AND w.open AND w.act = '{act}'"  # noqa: S608
        f" AND pg_catalog.md5(w.key::text) = pg_catalog.md5({key}::text) AND ({further}))"
    )


def watches_inserts(shape: Column) -> bool:
    # Else NULL tells that a row came later.
    return shape.default is not None and not shape.not_null and not shape.identity
