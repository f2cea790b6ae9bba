"""`kat plugin new|try`: for those who write plugins."""

from __future__ import annotations

import asyncio
import importlib.util
import keyword
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console

from kattegat import plugin as sdk
from kattegat import registry, settings
from kattegat.cli import given
from kattegat.cli.output import emit, table, write_file
from kattegat.errors import KattegatError, UsageError
from kattegat.model import assets as model
from kattegat.model import targets
from kattegat.model.evidence import Evidence
from kattegat.model.facts import Found
from kattegat.model.work import Job, Limits
from kattegat.runner import job as runner_job

app = App(name="plugin", help="For those who write plugins.")

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@app.command
def new(name: str, /, *, folder: Path = Path()) -> int:
    """Writes a working plugin with its test into a new folder: one fact, one scanner, two checks.

    Parameters
    ----------
    name
        What it is called, such as robots-txt: lower-case letters, digits and hyphens.
    folder
        Where the new folder is made.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a plugin; use lower-case letters, digits and single hyphens.")
    module = name.replace("-", "_")
    words = {"name": name, "module": module, "class": "".join(part.title() for part in name.split("-"))}
    _check_free(name, module, words["class"])
    root = folder / name
    if root.exists():
        raise UsageError(f"{root} exists already; choose another name or folder.")
    environment = Environment(  # noqa: S701 - Python source, not HTML
        loader=PackageLoader("kattegat.cli", "plugin_template"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    places = {
        "pyproject.toml.j2": root / "pyproject.toml",
        "README.md.j2": root / "README.md",
        "plugin.py.j2": root / f"{module}.py",
        "test_plugin.py.j2": root / "tests" / f"test_{module}.py",
    }
    try:
        for template, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(environment.get_template(template).render(**words), encoding="utf-8")
    except OSError as problem:
        raise KattegatError(f"The plugin can't be written to {root} ({problem.strerror}).") from None
    # The pip of the system would install it where this Kattegat does not look.
    programs = Path(sys.prefix, "bin")
    if programs.is_relative_to(Path.cwd()):
        programs = programs.relative_to(Path.cwd())
    Console(highlight=False, soft_wrap=True).print(
        f"Wrote {root}. Next, with the programs of Kattegat's own environment:\n"
        f"  {programs / 'pip'} install -e {root}\n  {programs / 'python'} -m pytest {root}\n"
        f"  {programs / 'kat'} plugins show {name}\n  {programs / 'kat'} plugin try {name} https://example.org",
        markup=False,
    )
    return 0


def _check_free(name: str, module: str, fact: str) -> None:
    """Raises `UsageError` for a name whose plugin could not be loaded beside what is installed."""
    installed = registry.load()
    if module in installed.plugins or name in installed.plugins:
        raise UsageError(f"There is a plugin {name!r} already; choose another name.")
    if name in installed.scanners or f"{name}-missing" in installed.checks or f"{name}-empty" in installed.checks:
        raise UsageError(f"There is a scanner or check called after {name!r} already; choose another name.")
    if fact in installed.facts or fact in dir(sdk):
        raise UsageError(f"A plugin {name!r} would have the fact {fact!r}, which is taken; choose another name.")
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise UsageError(f"Python has something called {module!r} already; choose another name.")


@app.command(name="try")
def try_(
    scanner: str,
    target: str,
    /,
    *,
    allow: Annotated[list[str] | None, Parameter(name="--allow")] = None,
    dns_server: str | None = None,
    save: Path | None = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Runs one scanner on one target, without a database, and shows what it found. Ends with 3 if it failed.

    Parameters
    ----------
    scanner
        The scanner's name.
    target
        A host name, address, network, website or URL, or the key of an asset.
    allow
        A private or loopback network that is yours.
    dns_server
        The resolver to ask, ADDRESS[:PORT].
    save
        Write the evidence to this file, to be the recorded evidence of a test.
    """
    spec = registry.load().scanner(scanner)
    try:
        asset: model.Asset = spec.about.parse(target)
    except KattegatError:
        asset = targets.parse(target)
    if not isinstance(asset, spec.about):
        raise UsageError(f"Scanner {scanner} is about a {spec.about.type}, and {target!r} is a {model.type_of(asset)}.")
    environment = settings.load()
    if dns_server is not None:
        environment = msgspec.structs.replace(environment, dns_server=dns_server)
    given.check_networks(allow or ())
    given.check_resolver(environment.dns_server)
    job = Job(
        task_id=0,
        lease_token=0,
        organisation="",
        scanner=spec.name,
        scanner_version=spec.version,
        asset_type=asset.type,
        asset_key=asset.key,
        clearance=4,
        limits=Limits(zone="internet", own_networks=allow or []),
    )
    result = asyncio.run(runner_job.run_job(job, registry.load(), environment))
    if save is not None and result.evidence:
        write_file(save, result.evidence)
    found: list[Any] = []
    if result.outcome == "ok":
        found = list(spec.implementation().parse(asset, Evidence.unpack(result.evidence)))
    document: dict[str, Any] = {
        "outcome": result.outcome,
        "reason": result.reason,
        "contacted": result.detail.contacted,
        "evidence_bytes": len(result.evidence),
        "found": [_entry(entry) for entry in found],
    }

    def words(console: Console) -> None:
        console.print(f"{result.outcome}{f': {result.reason}' if result.reason else ''}", markup=False)
        console.print(f"contacted {', '.join(result.detail.contacted) or 'nothing'}", markup=False)
        rows = [(e["fact"], e["asset"], e["item"], msgspec.json.encode(e["value"]).decode()) for e in document["found"]]
        console.print(table(["fact", "asset", "item", "value"], rows, empty="It found nothing."))

    emit(document, json, words)
    return 0 if result.outcome == "ok" else 3


def _entry(entry: Any) -> dict[str, Any]:
    if isinstance(entry, Found):
        links = [[link.type, str(link.origin), str(link.target)] for link in entry.links]
        value = msgspec.to_builtins(entry.fact)
        return {"fact": entry.fact.kind, "asset": entry.asset.key, "item": entry.item, "value": value, "links": links}
    return {
        "fact": f"{entry.kind} (not measured)",
        "asset": entry.about.key if entry.about else "",
        "item": entry.item or "",
        "value": entry.reason,
        "links": [],
    }
