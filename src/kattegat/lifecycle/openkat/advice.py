"""What a change of release needs a person for, with the commands to type."""

from __future__ import annotations

from msgspec import Struct

from kattegat.lifecycle.openkat import facts


class Advice(Struct, frozen=True):
    """Something to do, and the commands for it."""

    words: str
    compose: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()


def before() -> list[Advice]:
    """What to do before the databases are changed."""
    return [
        Advice(
            "Stop OpenKAT; the databases have to go on running.",
            ("docker compose stop rocky rocky_worker katalogus boefje normalizer bytes scheduler octopoes_api "
             "octopoes_api_worker",),
            ("systemctl stop 'kat-*'",),
        )
    ]  # fmt: skip


def after(start: str | None, target: str) -> list[Advice]:
    """What to do once the databases are at the target release, up to letting the parts in again."""
    to = facts.release(target)
    tag = "main" if target == "main" else f"v{target}"
    found = [
        Advice(
            f"Set the tag of every OpenKAT image to {tag}, or install the packages of {target}.",
            (
                rf"sed -i -E 's#(minvws/nl-kat-[a-z_-]+):[A-Za-z0-9._-]+#\1:{tag}#' docker-compose.yml",
                "docker compose pull",
            ),
            (f"apt install --allow-downgrades ./kat-*_{target}_*.deb ./xtdb-http-multinode_*.deb",),
        )
    ]
    known = facts.releases()
    came = known.get(start) if start else None
    if came is None or came.xtdb != to.xtdb:
        found.append(
            Advice(
                f"The graph store (XTDB) of this release is xtdb-http-multinode {to.xtdb}: set its image too. What "
                "newer releases wrote into the graph stays there; nothing takes it back.",
            )
        )
    if came is not None:
        order = list(known)
        low, high = sorted((order.index(start or target), order.index(target)))
        notes = {known[name].graph for name in order[low + 1 : high + 1] if known[name].graph}
        found += [Advice(f"The graph store between these releases: {note}.") for note in sorted(map(str, notes))]
        if order.index("1.20.0") in range(low + 1, high + 1):
            found.append(
                Advice("Plugin images of 1.19 do not work with 1.20, nor the other way: pull those of the release.")
            )
    found.append(
        Advice(
            "Let the parts in again, and start OpenKAT.",
            ("kat openkat open", "docker compose up -d"),
            ("kat openkat open", "systemctl start 'kat-*'"),
        )
    )
    return found
