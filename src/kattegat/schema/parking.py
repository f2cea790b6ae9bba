"""The SQL functions, kept in schema `parked`, that set rows aside, put values in place of others, and bring both back.

A row or value is kept as an object of texts, column by column: the text form is what PostgreSQL reads back exactly,
whatever the type. Each call belongs to an entry, so that the way back finds what the way there has set aside.
"""

# ruff: noqa: S608 - the one piece put in is a constant of this module

from __future__ import annotations

# The text form of a value depends on these.
_FORMS = (
    "SET search_path = '' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'"
    " SET extra_float_digits = 1 SET bytea_output = 'hex'"
)

FUNCTIONS: tuple[str, ...] = (
    # A row's columns as texts, by the names they have now: an expression over alias t.
    """
CREATE OR REPLACE FUNCTION parked.texts(place regclass) RETURNS text LANGUAGE sql STABLE SET search_path = '' AS $kat$
    SELECT 'pg_catalog.jsonb_object(ARRAY['
        || pg_catalog.string_agg(pg_catalog.quote_literal(attname), ', ' ORDER BY attnum)
        || ']::pg_catalog.text[], ARRAY['
        || pg_catalog.string_agg('t.' || pg_catalog.quote_ident(attname) || '::pg_catalog.text', ', ' ORDER BY attnum)
        || ']::pg_catalog.text[])'
    FROM pg_catalog.pg_attribute WHERE attrelid = place AND attnum > 0 AND NOT attisdropped
$kat$
""",
    # Triggers of the schema's own must not act on what a change of release moves about. Gives the former states.
    """
CREATE OR REPLACE FUNCTION parked.hush(place regclass) RETURNS jsonb LANGUAGE plpgsql SET search_path = '' AS $kat$
DECLARE
    found record;
    states jsonb := '{}';
BEGIN
    FOR found IN
        SELECT tgname, tgenabled FROM pg_catalog.pg_trigger
        WHERE tgrelid = place AND NOT tgisinternal AND tgparentid = 0 AND tgenabled <> 'D'
            AND tgname OPERATOR(pg_catalog.!~) '^_kat_'
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', place, found.tgname);
        states := states OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(found.tgname, found.tgenabled);
    END LOOP;
    RETURN states;
END $kat$
""",
    """
CREATE OR REPLACE FUNCTION parked.wake(place regclass, states jsonb) RETURNS void LANGUAGE plpgsql
SET search_path = '' AS $kat$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT key, value FROM pg_catalog.jsonb_each_text(states) LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE %s TRIGGER %I', place,
            CASE found.value WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END, found.key);
    END LOOP;
END $kat$
""",
    # Whether a text can be read as one type and cast to another; pg_input_is_valid needs a newer server.
    """
CREATE OR REPLACE FUNCTION parked.fits(value text, type_from text, type_to text) RETURNS boolean LANGUAGE plpgsql
SET search_path = '' AS $kat$
BEGIN
    IF value IS NULL THEN
        RETURN true;
    END IF;
    EXECUTE pg_catalog.format('SELECT CAST(CAST($1 AS %s) AS %s)', type_from, type_to) USING value;
    RETURN true;
EXCEPTION WHEN data_exception OR check_violation OR not_null_violation OR cannot_coerce OR program_limit_exceeded THEN
    RETURN false;
END $kat$
""",
    # Whether a text can be read as the first of the types, and that cast to each of the others in turn.
    """
CREATE OR REPLACE FUNCTION parked.passes(value text, types text[]) RETURNS boolean LANGUAGE plpgsql
SET search_path = '' AS $kat$
DECLARE
    passed text := '$1';
    kind text;
BEGIN
    IF value IS NULL THEN
        RETURN true;
    END IF;
    FOREACH kind IN ARRAY types LOOP
        passed := pg_catalog.format('CAST(%s AS %s)', passed, kind);
    END LOOP;
    EXECUTE 'SELECT ' || passed USING value;
    RETURN true;
EXCEPTION WHEN data_exception OR check_violation OR not_null_violation OR cannot_coerce OR program_limit_exceeded THEN
    RETURN false;
END $kat$
""",
    # The columns that tell rows apart, as an object, over alias t; without any, the whole row.
    """
CREATE OR REPLACE FUNCTION parked.key(place regclass, columns text[]) RETURNS text LANGUAGE sql STABLE
SET search_path = '' AS $kat$
    SELECT CASE WHEN pg_catalog.cardinality(columns) = 0 THEN parked.texts(place) ELSE
        (SELECT 'pg_catalog.jsonb_object(ARRAY[' || pg_catalog.string_agg(pg_catalog.quote_literal(c), ', ')
            || ']::pg_catalog.text[], ARRAY[' || pg_catalog.string_agg('t.' || pg_catalog.quote_ident(c)
            || '::pg_catalog.text', ', ') || ']::pg_catalog.text[])' FROM pg_catalog.unnest(columns) AS c) END
$kat$
""",
    # Sets the rows that `query` finds (tableoid, ctid) aside, and with them every row that refers to them over `edges`,
    # in one statement, so that no foreign key of theirs acts on its own. Gives how many.
    f"""
CREATE OR REPLACE FUNCTION parked.set_aside(entry_id bigint, place text, query text, why text, edges jsonb, keys jsonb)
RETURNS bigint LANGUAGE plpgsql {_FORMS} AS $kat$
DECLARE
    added bigint;
    more bigint;
    total bigint := 0;
    wave integer := 0;
    edge record;
    tab record;
    columns text[];
    removal text := '';
    quiet jsonb := '{{}}';
BEGIN
    CREATE TEMPORARY TABLE IF NOT EXISTS _kat_doomed
        (tab text, part oid, tid tid, wave integer, PRIMARY KEY (part, tid));
    DELETE FROM pg_temp._kat_doomed;
    EXECUTE pg_catalog.format('INSERT INTO pg_temp._kat_doomed SELECT %L, f.part, f.tid, 0 FROM (%s) AS f (part, tid)'
        ' ON CONFLICT DO NOTHING', place, query);
    GET DIAGNOSTICS added = ROW_COUNT;
    WHILE added > 0 LOOP
        total := total + added;
        added := 0;
        wave := wave + 1;
        FOR edge IN SELECT * FROM pg_catalog.jsonb_to_recordset(edges)
            AS e(child text, child_columns text, parent text, parent_columns text)
        LOOP
            EXECUTE pg_catalog.format(
                'INSERT INTO pg_temp._kat_doomed SELECT %L, t.tableoid, t.ctid, %s FROM %s AS t WHERE (%s) IN'
                ' (SELECT %s FROM %s AS p JOIN pg_temp._kat_doomed AS d ON d.part = p.tableoid AND d.tid = p.ctid'
                ' WHERE d.tab = %L) ON CONFLICT DO NOTHING',
                edge.child, wave, edge.child, edge.child_columns, edge.parent_columns, edge.parent, edge.parent);
            GET DIAGNOSTICS more = ROW_COUNT;
            added := added + more;
        END LOOP;
    END LOOP;
    IF total = 0 THEN
        RETURN 0;
    END IF;
    FOR tab IN SELECT d.tab AS name, min(d.wave) AS first FROM pg_temp._kat_doomed AS d GROUP BY 1 ORDER BY 2, 1 LOOP
        columns := ARRAY(SELECT pg_catalog.jsonb_array_elements_text(keys OPERATOR(pg_catalog.->) tab.name));
        EXECUTE pg_catalog.format(
            'INSERT INTO parked.quarantine (entry, table_name, key, contents, reason) SELECT %L, %L, %s, %s,'
            ' CASE WHEN d.wave = 0 THEN %L ELSE ''refers to a row that is set aside'' END'
            ' FROM %s AS t JOIN pg_temp._kat_doomed AS d ON d.part = t.tableoid AND d.tid = t.ctid AND d.tab = %L'
            ' ORDER BY d.wave',
            entry_id, tab.name::regclass::text, parked.key(tab.name::regclass, columns),
            parked.texts(tab.name::regclass), why, tab.name, tab.name);
        removal := removal || pg_catalog.format(
            ', x%s AS (DELETE FROM %s AS t USING pg_temp._kat_doomed AS d WHERE d.tab = %L AND t.tableoid = d.part'
            ' AND t.ctid = d.tid)', pg_catalog.md5(tab.name), tab.name, tab.name);
        quiet := quiet || pg_catalog.jsonb_build_object(tab.name, parked.hush(tab.name::regclass));
    END LOOP;
    EXECUTE 'WITH none AS (SELECT 1)' || removal || ' SELECT 1';
    SET CONSTRAINTS ALL IMMEDIATE;
    PERFORM parked.wake(key::regclass, value) FROM pg_catalog.jsonb_each(quiet);
    RETURN total;
END $kat$
""",
    # Puts the rows of an entry back where they were. One that has no room there any more stays, with the reason.
    f"""
CREATE OR REPLACE FUNCTION parked.take_back(entry_id bigint) RETURNS bigint LANGUAGE plpgsql {_FORMS} AS $kat$
DECLARE
    row_held record;
    names text;
    texts text;
    place text := '';
    total bigint := 0;
    progress bigint := 1;
    quiet jsonb := '{{}}';
BEGIN
    IF NOT EXISTS (SELECT 1 FROM parked.quarantine
        WHERE entry = entry_id AND state = 'held' AND column_name IS NULL) THEN
        RETURN 0;
    END IF;
    -- A row may refer to another of them: those that fail are tried again while any succeeds.
    WHILE progress > 0 LOOP
        progress := 0;
        FOR row_held IN SELECT * FROM parked.quarantine
            WHERE entry = entry_id AND state IN ('held', 'conflict') AND column_name IS NULL
                AND to_regclass(table_name) IS NOT NULL
            ORDER BY id
        LOOP
            IF place <> row_held.table_name THEN
                place := row_held.table_name;
                IF NOT quiet ? place THEN
                    quiet := quiet || pg_catalog.jsonb_build_object(place, parked.hush(place::regclass));
                END IF;
            END IF;
            SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum),
                string_agg(format('CAST($1->>%L AS %s)', attname, format_type(atttypid, atttypmod)), ', '
                    ORDER BY attnum)
                INTO names, texts
                FROM pg_attribute WHERE attrelid = place::regclass AND attnum > 0 AND NOT attisdropped
                    AND attgenerated = '' AND row_held.contents ? attname;
            BEGIN
                EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s)', place, names, texts)
                    USING row_held.contents;
                UPDATE parked.quarantine SET state = 'returned', ended_at = clock_timestamp() WHERE id = row_held.id;
                progress := progress + 1;
            EXCEPTION WHEN integrity_constraint_violation OR data_exception THEN
                UPDATE parked.quarantine SET state = 'conflict', ended_at = clock_timestamp(),
                    reason = row_held.reason || '; not put back: ' || SQLERRM
                    WHERE id = row_held.id AND state = 'held';
            END;
        END LOOP;
        total := total + progress;
    END LOOP;
    SET CONSTRAINTS ALL IMMEDIATE;
    PERFORM parked.wake(key::regclass, value) FROM pg_catalog.jsonb_each(quiet);
    RETURN total;
END $kat$
""",
    # Puts another value in the place of those that a condition (over alias t) finds, and keeps theirs. Gives how many.
    f"""
CREATE OR REPLACE FUNCTION parked.place(entry_id bigint, place text, key_columns text[], column_in text, condition text,
    instead text, why text) RETURNS bigint LANGUAGE plpgsql {_FORMS} AS $kat$
DECLARE
    total bigint;
    quiet jsonb := parked.hush(place::regclass);
    kind text := (SELECT format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = place::regclass AND attname = column_in);
BEGIN
    EXECUTE format(
        'WITH was AS MATERIALIZED (SELECT t.tableoid AS part, t.ctid AS tid, %s AS key, t.%I::text AS former,'
        ' CAST(%s AS %s) AS fresh FROM %s AS t WHERE %s), put AS (UPDATE %s AS t SET %I = was.fresh FROM was'
        ' WHERE t.tableoid = was.part AND t.ctid = was.tid) INSERT INTO parked.quarantine'
        ' (entry, table_name, column_name, key, contents, placed, reason)'
        ' SELECT %L, %L, %L, key, jsonb_build_object(%L::text, former), fresh::text, %L FROM was',
        parked.key(place::regclass, key_columns), column_in, instead, kind, place, condition, place, column_in,
        entry_id, place::regclass::text, column_in, column_in, why);
    GET DIAGNOSTICS total = ROW_COUNT;
    SET CONSTRAINTS ALL IMMEDIATE;
    PERFORM parked.wake(place::regclass, quiet);
    RETURN total;
END $kat$
""",
    # The way back of place: a value returns where the one put in its place still stands; else it is stale, and kept.
    f"""
CREATE OR REPLACE FUNCTION parked.restore(entry_id bigint) RETURNS bigint LANGUAGE plpgsql {_FORMS} AS $kat$
DECLARE
    found record;
    columns text[];
    total bigint := 0;
    more bigint;
    kind text;
    quiet jsonb;
BEGIN
    FOR found IN SELECT DISTINCT q.table_name, q.column_name, ARRAY(SELECT jsonb_object_keys(q.key) ORDER BY 1) AS keys
        FROM parked.quarantine AS q WHERE q.entry = entry_id AND q.state = 'held' AND q.column_name IS NOT NULL
    LOOP
        columns := found.keys;
        kind := (SELECT format_type(atttypid, atttypmod) FROM pg_attribute
            WHERE attrelid = found.table_name::regclass AND attname = found.column_name);
        quiet := parked.hush(found.table_name::regclass);
        EXECUTE format(
            'WITH put AS (UPDATE %s AS t SET %I = CAST(q.contents->>%L AS %s) FROM parked.quarantine AS q'
            ' WHERE q.entry = %L AND q.state = ''held'' AND q.table_name = %L AND q.column_name = %L AND q.key = %s'
            ' AND t.%I::text IS NOT DISTINCT FROM q.placed RETURNING q.id)'
            ' UPDATE parked.quarantine AS q SET state = ''returned'', ended_at = clock_timestamp() FROM put'
            ' WHERE put.id = q.id',
            found.table_name, found.column_name, found.column_name, kind, entry_id, found.table_name, found.column_name,
            parked.key(found.table_name::regclass, columns), found.column_name);
        GET DIAGNOSTICS more = ROW_COUNT;
        total := total + more;
        SET CONSTRAINTS ALL IMMEDIATE;
        PERFORM parked.wake(found.table_name::regclass, quiet);
    END LOOP;
    UPDATE parked.quarantine SET state = 'stale', ended_at = clock_timestamp()
        WHERE entry = entry_id AND state = 'held' AND column_name IS NOT NULL;
    RETURN total;
END $kat$
""",
    # Gives a value to the rows that a condition (over alias t) finds; nothing of theirs is lost, since they had none.
    f"""
CREATE OR REPLACE FUNCTION parked.fill(place text, column_in text, condition text, fresh text) RETURNS bigint
LANGUAGE plpgsql {_FORMS} AS $kat$
DECLARE
    total bigint;
    quiet jsonb := parked.hush(place::regclass);
BEGIN
    EXECUTE format('UPDATE %s AS t SET %I = %s WHERE %s', place, column_in, fresh, condition);
    GET DIAGNOSTICS total = ROW_COUNT;
    SET CONSTRAINTS ALL IMMEDIATE;
    PERFORM parked.wake(place::regclass, quiet);
    RETURN total;
END $kat$
""",
    """
CREATE OR REPLACE FUNCTION parked.note(entry_id bigint, kind_of text, was_at text, is_at text, its_shape jsonb)
RETURNS void LANGUAGE sql SET search_path = '' AS $kat$
    INSERT INTO parked.entry (id, kind, was, now_is, shape, state, parked_at)
    VALUES (entry_id, kind_of, was_at, is_at, its_shape, 'parked', pg_catalog.clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET state = 'parked', parked_at = excluded.parked_at, shape = excluded.shape,
        returned_at = NULL, account = NULL, made_by = excluded.made_by
$kat$
""",
    # What became of the rows meanwhile stays on record after the thing is back.
    """
CREATE OR REPLACE FUNCTION parked.returned(entry_id bigint) RETURNS void LANGUAGE plpgsql SET search_path = '' AS $kat$
BEGIN
    UPDATE parked.entry SET state = 'returned', returned_at = pg_catalog.clock_timestamp(), account =
        (SELECT pg_catalog.jsonb_object_agg(act, n) FROM (SELECT act, pg_catalog.count(*) AS n FROM parked.touched
            WHERE entry = entry_id AND open GROUP BY act) AS counted)
        WHERE id = entry_id AND state = 'parked';
    UPDATE parked.touched SET open = false WHERE entry = entry_id AND open;
END $kat$
""",
    """
CREATE OR REPLACE FUNCTION parked.is(entry_id bigint) RETURNS boolean LANGUAGE sql STABLE SET search_path = '' AS $kat$
    SELECT EXISTS (SELECT 1 FROM parked.entry WHERE id = entry_id AND state = 'parked')
$kat$
""",
)
