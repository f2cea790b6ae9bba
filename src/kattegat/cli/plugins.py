"""`kat plugins list|show`: what is installed, without a database; `set|unset`: options of scanners and checks."""

from __future__ import annotations

import json as jsons
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console, Group
from rich.text import Text

from kattegat import registry
from kattegat.accounts import settings
from kattegat.checks.evaluate import recheck_option
from kattegat.cli.install import Install, actor, opened
from kattegat.cli.output import emit, table
from kattegat.errors import UsageError
from kattegat.plugin import CheckSpec, Need, ScannerSpec
from kattegat.registry import Registry

app = App(name="plugins", help="The scanners and checks that are installed.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]


def _interval(spec: ScannerSpec) -> str:
    hours = spec.every.total_seconds() / 3600
    return f"{hours / 24:g} d" if hours % 24 == 0 else f"{hours:g} h"


def _need(need: Need) -> str:
    way = f" over {need.link}{' backwards' if need.backwards else ''}" if need.link else ""
    return f"{need.fact.kind}{way}{' (optional)' if need.optional else ''}"


def scanner_document(installed: Registry, spec: ScannerSpec) -> dict[str, Any]:
    """A scanner as JSON."""
    return {
        "name": spec.name,
        "plugin": installed.plugin_of[spec.name],
        "about": spec.about.type,
        "clearance": spec.clearance,
        "every_seconds": int(spec.every.total_seconds()),
        "yields": [fact.kind for fact in spec.yields],
        "uses": [_need(need) for need in spec.uses],
        "tool": spec.tool,
        "version": spec.version,
        "doc": spec.doc,
        "options": [{"name": o.name, "default": o.default, "doc": o.doc} for o in spec.options],
    }


def check_document(installed: Registry, spec: CheckSpec) -> dict[str, Any]:
    """A check as JSON."""
    return {
        "name": spec.name,
        "plugin": installed.plugin_of[spec.name],
        "about": spec.about.type,
        "needs": [_need(need) for need in spec.needs],
        "severity": spec.severity,
        "title": spec.title,
        "risk": spec.risk,
        "fix": spec.fix,
        "reference": spec.reference,
        "openkat": list(spec.openkat),
        "version": spec.version,
        "options": [{"name": o.name, "default": o.default, "doc": o.doc} for o in spec.options],
    }


@app.command(name="list")
def list_(*, json: Json = False) -> int:
    """Lists every scanner and check.

    Parameters
    ----------
    json
        One JSON document on stdout, with the keys `scanners` and `checks`.
    """
    installed = registry.load()
    document = {
        "scanners": [scanner_document(installed, spec) for _, spec in sorted(installed.scanners.items())],
        "checks": [check_document(installed, spec) for _, spec in sorted(installed.checks.items())],
    }

    def show(console: Console) -> None:
        scanners = [
            (spec.name, spec.about.type, spec.clearance, _interval(spec), ", ".join(f.kind for f in spec.yields))
            for _, spec in sorted(installed.scanners.items())
        ]
        console.print(table(["scanner", "about", "clearance", "every", "facts"], scanners, title="Scanners"))
        checks = [
            (spec.name, spec.about.type, spec.severity, spec.title) for _, spec in sorted(installed.checks.items())
        ]
        console.print(table(["check", "about", "severity", "what is wrong when it fails"], checks, title="Checks"))

    emit(document, json, show)
    return 0


@app.command
def show(name: str, /, *, json: Json = False) -> int:
    """Shows one scanner or check, or all that one plugin has.

    Parameters
    ----------
    name
        The name of a scanner, check or plugin.
    json
        One JSON document on stdout.
    """
    installed = registry.load()
    plugin = installed.plugins.get(name)
    documents: list[dict[str, Any]] = []
    if name in installed.scanners:
        documents.append(scanner_document(installed, installed.scanners[name]))
    if name in installed.checks:
        documents.append(check_document(installed, installed.checks[name]))
    if not documents and plugin is not None:
        documents += [scanner_document(installed, spec) for spec in plugin.scanners]
        documents += [check_document(installed, spec) for spec in plugin.checks]
    if not documents:
        raise UsageError(f"There is no scanner, check or plugin {name!r}; `kat plugins list` shows them all.")
    emit({"name": name, "entries": documents}, json, lambda console: console.print(_words(documents)))
    return 0


Where = Annotated[
    str | None, Parameter(name="--organisation", help="For this organisation only; without it for the whole install.")
]


@app.command(name="set")
def set_(name: str, /, *values: str, organisation: Where = None) -> int:
    """Gives an option of a scanner or check a value: checks judge by it at once, scanners from their next scan on.

    Parameters
    ----------
    name
        Scanner or check, a dot, and its option, such as mail-policy.selectors.
    values
        The value: a number, true or false, a text, or for an option that is a list each of its texts.
    """
    known = settings.known_options(registry.load())
    if not values:
        raise UsageError(f"Say the value too: kat plugins set {name} VALUE.")
    with opened() as install, install.database.begin("kat_system") as connection:
        value = _value(known[name].default, values) if name in known else None
        place = _place(install, organisation)
        settings.set_(connection, place, name, value, known=known, actor=actor())
        recheck_option(connection, registry.load(), name.partition(".")[0], place.organisation_id)
    return 0


@app.command
def unset(name: str, /, *, organisation: Where = None) -> int:
    """Takes the value of an option away again, so that the default holds, or what the whole install says.

    Parameters
    ----------
    name
        Scanner or check, a dot, and its option.
    """
    with opened() as install, install.database.begin("kat_system") as connection:
        place = _place(install, organisation)
        if not settings.unset(connection, place, name, actor=actor()):
            raise UsageError(f"{name!r} has no value there; `kat plugins show NAME` lists options and defaults.")
        recheck_option(connection, registry.load(), name.partition(".")[0], place.organisation_id)
    return 0


def _place(install: Install, code: str | None) -> settings.Place:
    return settings.INSTALL if code is None else settings.organisation(install.organisation(code))


def _value(default: Any, typed: tuple[str, ...]) -> Any:
    """What was typed as the type of the option's default; `settings.set_` refuses what does not fit."""
    if isinstance(default, list | tuple):
        return list(typed)
    said = " ".join(typed)
    if isinstance(default, str):
        return said
    try:
        return jsons.loads(said)
    except ValueError:
        return said


def _words(documents: list[dict[str, Any]]) -> Group:
    parts: list[Text] = []
    for document in documents:
        text = Text(f"{document['name']}\n", style="bold")
        for key, value in document.items():
            if key in ("name", "options") or value in ("", []):
                continue
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            text.append(f"  {key.replace('_', ' ')}: ", style="dim")
            text.append(f"{shown}\n", style="not bold")
        for option in document["options"]:
            text.append(f"  option {option['name']} (default {option['default']}): {option['doc']}\n", style="not bold")
        parts.append(text)
    return Group(*parts)
