"""The questions that `snapshot.read` puts to pg_catalog: one query for each kind of object, none per object.

They run under `settled`. PostgreSQL 15 to 18: a column of the catalogue that 15 lacks is read through to_jsonb.
"""

# ruff: noqa: S608 - the pieces put together are constants of this module

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Row, text

# Constants in expressions are printed by these: '1 day'::interval, '2026-01-01 00:00:00+00'::timestamptz.
SETTINGS = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "search_path": "",
}


@contextmanager
def settled(connection: Connection) -> Iterator[None]:
    """Fixes every setting that values and expressions print by, and an empty search_path; restores them at the end."""
    names = list(SETTINGS)
    before = connection.execute(
        text("SELECT n, current_setting(n) FROM unnest(CAST(:names AS text[])) AS n"), {"names": names}
    ).all()
    # Without a transaction around it a local setting would end with its own statement.
    driver: Any = connection.connection.driver_connection
    local = not driver.autocommit
    _set(connection, SETTINGS, local)
    try:
        yield
    finally:
        # A broken transaction takes its local settings with it when it is rolled back; a lost connection, everything.
        if driver.info.transaction_status not in (TransactionStatus.INERROR, TransactionStatus.UNKNOWN):
            _set(connection, dict(before), local)


def _set(connection: Connection, settings: dict[str, str], local: bool) -> None:
    statement = text("SELECT set_config(n, v, :local) FROM unnest(CAST(:n AS text[]), CAST(:v AS text[])) AS s (n, v)")
    connection.execute(statement, {"n": list(settings), "v": list(settings.values()), "local": local}).all()


def ask(connection: Connection, query: str, schemas: tuple[str, ...] = ()) -> list[Row[Any]]:
    """The rows of one of the queries below."""
    return list(connection.execute(text(query), {"schemas": list(schemas)} if ":schemas" in query else {}).all())


# What belongs to an extension is the extension's.
_OF_EXTENSION = """EXISTS (SELECT FROM pg_depend e WHERE e.classid = CAST('{0}' AS regclass) AND e.objid = {1}
    AND e.deptype = 'e')"""


def _grants(acl: str, kind: str, owner: str) -> str:
    """The expanded rights of all but the owner, and whether the owner has all that are his by default. MAINTAIN does
    not count: an access list that an older server wrote lacks it."""
    return f"""coalesce((SELECT json_agg(json_build_array(coalesce(g.rolname, 'PUBLIC'),
            a.privilege_type || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END))
        FROM aclexplode(coalesce({acl}, acldefault('{kind}', {owner}))) a LEFT JOIN pg_roles g ON g.oid = a.grantee
        WHERE a.grantee <> {owner}), '[]') AS grants,
    NOT EXISTS (SELECT privilege_type FROM aclexplode(acldefault('{kind}', {owner}))
            WHERE grantee = {owner} AND privilege_type <> 'MAINTAIN'
        EXCEPT SELECT privilege_type FROM aclexplode({acl}) WHERE grantee = {owner}) OR {acl} IS NULL AS owner_whole"""


RELATIONS = f"""
SELECT c.oid, n.nspname AS schema, n.nspname || '.' || c.relname AS name, c.relkind, c.relpersistence AS persistence,
    c.relispartition AS is_partition, pg_get_userbyid(c.relowner) AS owner, c.relrowsecurity AS row_security,
    c.relforcerowsecurity AS forced, c.reloptions AS options, c.reloftype <> 0 AS typed,
    CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS partition,
    CASE WHEN c.relkind IN ('v', 'm') AND n.nspname = ANY (:schemas) THEN pg_get_viewdef(c.oid) END AS definition,
    {_OF_EXTENSION.format("pg_class", "c.oid")} AS of_extension,
    {_grants("c.relacl", "r", "c.relowner")}
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

COLUMNS = """
SELECT a.attrelid AS relation, a.attnum AS number, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
    a.attnotnull AS not_null, a.attidentity AS identity, a.attgenerated AS generated,
    pg_get_expr(d.adbin, d.adrelid) AS expression, d.oid AS default_oid,
    CASE WHEN a.attcollation <> t.typcollation THEN cn.nspname || '.' || co.collname END AS collation,
    coalesce((SELECT json_agg(json_build_array(coalesce(g.rolname, 'PUBLIC'),
            x.privilege_type || CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END))
        FROM aclexplode(a.attacl) x LEFT JOIN pg_roles g ON g.oid = x.grantee
        WHERE x.grantee <> c.relowner), '[]') AS grants
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname !~ '^pg_'
    AND n.nspname <> 'information_schema' ORDER BY a.attrelid, a.attnum
"""

CONSTRAINTS = """
SELECT k.oid, k.conrelid AS relation, k.conname AS name, k.contype AS kind, k.conkey AS numbers, k.confrelid AS target,
    k.confkey AS target_numbers, k.conindid AS index_oid, k.convalidated AS valid,
    pg_get_constraintdef(k.oid) AS definition,
    pg_get_expr(k.conbin, k.conrelid) AS expression, coalesce(i.indnullsnotdistinct, false) AS nulls_not_distinct,
    coalesce(CAST(to_jsonb(k) ->> 'conenforced' AS boolean), true) AS enforced,
    coalesce(CAST(to_jsonb(k) ->> 'conperiod' AS boolean), false) AS period
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_index i ON i.indexrelid = k.conindid AND k.contype IN ('p', 'u')
WHERE n.nspname = ANY (:schemas) AND k.contype IN ('p', 'u', 'c', 'f', 'x') AND k.conparentid = 0
"""

INDEXES = """
SELECT i.indexrelid AS oid, i.indrelid AS relation, x.relname AS name, pg_get_indexdef(i.indexrelid) AS definition,
    i.indisunique AS unique, i.indnullsnotdistinct AS nulls_not_distinct, i.indisvalid AS valid,
    pg_get_expr(i.indpred, i.indrelid) AS predicate, CAST(i.indkey AS smallint[]) AS numbers,
    ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) AS k ORDER BY k)
        AS key_texts
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (:schemas) AND NOT EXISTS (
    SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
"""

TRIGGERS = """
SELECT t.oid, t.tgrelid AS relation, t.tgname AS name, pg_get_triggerdef(t.oid) AS definition, t.tgfoid AS function,
    t.tgenabled AS enabled, CAST(t.tgattr AS smallint[]) AS numbers
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (:schemas) AND NOT t.tgisinternal AND t.tgparentid = 0
"""

POLICIES = """
SELECT p.oid, p.polrelid AS relation, p.polname AS name, p.polcmd AS command, p.polpermissive AS permissive,
    ARRAY(SELECT CASE WHEN r = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r) END FROM unnest(p.polroles) AS r) AS roles,
    pg_get_expr(p.polqual, p.polrelid) AS using, pg_get_expr(p.polwithcheck, p.polrelid) AS check
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (:schemas)
"""

SEQUENCES = f"""
SELECT c.oid, n.nspname || '.' || c.relname AS name, format_type(s.seqtypid, NULL) AS type, s.seqstart AS start,
    s.seqincrement AS increment, s.seqmin AS minimum, s.seqmax AS maximum, s.seqcache AS cache, s.seqcycle AS cycle,
    pg_get_userbyid(c.relowner) AS owner, d.deptype, d.refobjid AS relation, d.refobjsubid AS number,
    n.nspname = ANY (:schemas) AS asked, {_grants("c.relacl", "s", "c.relowner")}
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_depend d ON d.classid = CAST('pg_class' AS regclass) AND d.objid = c.oid AND d.deptype IN ('a', 'i')
        AND d.refclassid = CAST('pg_class' AS regclass) AND d.refobjsubid > 0
WHERE NOT {_OF_EXTENSION.format("pg_class", "c.oid")}
"""

TYPES = f"""
SELECT t.oid, n.nspname || '.' || t.typname AS name, t.typtype AS kind, t.typrelid AS relation,
    CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END AS element, n.nspname = ANY (:schemas) AS asked,
    {_OF_EXTENSION.format("pg_type", "t.oid")} AS of_extension, pg_get_userbyid(t.typowner) AS owner,
    t.typacl IS NULL OR NOT EXISTS ((SELECT grantee, privilege_type, is_grantable FROM aclexplode(t.typacl)
            EXCEPT SELECT grantee, privilege_type, is_grantable FROM aclexplode(acldefault('T', t.typowner)))
        UNION ALL (SELECT grantee, privilege_type, is_grantable FROM aclexplode(acldefault('T', t.typowner))
            EXCEPT SELECT grantee, privilege_type, is_grantable FROM aclexplode(t.typacl))) AS usual_grants,
    ARRAY(SELECT CAST(enumlabel AS text) FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder) AS labels,
    CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END AS base, t.typnotnull AS not_null,
    pg_get_expr(t.typdefaultbin, 0) AS expression,
    CASE WHEN t.typtype = 'd' AND t.typcollation <> b.typcollation THEN cn.nspname || '.' || co.collname END
        AS collation,
    coalesce((SELECT json_object_agg(k.conname, pg_get_constraintdef(k.oid)) FROM pg_constraint k
        WHERE k.contypid = t.oid AND k.contype = 'c'), '{{}}') AS checks
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_type b ON b.oid = t.typbasetype
    LEFT JOIN pg_collation co ON co.oid = t.typcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

FUNCTIONS = f"""
SELECT p.oid, n.nspname || '.' || p.proname || '(' || array_to_string(
        ARRAY(SELECT format_type(x, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS u (x, o) ORDER BY o), ', ')
        || ')' AS name, p.prokind AS kind, n.nspname = ANY (:schemas) AS asked,
    {_OF_EXTENSION.format("pg_proc", "p.oid")} AS of_extension, pg_get_userbyid(p.proowner) AS owner,
    CASE WHEN p.prokind IN ('f', 'p') AND n.nspname = ANY (:schemas) THEN pg_get_functiondef(p.oid) END AS definition,
    pg_get_function_result(p.oid) AS returns, {_grants("p.proacl", "f", "p.proowner")}
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

# From what a shape holds to what the user made: what the server itself brings has no row here, or a lower oid.
DEPENDS = """
SELECT CAST(CAST(d.classid AS regclass) AS text) AS class, d.objid AS oid, d.objsubid AS sub, d.deptype AS kind,
    CAST(CAST(d.refclassid AS regclass) AS text) AS ref_class, d.refobjid AS ref, d.refobjsubid AS ref_sub
FROM pg_depend d
WHERE d.refobjid >= 16384 AND (d.deptype IN ('n', 'a') OR (d.deptype = 'i' AND d.classid = CAST('pg_proc' AS regclass)))
    AND d.classid = ANY (ARRAY['pg_constraint', 'pg_class', 'pg_trigger', 'pg_policy', 'pg_rewrite', 'pg_attrdef',
        'pg_proc', 'pg_type']::regclass[])
    AND d.refclassid = ANY (ARRAY['pg_class', 'pg_proc', 'pg_type']::regclass[])
"""

RULES = """
SELECT r.oid, r.ev_class AS relation, r.rulename AS name, r.rulename = '_RETURN' AND c.relkind IN ('v', 'm') AS of_view
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (:schemas)
"""

EXTENSIONS = """
SELECT CASE WHEN n.nspname IN ('public', 'pg_catalog') THEN e.extname ELSE n.nspname || '.' || e.extname END AS name
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql'
"""

# What a shape has no words for and the queries above don't meet, as a sentence's subject.
ODDS = f"""
SELECT o.words FROM (
    SELECT 'the inheritance of ' || n.nspname || '.' || c.relname AS words, n.nspname AS schema
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'f') AND NOT c.relispartition
    UNION ALL SELECT 'the operator ' || n.nspname || '.' || x.oprname, n.nspname FROM pg_operator x
        JOIN pg_namespace n ON n.oid = x.oprnamespace WHERE NOT {_OF_EXTENSION.format("pg_operator", "x.oid")}
    UNION ALL SELECT 'the operator class ' || n.nspname || '.' || x.opcname, n.nspname FROM pg_opclass x
        JOIN pg_namespace n ON n.oid = x.opcnamespace WHERE NOT {_OF_EXTENSION.format("pg_opclass", "x.oid")}
    UNION ALL SELECT 'the operator family ' || n.nspname || '.' || x.opfname, n.nspname FROM pg_opfamily x
        JOIN pg_namespace n ON n.oid = x.opfnamespace WHERE NOT {_OF_EXTENSION.format("pg_opfamily", "x.oid")}
    UNION ALL SELECT 'the collation ' || n.nspname || '.' || x.collname, n.nspname FROM pg_collation x
        JOIN pg_namespace n ON n.oid = x.collnamespace WHERE NOT {_OF_EXTENSION.format("pg_collation", "x.oid")}
    UNION ALL SELECT 'the conversion ' || n.nspname || '.' || x.conname, n.nspname FROM pg_conversion x
        JOIN pg_namespace n ON n.oid = x.connamespace WHERE NOT {_OF_EXTENSION.format("pg_conversion", "x.oid")}
    UNION ALL SELECT 'the text search configuration ' || n.nspname || '.' || x.cfgname, n.nspname FROM pg_ts_config x
        JOIN pg_namespace n ON n.oid = x.cfgnamespace WHERE NOT {_OF_EXTENSION.format("pg_ts_config", "x.oid")}
    UNION ALL SELECT 'the text search dictionary ' || n.nspname || '.' || x.dictname, n.nspname FROM pg_ts_dict x
        JOIN pg_namespace n ON n.oid = x.dictnamespace WHERE NOT {_OF_EXTENSION.format("pg_ts_dict", "x.oid")}
    UNION ALL SELECT 'the extended statistics ' || n.nspname || '.' || x.stxname, n.nspname FROM pg_statistic_ext x
        JOIN pg_namespace n ON n.oid = x.stxnamespace WHERE NOT {_OF_EXTENSION.format("pg_statistic_ext", "x.oid")}
    UNION ALL SELECT 'the column rights of the view ' || n.nspname || '.' || c.relname, n.nspname FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('v', 'm') AND a.attacl IS NOT NULL
    UNION ALL SELECT 'the not-null constraint ' || k.conname || ' of ' || n.nspname || '.' || c.relname
            || ' that is not validated', n.nspname FROM pg_constraint k
        JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE k.contype = 'n' AND NOT k.convalidated
    UNION ALL SELECT 'the column default of the view ' || n.nspname || '.' || c.relname, n.nspname FROM pg_attrdef a
        JOIN pg_class c ON c.oid = a.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'v'
) o WHERE o.schema = ANY (:schemas)
UNION ALL SELECT 'the cast ' || format_type(castsource, NULL) || ' to ' || format_type(casttarget, NULL) FROM pg_cast x
    WHERE x.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = CAST('pg_cast' AS regclass)
        AND e.objid = x.oid AND e.deptype IN ('e', 'i'))
UNION ALL SELECT 'the event trigger ' || evtname FROM pg_event_trigger x
    WHERE NOT {_OF_EXTENSION.format("pg_event_trigger", "x.oid")}
"""
