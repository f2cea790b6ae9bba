"""The tables. A tenant table has PRIMARY KEY (organisation_id, id), and its other keys start with organisation_id too.

Types of assets, facts, links, scanners and checks are open vocabularies: text, never a list in a CHECK. Closed sets
(states of a task, outcomes of a run) are text with a named CHECK. Times are timestamptz, in UTC.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import CIDR, JSONB
from sqlalchemy.schema import SchemaItem

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Tables that belong to the install or to the queue, not to one tenant; the catalogue test allows exactly these.
INSTALL_TABLES = frozenset(
    {"install", "organisation", "organisation_group", "group_member", "setting", "audit", "vocabulary", "process"}
    | {"runner", "task", "task_event", "pause", "pulse", "alembic_version"}
    | {"blocked", "permit", "permit_place", "pace"}
)
# Monthly partitions need their time in the primary key.
PARTITIONED = {
    "run": "recorded_at",
    "evidence": "recorded_at",
    "audit": "at",
    "task_event": "at",
    "verdict_event": "at",
    "finding_event": "at",
}

NOW = text("now()")


def _time(name: str, *, null: bool = True, now: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=null, server_default=NOW if now else None)


def _id() -> Column[int]:
    return Column("id", BigInteger, Identity(always=False), nullable=False)


def _organisation() -> Column[int]:
    return Column("organisation_id", BigInteger, nullable=False)


def _json(name: str, default: str | None = "{}", *, null: bool = False) -> Column[object]:
    return Column(name, JSONB, nullable=null, server_default=text(f"'{default}'::jsonb") if default else None)


def _text(name: str, *, null: bool = False, default: str | None = None) -> Column[str]:
    return Column(name, Text, nullable=null, server_default=text(f"'{default}'") if default is not None else None)


def _one_of(name: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(text(f"{name} = ANY (ARRAY[{listed}])"), name=name)


def _tenant(name: str, *parts: SchemaItem, time: str | None = None) -> Table:
    key = ("organisation_id", time, "id") if time else ("organisation_id", "id")
    made = Table(
        name,
        metadata,
        _organisation(),
        _id(),
        *parts,
        PrimaryKeyConstraint(*key),
        ForeignKeyConstraint(["organisation_id"], ["organisation.id"], ondelete="CASCADE"),
    )
    if time:
        made.dialect_options["postgresql"]["partition_by"] = f"RANGE ({time})"
    return made


def _belongs(column: str, table: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["organisation_id", column], [f"{table}.organisation_id", f"{table}.id"], ondelete="CASCADE"
    )


# --- the install -----------------------------------------------------------------------------------------------------

install = Table(
    "install",
    metadata,
    Column("id", SmallInteger, nullable=False, server_default=text("1")),
    _text("name"),
    _time("created_at", null=False, now=True),
    _json("detail"),
    PrimaryKeyConstraint("id"),
    CheckConstraint(text("id = 1"), name="single"),
)
organisation = Table(
    "organisation",
    metadata,
    _id(),
    _text("code"),
    _text("name"),
    _time("created_at", null=False, now=True),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("code"),
)
organisation_group = Table(
    "organisation_group",
    metadata,
    _id(),
    _text("name"),
    Column("position", Integer, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("name"),
)
group_member = Table(
    "group_member",
    metadata,
    Column("group_id", BigInteger, nullable=False),
    _organisation(),
    PrimaryKeyConstraint("group_id", "organisation_id"),
    ForeignKeyConstraint(["group_id"], ["organisation_group.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["organisation_id"], ["organisation.id"], ondelete="CASCADE"),
    Index("ix_group_member_organisation_id", "organisation_id"),
)
setting = Table(
    "setting",
    metadata,
    _id(),
    _text("level"),
    Column("group_id", BigInteger),
    Column("organisation_id", BigInteger),
    Column("asset_set_id", BigInteger),
    _text("name"),
    _json("value", None),
    _text("set_by"),
    _time("set_at", null=False, now=True),
    PrimaryKeyConstraint("id"),
    UniqueConstraint(
        "level",
        "group_id",
        "organisation_id",
        "asset_set_id",
        "name",
        postgresql_nulls_not_distinct=True,
        name="uq_setting_place",
    ),
    ForeignKeyConstraint(["group_id"], ["organisation_group.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["organisation_id"], ["organisation.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(
        ["organisation_id", "asset_set_id"], ["asset_set.organisation_id", "asset_set.id"], ondelete="CASCADE"
    ),
    _one_of("level", "install", "group", "organisation", "asset_set"),
)
audit = Table(
    "audit",
    metadata,
    _id(),
    _time("at", null=False, now=True),
    Column("organisation_id", BigInteger),
    _text("actor"),
    _text("act"),
    _text("object"),
    _json("detail"),
    PrimaryKeyConstraint("at", "id"),
    Index("ix_audit_organisation_id", "organisation_id", "at"),
    postgresql_partition_by="RANGE (at)",
)
vocabulary = Table(
    "vocabulary",
    metadata,
    _text("list"),
    _text("name"),
    _json("detail"),
    PrimaryKeyConstraint("list", "name"),
)
process = Table(
    "process",
    metadata,
    _id(),
    _text("role"),
    _text("host"),
    Column("pid", Integer, nullable=False),
    _text("release"),
    _time("started_at", null=False, now=True),
    _time("seen_at", null=False, now=True),
    Column("epoch", BigInteger),
    _json("detail"),
    PrimaryKeyConstraint("id"),
)
runner = Table(
    "runner",
    metadata,
    _id(),
    _text("name"),
    Column("token_hash", LargeBinary, nullable=False),
    _text("vantage", default="internet"),
    _json("tools"),
    _time("created_at", null=False, now=True),
    _time("seen_at"),
    _time("revoked_at"),
    _time("drained_at"),
    _text("drained_by", default=""),
    _text("drained_reason", default=""),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("name"),
    UniqueConstraint("token_hash"),
)

# --- accounts --------------------------------------------------------------------------------------------------------

asset_set = _tenant(
    "asset_set",
    _text("name"),
    _json("query"),
    UniqueConstraint("organisation_id", "name"),
)
consent = _tenant(
    "consent",
    _text("granted_by"),
    _time("granted_at", null=False, now=True),
    _time("until"),
    _text("text"),
    _time("revoked_at"),
)
own_network = _tenant(
    "own_network",
    _text("zone"),
    Column("network", CIDR, nullable=False),
    _text("declared_by"),
    _time("declared_at", null=False, now=True),
    UniqueConstraint("organisation_id", "zone", "network"),
)

# --- inventory -------------------------------------------------------------------------------------------------------

asset = _tenant(
    "asset",
    _text("type"),
    Column("key", Text(collation="C"), nullable=False),
    _time("first_seen", null=False, now=True),
    _time("gone_at"),
    Column("present", Boolean, nullable=False, server_default=text("false")),
    Column("clearance", SmallInteger, nullable=False, server_default=text("0")),
    Column("declared", Boolean, nullable=False, server_default=text("false")),
    Column("declared_clearance", SmallInteger),
    _text("declared_by", null=True),
    _time("declared_at"),
    UniqueConstraint("organisation_id", "type", "key"),
    CheckConstraint(text("clearance BETWEEN 0 AND 4"), name="clearance"),
    CheckConstraint(text("declared_clearance BETWEEN 0 AND 4"), name="declared_clearance"),
    CheckConstraint(text("declared OR declared_clearance IS NULL"), name="clearance_needs_declaration"),
)
asset_event = _tenant(
    "asset_event",
    Column("asset_id", BigInteger, nullable=False),
    _time("at", null=False, now=True),
    Column("present", Boolean, nullable=False),
    Column("clearance", SmallInteger, nullable=False),
    Column("declared", Boolean, nullable=False, server_default=text("false")),
    Column("declared_clearance", SmallInteger),
    _text("declared_by", null=True),
    _belongs("asset_id", "asset"),
    Index("ix_asset_event_asset", "organisation_id", "asset_id", "at"),
)
source = _tenant(
    "source",
    _text("kind", default="scanner"),
    _text("scanner"),
    Column("asset_id", BigInteger, nullable=False),
    _text("vantage", default="internet"),
    _text("state", default="never"),
    _text("reason", default=""),
    _time("last_started_at"),
    _time("last_ended_at"),
    # Of the last successful run: when it started and ended; and when anything was last recorded from this source.
    _time("confirmed_started_at"),
    _time("confirmed_at"),
    _time("recorded_at"),
    Column("plugin_version", Integer),
    _json("unmeasured", "[]"),
    _belongs("asset_id", "asset"),
    UniqueConstraint("organisation_id", "scanner", "asset_id", "vantage"),
    Index("ix_source_asset", "asset_id"),
    _one_of("kind", "scanner", "person", "import"),
    _one_of("state", "never", "ok", "failed", "blocked"),
)
run = _tenant(
    "run",
    _time("recorded_at", null=False, now=True),
    Column("source_id", BigInteger, nullable=False),
    Column("task_id", BigInteger),
    Column("evidence_id", BigInteger),
    _time("started_at", null=False),
    _time("ended_at", null=False),
    _text("outcome"),
    _text("reason", default=""),
    _json("scope"),
    _json("unmeasured", "[]"),
    Column("facts_new", Integer, nullable=False, server_default=text("0")),
    Column("facts_ended", Integer, nullable=False, server_default=text("0")),
    Column("facts_same", Integer, nullable=False, server_default=text("0")),
    Index("ix_run_source", "organisation_id", "source_id", "recorded_at"),
    _one_of("outcome", "ok", "failed", "blocked", "superseded"),
    time="recorded_at",
)
fact = _tenant(
    "fact",
    Column("source_id", BigInteger, nullable=False),
    Column("asset_id", BigInteger, nullable=False),
    _text("kind"),
    Column("item", Text(collation="C"), nullable=False, server_default=text("''")),
    Column("form", SmallInteger, nullable=False, server_default=text("1")),
    _json("value", None),
    Column("digest", LargeBinary, nullable=False),
    Column("evidence_id", BigInteger),
    _time("recorded_at", null=False, now=True),
    _time("ended_at"),
    _belongs("source_id", "source"),
    _belongs("asset_id", "asset"),
    Index(
        "uq_fact_current",
        "organisation_id",
        "source_id",
        "asset_id",
        "kind",
        "item",
        unique=True,
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("ix_fact_asset", "organisation_id", "asset_id", "kind", "recorded_at"),
    Index("ix_fact_asset_current", "asset_id", "kind", postgresql_where=text("ended_at IS NULL")),
    CheckConstraint(text("ended_at IS NULL OR ended_at > recorded_at"), name="span"),
)
link = _tenant(
    "link",
    Column("fact_id", BigInteger, nullable=False),
    _text("type"),
    Column("origin_id", BigInteger, nullable=False),
    Column("target_id", BigInteger, nullable=False),
    _time("recorded_at", null=False, now=True),
    _time("ended_at"),
    _belongs("fact_id", "fact"),
    _belongs("origin_id", "asset"),
    _belongs("target_id", "asset"),
    # By the asset first: an index that starts with the organisation looks, while there are no statistics, as good for
    # the other end of the link as for its own, and then all links of the organisation are read for each asset.
    Index("ix_link_origin", "origin_id", "type", postgresql_where=text("ended_at IS NULL")),
    Index("ix_link_target", "target_id", "type", postgresql_where=text("ended_at IS NULL")),
    # Reading as of a time: what was current then is current still or has ended since.
    Index(
        "ix_link_origin_ended",
        "organisation_id",
        "origin_id",
        "ended_at",
        postgresql_where=text("ended_at IS NOT NULL"),
    ),
    Index(
        "ix_link_target_ended",
        "organisation_id",
        "target_id",
        "ended_at",
        postgresql_where=text("ended_at IS NOT NULL"),
    ),
    Index("ix_link_fact", "fact_id"),
    CheckConstraint(text("ended_at IS NULL OR ended_at > recorded_at"), name="span"),
)
scan = _tenant(
    "scan",
    _json("targets", "[]"),
    _json("options"),
    _text("actor"),
    _time("started_at", null=False, now=True),
    _time("ended_at"),
    _text("outcome", default="open"),
    _text("reason", default=""),
    _one_of("outcome", "open", "complete", "incomplete", "stopped"),
)

# --- evidence --------------------------------------------------------------------------------------------------------

evidence_key = _tenant(
    "evidence_key",
    Column("wrapped", LargeBinary),
    _time("created_at", null=False, now=True),
    _time("destroyed_at"),
)
evidence_root = _tenant(
    "evidence_root",
    _time("minute", null=False),
    Column("sequence", BigInteger, nullable=False),
    Column("first_leaf", BigInteger, nullable=False),
    Column("leaves", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("previous", LargeBinary),
    Column("chained", LargeBinary, nullable=False),
    Column("timestamp_token", LargeBinary),
    _time("sealed_at", null=False, now=True),
    UniqueConstraint("organisation_id", "sequence"),
)
evidence = _tenant(
    "evidence",
    _time("recorded_at", null=False, now=True),
    Column("leaf_number", BigInteger, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    _text("scanner"),
    Column("plugin_version", Integer, nullable=False, server_default=text("1")),
    _text("asset_type"),
    _text("asset_key"),
    _text("vantage"),
    _text("runner"),
    _time("started_at", null=False),
    _time("ended_at", null=False),
    _json("detail"),
    Column("size", BigInteger, nullable=False),
    Column("content_hash", LargeBinary, nullable=False),
    Column("key_id", BigInteger),
    _text("pack", null=True),
    Column("pack_offset", BigInteger),
    Column("pack_length", BigInteger),
    _time("dropped_at"),
    Index("ix_evidence_id", "organisation_id", "id"),
    Index("ix_evidence_leaf", "organisation_id", "leaf_number"),
    Index("ix_evidence_asset", "organisation_id", "asset_type", "asset_key", "recorded_at"),
    time="recorded_at",
)

# --- checks ----------------------------------------------------------------------------------------------------------

verdict = _tenant(
    "verdict",
    Column("asset_id", BigInteger, nullable=False),
    _text("check"),
    _text("outcome"),
    _text("reason", default=""),
    _json("items", "[]"),
    Column("version", Integer, nullable=False),
    _time("decided_at", null=False, now=True),
    _belongs("asset_id", "asset"),
    UniqueConstraint("organisation_id", "asset_id", "check"),
    _one_of("outcome", "fail", "unknown"),
)
verdict_event = _tenant(
    "verdict_event",
    _time("at", null=False, now=True),
    Column("asset_id", BigInteger, nullable=False),
    _text("check"),
    _text("was"),
    _text("became"),
    _text("reason", default=""),
    Index("ix_verdict_event_asset", "organisation_id", "asset_id", "check", "at"),
    time="at",
)
check_due = Table(
    "check_due",
    metadata,
    _organisation(),
    Column("id", BigInteger, nullable=False, comment="the asset whose checks are to run again"),
    _time("due_at", null=False, now=True),
    PrimaryKeyConstraint("organisation_id", "id"),
    ForeignKeyConstraint(["organisation_id", "id"], ["asset.organisation_id", "asset.id"], ondelete="CASCADE"),
    Index("ix_check_due_due_at", "due_at"),
)
finding = _tenant(
    "finding",
    Column("asset_id", BigInteger, nullable=False),
    _text("check"),
    Column("item", Text(collation="C"), nullable=False),
    _text("severity"),
    _text("text"),
    _json("params"),
    _text("state", default="open"),
    _time("first_seen", null=False, now=True),
    _time("opened_at", null=False, now=True),
    _time("resolved_at"),
    _time("state_until"),
    _text("state_by", default="system"),
    _text("state_reason", default=""),
    _belongs("asset_id", "asset"),
    UniqueConstraint("organisation_id", "asset_id", "check", "item"),
    Index("ix_finding_open", "organisation_id", "severity", postgresql_where=text("state <> 'resolved'")),
    _one_of("state", "open", "in_progress", "accepted", "muted", "resolved", "reopened"),
    _one_of("severity", "critical", "high", "medium", "low", "recommendation"),
)
finding_event = _tenant(
    "finding_event",
    _time("at", null=False, now=True),
    Column("finding_id", BigInteger, nullable=False),
    _text("was"),
    _text("became"),
    _text("actor"),
    _text("reason", default=""),
    Index("ix_finding_event_finding", "organisation_id", "finding_id", "at"),
    Index("ix_finding_event_at", "organisation_id", "at"),
    time="at",
)

# --- scheduler -------------------------------------------------------------------------------------------------------

schedule = Table(
    "schedule",
    metadata,
    _organisation(),
    Column("id", BigInteger, nullable=False, comment="the source that is due"),
    _time("due_at", null=False, now=True),
    Column("every", Interval, nullable=False),
    Column("priority", Integer, nullable=False, server_default=text("50"), comment="0 asked for, 50 never run, 100"),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    _text("hold", default=""),
    _text("request_actor", default=""),
    _text("request_way", default=""),
    _text("cron", default=""),
    _text("wait", default=""),
    PrimaryKeyConstraint("organisation_id", "id"),
    ForeignKeyConstraint(["organisation_id", "id"], ["source.organisation_id", "source.id"], ondelete="CASCADE"),
    Index("ix_schedule_due", "priority", "due_at", postgresql_where=text("hold = ''")),
    # The dispatcher asks every organisation for its most overdue: an interval at a time, the oldest first.
    Index(
        "ix_schedule_turn",
        "organisation_id",
        "priority",
        "every",
        "due_at",
        postgresql_where=text("hold = ''"),
    ),
)
pause = Table(
    "pause",
    metadata,
    _id(),
    Column("level", String(12), nullable=False),
    Column("group_id", BigInteger),
    Column("organisation_id", BigInteger),
    _text("scanner", null=True),
    Column("asset_id", BigInteger),
    _text("reason"),
    _text("set_by"),
    _time("set_at", null=False, now=True),
    _time("until"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint(
        "level",
        "group_id",
        "organisation_id",
        "scanner",
        "asset_id",
        postgresql_nulls_not_distinct=True,
        name="uq_pause_place",
    ),
    ForeignKeyConstraint(["group_id"], ["organisation_group.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["organisation_id"], ["organisation.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["organisation_id", "asset_id"], ["asset.organisation_id", "asset.id"], ondelete="CASCADE"),
    _one_of("level", "install", "group", "organisation", "scanner", "asset"),
)
blocked = Table(
    "blocked",
    metadata,
    _id(),
    Column("organisation_id", BigInteger),
    _text("zone", default="internet"),
    _text("what"),
    _text("reason"),
    _text("set_by"),
    _time("set_at", null=False, now=True),
    _time("until"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("organisation_id", "zone", "what", postgresql_nulls_not_distinct=True, name="uq_blocked_what"),
    ForeignKeyConstraint(["organisation_id"], ["organisation.id"], ondelete="CASCADE"),
)
permit = Table(
    "permit",
    metadata,
    _id(),
    _text("runner"),
    Column("task_id", BigInteger, nullable=False),
    _time("until", null=False),
    PrimaryKeyConstraint("id"),
    Index("ix_permit_until", "until"),
)
permit_place = Table(
    "permit_place",
    metadata,
    Column("permit_id", BigInteger, nullable=False),
    Column("place", Text(collation="C"), nullable=False),
    _time("until", null=False),
    PrimaryKeyConstraint("permit_id", "place"),
    ForeignKeyConstraint(["permit_id"], ["permit.id"], ondelete="CASCADE"),
    Index("ix_permit_place_place", "place", "until"),
)
pace = Table(
    "pace",
    metadata,
    Column("place", Text(collation="C"), nullable=False),
    _time("free_at", null=False),
    PrimaryKeyConstraint("place"),
)
pulse = Table(
    "pulse",
    metadata,
    _text("name"),
    _time("at", null=False, now=True),
    _json("detail"),
    PrimaryKeyConstraint("name"),
)
task = Table(
    "task",
    metadata,
    _id(),
    Column("organisation_id", BigInteger),
    _text("kind"),
    Column("source_id", BigInteger),
    _text("scanner", default=""),
    _text("vantage", default=""),
    _text("state", default="queued"),
    Column("priority", Integer, nullable=False, server_default=text("100")),
    Column("turn", BigInteger, nullable=False, server_default=text("0")),
    _time("run_after", null=False, now=True),
    _time("lease_until"),
    Column("lease_token", BigInteger),
    _text("leased_by", default=""),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("max_tries", Integer, nullable=False, server_default=text("3")),
    _text("reason", default=""),
    _json("payload"),
    _time("created_at", null=False, now=True),
    _time("started_at"),
    _time("ended_at"),
    PrimaryKeyConstraint("id"),
    ForeignKeyConstraint(["organisation_id"], ["organisation.id"], ondelete="CASCADE"),
    Index(
        "uq_task_open_source",
        "organisation_id",
        "source_id",
        "kind",
        unique=True,
        postgresql_where=text("state = ANY (ARRAY['queued', 'leased', 'paused'])"),
    ),
    Index("ix_task_queue", "kind", "turn", "priority", "run_after", "id", postgresql_where=text("state = 'queued'")),
    Index("ix_task_turn", "organisation_id", "kind", "turn", postgresql_where=text("state = 'queued'")),
    Index("ix_task_lease", "lease_until", postgresql_where=text("state = 'leased'")),
    Index("ix_task_organisation", "organisation_id", "id"),
    _one_of("kind", "scan", "ingest", "report", "deliver", "sweep", "backup"),
    _one_of("state", "queued", "leased", "paused", "done", "failed", "dead", "cancelled"),
    CheckConstraint(text("state <> 'leased' OR (lease_until IS NOT NULL AND lease_token IS NOT NULL)"), name="lease"),
)
task_event = Table(
    "task_event",
    metadata,
    _id(),
    _time("at", null=False, now=True),
    Column("task_id", BigInteger, nullable=False),
    _text("was"),
    _text("became"),
    _text("by"),
    _text("reason", default=""),
    PrimaryKeyConstraint("at", "id"),
    Index("ix_task_event_task", "task_id", "at"),
    postgresql_partition_by="RANGE (at)",
)

TENANT_TABLES = tuple(table for table in metadata.sorted_tables if table.name not in INSTALL_TABLES)
