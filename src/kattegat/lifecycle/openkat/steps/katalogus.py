"""KATalogus: settings and states of plugins that moved from table to table, and repositories that went."""

# ruff: noqa: S608 - the SQL is our own, and the values in it are quoted

from __future__ import annotations

from kattegat.lifecycle.openkat.steps import Hop, TwoWay, aside, entry, place, restore, take_back

STATIC_BOEFJE = entry("katalogus", "f9de6eb7824b", "static boefje")
STATIC_NORMALIZER = entry("katalogus", "f9de6eb7824b", "static normalizer")
_GONE = entry("katalogus", "f9de6eb7824b", "gone")
_BOEFJE_NAME = entry("katalogus", "a2c8d54b0124", "boefje")
_NORMALIZER_NAME = entry("katalogus", "a2c8d54b0124", "normalizer")

# Where Python has to convert, since each value is encrypted by itself; see settings.py.
TO_ROWS = "/* settings to rows: [[public.settings]] to [[public.setting]] */ SELECT 1"
TO_DOCUMENTS = "/* settings to documents: [[public.setting]] to [[public.settings]] */ SELECT 1"

_ORGANISATIONS = "CREATE TABLE IF NOT EXISTS parked.openkat_organisation (pk integer PRIMARY KEY)"

_REPOSITORIES = TwoWay(
    down_words="repositories come back; where there is none LOCAL is made, and new organisations are linked to it",
    up_words="repositories and their links are parked",
    down=(
        _ORGANISATIONS,
        "CREATE TABLE IF NOT EXISTS parked.openkat_repository (pk integer)",
        "DELETE FROM parked.openkat_repository",
        "INSERT INTO [[public.repository]] (id, name, base_url)"
        " SELECT 'LOCAL', 'Local Plugin Repository', 'http://dev/null'"
        " WHERE NOT EXISTS (SELECT 1 FROM [[public.repository]] AS r WHERE r.id = 'LOCAL') AND ("
        # Repositories that come back as they were need no other, but for what is new since.
        "NOT EXISTS (SELECT 1 FROM parked.openkat_organisation AS k WHERE k.pk = -1) OR EXISTS (SELECT 1"
        " FROM public.organisation AS o WHERE o.pk NOT IN (SELECT k.pk FROM parked.openkat_organisation AS k))"
        " OR EXISTS (SELECT 1 FROM public.plugin_state AS p WHERE p.[[public.plugin_state.repository_pk]] IS NULL))",
        "INSERT INTO parked.openkat_repository SELECT min(r.pk) FROM [[public.repository]] AS r WHERE r.id = 'LOCAL'",
        "INSERT INTO [[public.organisation_repository]] (organisation_pk, repository_pk)"
        " SELECT o.pk, (SELECT min(r.pk) FROM [[public.repository]] AS r WHERE r.id = 'LOCAL')"
        " FROM public.organisation AS o WHERE NOT EXISTS"
        " (SELECT 1 FROM parked.openkat_organisation AS k WHERE k.pk = o.pk) AND NOT EXISTS"
        " (SELECT 1 FROM [[public.organisation_repository]] AS l WHERE l.organisation_pk = o.pk)",
    ),
    up=(
        _ORGANISATIONS,
        "DELETE FROM parked.openkat_organisation",
        "INSERT INTO parked.openkat_organisation SELECT -1 UNION SELECT o.pk FROM public.organisation AS o",
    ),
    tables=("public.organisation",),
)

# What each configuration was, and what stood for it in the older tables, when they were last brought in line. What
# has not changed since stays as it is on both sides: their rows do not tell everything of each other.
_RECORD = (
    "CREATE TABLE IF NOT EXISTS parked.openkat_config (kind text, plugin_id text, organisation_pk integer,"
    " settings text, enabled boolean, document text, state boolean, PRIMARY KEY (kind, plugin_id, organisation_pk))"
)
_IS_NORMALIZER = "(p.plugin_id LIKE 'kat\\_%' OR p.plugin_id LIKE '%normali_e%')"
_CONFIGS = (
    "(SELECT 'boefje' AS kind, b.plugin_id, c.organisation_pk, c.settings::text AS settings, c.enabled"
    " FROM [[public.boefje_config]] AS c JOIN public.boefje AS b ON b.id = c.boefje_id"
    " UNION ALL SELECT 'normalizer', n.plugin_id, c.organisation_pk, '{}', c.enabled"
    " FROM [[public.normalizer_config]] AS c JOIN public.normalizer AS n ON n.id = c.normalizer_id)"
)
_SEEN = (
    "(SELECT f.*, h.kind IS NULL OR h.settings <> f.settings AS set_anew, h.kind IS NULL OR h.enabled <> f.enabled"
    " AS switched FROM " + _CONFIGS + " AS f LEFT JOIN parked.openkat_config AS h ON h.kind = f.kind"
    " AND h.plugin_id = f.plugin_id AND h.organisation_pk = f.organisation_pk)"
)
_REMEMBER = (
    "DELETE FROM parked.openkat_config",
    "INSERT INTO parked.openkat_config SELECT c.kind, c.plugin_id, c.organisation_pk, c.settings, c.enabled, s.values,"
    " p.enabled FROM " + _CONFIGS + " AS c LEFT JOIN [[public.settings]] AS s ON c.kind = 'boefje'"
    " AND s.plugin_id = c.plugin_id AND s.organisation_pk = c.organisation_pk LEFT JOIN [[public.plugin_state]] AS p"
    " ON p.plugin_id = c.plugin_id AND p.organisation_pk = c.organisation_pk ON CONFLICT DO NOTHING",
)
_GONE_ROWS = (
    "WITH gone AS (DELETE FROM {table} AS s USING parked.openkat_config AS h WHERE h.plugin_id = s.plugin_id"
    " AND h.organisation_pk = s.organisation_pk AND NOT EXISTS (SELECT 1 FROM " + _CONFIGS + " AS c"
    " WHERE c.plugin_id = s.plugin_id AND c.organisation_pk = s.organisation_pk) RETURNING s.*)"
    " INSERT INTO parked.quarantine (entry, table_name, key, contents, reason, state)"
    f" SELECT {_GONE}, '{{name}}', jsonb_build_object('id', id), to_jsonb(gone), 'its configuration is gone', 'stale'"
    " FROM gone"
)


def _gone(name: str) -> str:
    return _GONE_ROWS.replace("{table}", f"[[{name}]]").replace("{name}", name)


def _plugin(table: str, extra: str, values: str, which: str) -> str:
    """Plugin rows for what only has settings or a state: a plugin that comes with the release, as its upgrade makes."""
    return (
        f"INSERT INTO {table} (plugin_id, name, consumes, produces, environment_keys, [[{table}.static]]{extra})"
        " SELECT p.plugin_id, p.plugin_id, ARRAY[]::varchar[], ARRAY[]::varchar[], ARRAY['TEST_KEY']::varchar[],"
        f" true{values} FROM (SELECT plugin_id FROM [[public.settings]] UNION SELECT plugin_id"
        f" FROM [[public.plugin_state]]) AS p WHERE {which}"
        " AND NOT EXISTS (SELECT 1 FROM public.boefje AS b WHERE b.plugin_id = p.plugin_id)"
        " AND NOT EXISTS (SELECT 1 FROM public.normalizer AS n WHERE n.plugin_id = p.plugin_id)"
    )


_CONFIGURATION = TwoWay(
    down_words="settings and states of plugins go back to their own tables; the rows of plugins that come with the"
    " release are set aside",
    up_words="settings and states of plugins become configurations; a plugin without a row gets one",
    down=(
        _RECORD,
        "UPDATE [[public.settings]] AS s SET values = c.settings FROM " + _SEEN + " AS c WHERE c.kind = 'boefje'"
        " AND c.plugin_id = s.plugin_id AND c.organisation_pk = s.organisation_pk AND c.set_anew"
        " AND c.settings <> '{}' AND c.settings <> s.values",
        "DELETE FROM [[public.settings]] AS s USING " + _SEEN + " AS c WHERE c.kind = 'boefje'"
        " AND c.plugin_id = s.plugin_id AND c.organisation_pk = s.organisation_pk AND c.set_anew"
        " AND c.settings = '{}'",
        "INSERT INTO [[public.settings]] (values, plugin_id, organisation_pk) SELECT c.settings, c.plugin_id,"
        " c.organisation_pk FROM " + _SEEN + " AS c WHERE c.kind = 'boefje' AND c.set_anew AND c.settings <> '{}'"
        " AND NOT EXISTS (SELECT 1 FROM [[public.settings]] AS s WHERE s.plugin_id = c.plugin_id"
        " AND s.organisation_pk = c.organisation_pk)",
        _gone("public.settings"),
        "UPDATE [[public.plugin_state]] AS s SET enabled = c.enabled FROM " + _SEEN + " AS c"
        " WHERE c.plugin_id = s.plugin_id AND c.organisation_pk = s.organisation_pk AND c.switched"
        " AND c.enabled <> s.enabled",
        "INSERT INTO [[public.plugin_state]] (plugin_id, enabled, organisation_pk) SELECT DISTINCT ON (c.plugin_id,"
        " c.organisation_pk) c.plugin_id, c.enabled, c.organisation_pk FROM " + _SEEN + " AS c WHERE c.switched"
        " AND NOT EXISTS (SELECT 1 FROM [[public.plugin_state]] AS s WHERE s.plugin_id = c.plugin_id"
        " AND s.organisation_pk = c.organisation_pk) ORDER BY c.plugin_id, c.organisation_pk, c.kind",
        _gone("public.plugin_state"),
        *_REMEMBER,
        aside(STATIC_BOEFJE, "public.boefje", "t.[[public.boefje.static]]", "a plugin that comes with the release"),
        aside(
            STATIC_NORMALIZER,
            "public.normalizer",
            "t.[[public.normalizer.static]]",
            "a plugin that comes with the release",
        ),
    ),
    up=(
        _RECORD,
        take_back(STATIC_BOEFJE),
        take_back(STATIC_NORMALIZER),
        _plugin("public.normalizer", "", "", _IS_NORMALIZER),
        _plugin("public.boefje", ", scan_level, oci_arguments", ", '0', ARRAY[]::varchar[]", "true"),
        "UPDATE [[public.boefje_config]] AS c SET"
        " settings = CASE WHEN h.document IS DISTINCT FROM s.values THEN coalesce(s.values, '{}') ELSE c.settings END,"
        " enabled = CASE WHEN h.state IS DISTINCT FROM p.enabled THEN coalesce(p.enabled, false) ELSE c.enabled END"
        " FROM public.boefje AS b JOIN parked.openkat_config AS h ON h.kind = 'boefje' AND h.plugin_id = b.plugin_id"
        " LEFT JOIN [[public.settings]] AS s ON s.plugin_id = b.plugin_id AND s.organisation_pk = h.organisation_pk"
        " LEFT JOIN [[public.plugin_state]] AS p ON p.plugin_id = b.plugin_id"
        " AND p.organisation_pk = h.organisation_pk WHERE b.id = c.boefje_id AND h.organisation_pk = c.organisation_pk"
        " AND (h.document, h.state) IS DISTINCT FROM (s.values, p.enabled)",
        "UPDATE [[public.normalizer_config]] AS c SET enabled = coalesce(p.enabled, false)"
        " FROM public.normalizer AS n JOIN parked.openkat_config AS h ON h.kind = 'normalizer'"
        " AND h.plugin_id = n.plugin_id LEFT JOIN [[public.plugin_state]] AS p ON p.plugin_id = n.plugin_id"
        " AND p.organisation_pk = h.organisation_pk WHERE n.id = c.normalizer_id"
        " AND h.organisation_pk = c.organisation_pk AND h.state IS DISTINCT FROM p.enabled",
        # A state that already stands for the plugin of the other kind makes no second one.
        "INSERT INTO [[public.boefje_config]] (settings, enabled, boefje_id, organisation_pk)"
        " SELECT coalesce(s.values, '{}'), coalesce(p.enabled, false), b.id, o.pk"
        " FROM public.boefje AS b CROSS JOIN public.organisation AS o"
        " LEFT JOIN [[public.settings]] AS s ON s.plugin_id = b.plugin_id AND s.organisation_pk = o.pk"
        " LEFT JOIN [[public.plugin_state]] AS p ON p.plugin_id = b.plugin_id AND p.organisation_pk = o.pk"
        " WHERE (s.plugin_id IS NOT NULL OR p.plugin_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM"
        " parked.openkat_config AS h WHERE h.plugin_id = b.plugin_id AND h.organisation_pk = o.pk)) AND NOT EXISTS"
        " (SELECT 1 FROM [[public.boefje_config]] AS c WHERE c.boefje_id = b.id AND c.organisation_pk = o.pk)",
        "INSERT INTO [[public.normalizer_config]] (enabled, normalizer_id, organisation_pk)"
        " SELECT p.enabled, n.id, p.organisation_pk FROM public.normalizer AS n"
        " JOIN [[public.plugin_state]] AS p ON p.plugin_id = n.plugin_id"
        " JOIN public.organisation AS o ON o.pk = p.organisation_pk"
        " WHERE NOT EXISTS (SELECT 1 FROM parked.openkat_config AS h WHERE h.plugin_id = n.plugin_id"
        " AND h.organisation_pk = o.pk) AND NOT EXISTS (SELECT 1 FROM [[public.normalizer_config]] AS c"
        " WHERE c.normalizer_id = n.id AND c.organisation_pk = o.pk)",
        *_REMEMBER,
    ),
    tables=("public.boefje", "public.normalizer"),
)


def _unique_name(number: int, table: str) -> tuple[str, str]:
    condition = f"EXISTS (SELECT 1 FROM {table} AS o WHERE o.name = t.name AND o.id < t.id)"
    instead = "left(t.name, 52) || ' #' || t.id"
    return (
        place(number, table, ["id"], "name", condition, instead, "two plugins have this name"),
        restore(number),
    )


_boefje_name = _unique_name(_BOEFJE_NAME, "public.boefje")
_normalizer_name = _unique_name(_NORMALIZER_NAME, "public.normalizer")

HOPS = {
    "0002": Hop(fill={"public.setting.plugin_id": "''"}),
    "cd34fdfafdaf": Hop(
        steps=(
            TwoWay(
                down_words="the settings of a plugin, one document each, become one row per setting",
                up_words="the settings of a plugin, one row each, become one document",
                down=(TO_ROWS,),
                up=(TO_DOCUMENTS,),
            ),
        )
    ),
    "7c88b9cd96aa": Hop(
        fill={
            # Not from the table itself: on the way back it is still parked then.
            "public.plugin_state.repository_pk": "(SELECT k.pk FROM parked.openkat_repository AS k)"
        },
        steps=(_REPOSITORIES,),
    ),
    "f9de6eb7824b": Hop(steps=(_CONFIGURATION,)),
    "870fc302b852": Hop(
        fill={
            "public.boefje.environment_keys": "CASE WHEN json_typeof({schema} -> 'properties') = 'object' THEN"
            " ARRAY(SELECT left(k.one, 128) FROM json_object_keys({schema} -> 'properties') AS k (one))"
            " ELSE ARRAY[]::varchar[] END",
            "public.normalizer.environment_keys": "ARRAY[]::varchar[]",
        }
    ),
    "a2c8d54b0124": Hop(
        steps=(
            TwoWay(
                down_words="plugins that were given another name, for two had it, get theirs back",
                up_words="of plugins that share a name all but the first get their number added to it",
                down=(_boefje_name[1], _normalizer_name[1]),
                up=(_boefje_name[0], _normalizer_name[0]),
                tables=("public.boefje", "public.normalizer"),
            ),
        )
    ),
}
