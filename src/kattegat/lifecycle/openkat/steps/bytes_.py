"""Bytes: columns that were renamed, hashes that moved to raw_file, and mime types that were taken away."""

# ruff: noqa: S608 - the SQL is our own, and the values in it are quoted

from __future__ import annotations

from kattegat.lifecycle.openkat.steps import Hop, TwoWay, entry, place, restore

BOEFJE = "public.boefje_meta"
NORMALIZER = "public.normalizer_meta"
RAW = "public.raw_file"

_MIME = entry("bytes", "1dde0213e9fe", "mime types")
_HASHED = "(m.one = b.boefje_id OR starts_with(m.one, 'boefje/' || b.boefje_id || '-'))"
_HASHES = (
    "EXISTS (SELECT 1 FROM unnest(t.mime_types) AS m (one) JOIN public.boefje_meta AS b"
    f" ON b.id = t.boefje_meta_id WHERE {_HASHED})"
)
_KNOWN = "CREATE TABLE IF NOT EXISTS parked.openkat_mime_type (id uuid PRIMARY KEY)"
_NAMED = (NORMALIZER, "normalizer_id", "normalizer_name")

HOPS = {
    "5363940815bb": Hop(fill={"public.boefje_meta.input_ooi": "''"}),
    "0003": Hop(
        renames=(
            (BOEFJE, "boefje_name", "module_path"),
            (BOEFJE, "boefje_version", "module_version"),
            (NORMALIZER, "normalizer_name", "module_path"),
            (NORMALIZER, "normalizer_version", "module_version"),
        )
    ),
    "0004": Hop(renames=((BOEFJE, "boefje_id", "boefje_name"),)),
    "0007": Hop(
        steps=(
            TwoWay(
                down_words="a run without hashes of its own is given those of its first raw file",
                up_words="raw files come back; the hashes of runs are kept",
                down=(
                    "UPDATE public.boefje_meta AS b SET [[public.boefje_meta.secure_hash]] = r.secure_hash,"
                    " [[public.boefje_meta.hash_retrieval_link]] = r.hash_retrieval_link FROM"
                    " (SELECT DISTINCT ON (f.boefje_meta_id) f.* FROM [[public.raw_file]] AS f"
                    " ORDER BY f.boefje_meta_id, f.id) AS r WHERE r.boefje_meta_id = b.id"
                    " AND b.[[public.boefje_meta.secure_hash]] IS NULL"
                    " AND b.[[public.boefje_meta.hash_retrieval_link]] IS NULL",
                ),
                tables=(BOEFJE,),
            ),
        )
    ),
    "0011": Hop(renames=(_NAMED,)),
    "0011_2": Hop(renames=(_NAMED,)),
    "e2f76e95f1e7": Hop(renames=(_NAMED,)),
    "e09d8780e34b": Hop(fill={"public.boefje_meta.input_ooi": "''"}),
    "ec68d3eb14b1": Hop(
        fill={
            "public.normalizer_meta.boefje_meta_id": "(SELECT r.boefje_meta_id FROM public.raw_file AS r"
            " WHERE r.id = {raw_file_id})",
            "public.normalizer_meta.raw_file_id": "{boefje_meta_id}",
        },
        steps=(
            TwoWay(
                down_words="raw files that were only made for normalizers without one go again",
                up_words="normalizers without a raw file get one with the id of their boefje's run",
                down=(
                    "CREATE TABLE IF NOT EXISTS parked.openkat_raw_file (id uuid PRIMARY KEY)",
                    "DELETE FROM public.raw_file AS r USING parked.openkat_raw_file AS o WHERE o.id = r.id"
                    " AND NOT EXISTS (SELECT 1 FROM public.normalizer_meta AS n WHERE n.raw_file_id = r.id)",
                    "DELETE FROM parked.openkat_raw_file",
                ),
                up=(
                    "CREATE TABLE IF NOT EXISTS parked.openkat_raw_file (id uuid PRIMARY KEY)",
                    "WITH made AS (INSERT INTO public.raw_file (id, boefje_meta_id)"
                    " SELECT DISTINCT n.[[public.normalizer_meta.boefje_meta_id]],"
                    " n.[[public.normalizer_meta.boefje_meta_id]] FROM public.normalizer_meta AS n"
                    " WHERE n.raw_file_id IS NULL AND n.[[public.normalizer_meta.boefje_meta_id]] IS NOT NULL"
                    " ON CONFLICT (id) DO NOTHING RETURNING id)"
                    " INSERT INTO parked.openkat_raw_file SELECT id FROM made ON CONFLICT DO NOTHING",
                ),
                tables=(NORMALIZER, RAW),
            ),
        ),
    ),
    "1dde0213e9fe": Hop(
        steps=(
            TwoWay(
                down_words="mime types that name the boefje by its hash come back where the upgrade took them away",
                up_words="mime types that name the boefje by its hash are taken away, and kept",
                down=(
                    restore(_MIME),
                    _KNOWN,
                    "DELETE FROM parked.openkat_mime_type",
                    f"INSERT INTO parked.openkat_mime_type SELECT t.id FROM public.raw_file AS t WHERE {_HASHES}",
                ),
                up=(
                    _KNOWN,
                    place(
                        _MIME,
                        RAW,
                        ["id"],
                        "mime_types",
                        # Rows of 1.14 and later that have such a type of themselves stay as they are.
                        f"{_HASHES} AND NOT EXISTS (SELECT 1 FROM parked.openkat_mime_type AS k WHERE k.id = t.id)",
                        "ARRAY(SELECT m.one FROM unnest(t.mime_types) WITH ORDINALITY AS m (one, nth)"
                        " WHERE NOT EXISTS (SELECT 1 FROM public.boefje_meta AS b WHERE b.id = t.boefje_meta_id"
                        f" AND {_HASHED}) ORDER BY m.nth)",
                        "since 1.14 mime types do not name the boefje",
                    ),
                ),
                tables=(RAW,),
            ),
        )
    ),
}
