"""What a runner and the door say to each other: MessagePack messages over HTTPS or a Unix socket.

POST /door/v1/claim (Claim -> Jobs), /door/v1/heartbeat (Heartbeat -> Leases), /door/v1/hand-in (Result -> Receipt),
/door/v1/permits (PermitCall -> Permits),
each with `Authorization: Bearer TOKEN`. A job is leased to its runner until `lease_seconds` after the last heartbeat.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

PROTOCOL = 1
LEASE_SECONDS = 30
HEARTBEAT_SECONDS = 2
"""Also how soon a runner learns that a scan was cancelled; the lease itself is written anew every ten seconds."""
START_SECONDS = 1.0
MAXIMUM_RESULT = 64 * 1024 * 1024

Outcome = Literal["ok", "failed", "blocked"]


class Claim(msgspec.Struct):
    """A runner asks for work: who it is, what it can do, how many jobs it takes."""

    name: str
    release: str
    vantage: str
    scanners: dict[str, int]
    tools: dict[str, str]
    most: int
    protocol: int = PROTOCOL


class KnownFact(msgspec.Struct):
    """A current fact that a scanner asked for with `uses=`."""

    kind: str
    asset_type: str
    asset_key: str
    item: str
    form: int
    value: Any
    scanner: str
    vantage: str
    confirmed_at: datetime


class Limits(msgspec.Struct):
    """Where this job may go. Private, loopback, link-local and metadata addresses only inside `own_networks`.

    `own_networks` are CIDRs that the organisation declared in the asset's zone. `refused` are (CIDR, reason): declared
    with less clearance than the scanner needs, or blocked.
    """

    zone: str
    own_networks: list[str] = []
    refused: list[tuple[str, str]] = []
    only: list[str] = []
    """Where the runner may go at all, as CIDRs; empty: anywhere."""
    permits: bool = False
    """Every connection needs a permit of the door (`PermitCall`): there are limits that all runners share."""
    rate: float = 0.0
    """New connections in a second that an external program may make; 0 for no limit."""


class Job(msgspec.Struct):
    """One scan to perform."""

    task_id: int
    lease_token: int
    organisation: str
    scanner: str
    scanner_version: int
    asset_type: str
    asset_key: str
    clearance: int
    limits: Limits
    options: dict[str, Any] = {}
    known: list[KnownFact] = []
    seconds: int = 300


class Jobs(msgspec.Struct):
    """The answer to a claim. `wait_seconds` says when to ask again when there are none."""

    jobs: list[Job]
    lease_seconds: int = LEASE_SECONDS
    wait_seconds: float = 1.0


class Heartbeat(msgspec.Struct):
    """The leases a runner still works on, as (task, lease token)."""

    leases: list[tuple[int, int]]


class Leases(msgspec.Struct):
    """The tasks that are the runner's no longer: to be ended, their results will be refused."""

    lost: list[int]


class PermitCall(msgspec.Struct):
    """A runner wants to connect to an address for a scan that it holds: at most `most` times now. It prolongs permits
    whose connections are still open (`renew`), and gives back those whose connections are closed (`release`).
    """

    task_id: int = 0
    lease_token: int = 0
    address: str = ""
    most: int = 0
    renew: list[int] = []
    release: list[int] = []


class Permits(msgspec.Struct):
    """The answer: permits as (number, seconds after which it may be used). Each is for one connection, which is begun
    within `START_SECONDS` of that and is closed when `seconds` have passed, both counted from when the call was sent.

    No permit and `wait_seconds`: ask again then. `lost`: the lease is not the runner's any more.
    """

    permits: list[tuple[int, float]]
    renewed: list[int]
    seconds: float
    wait_seconds: float = 0.0
    lost: bool = False


class Detail(msgspec.Struct):
    """How a scan went, kept with its evidence: addresses really contacted, from where, with which tool."""

    contacted: list[str] = []
    sources: list[str] = []
    refused: list[str] = []
    tool: str = ""
    tool_version: str = ""
    arguments: list[str] = []
    runner_release: str = ""


class Result(msgspec.Struct):
    """A finished scan. `evidence` is `Evidence.pack()`, kept also of a failed scan when there is some."""

    task_id: int
    lease_token: int
    outcome: Outcome
    reason: str
    started_at: datetime
    ended_at: datetime
    evidence: bytes
    detail: Detail


class Receipt(msgspec.Struct):
    """Whether the result was taken; if not, why (a lost lease: the work was given to somebody else)."""

    taken: bool
    reason: str = ""
