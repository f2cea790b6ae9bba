"""The scanners, checks and facts of every plugin that is installed: the built-in ones and those of third parties."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections import defaultdict
from importlib.metadata import entry_points
from types import ModuleType

from kattegat.errors import UsageError
from kattegat.model.facts import Fact
from kattegat.plugin import CheckSpec, PluginError, ScannerSpec, declared

BUILT_IN = "kattegat.plugins"
ENTRY_POINTS = "kattegat.plugins"


class Plugin:
    """One plugin: its name, its module and what it declares."""

    def __init__(self, name: str, module: ModuleType) -> None:
        self.name = name
        self.module = module
        self.scanners, self.checks, self.facts = declared(module)
        self.doc = inspect.getdoc(module) or ""


class Registry:
    """Everything that plugins declare, by name. Made of modules, so that tests can make one of their own."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self.plugins = {plugin.name: plugin for plugin in plugins}
        self.scanners: dict[str, ScannerSpec] = {}
        self.checks: dict[str, CheckSpec] = {}
        self.facts: dict[str, type[Fact]] = {}
        self.plugin_of: dict[str, str] = {}
        for plugin in plugins:
            for fact in plugin.facts:
                known = self.facts.setdefault(fact.kind, fact)
                if known is not fact:
                    raise PluginError(
                        f"Plugins {known.__module__} and {fact.__module__} both declare fact {fact.kind!r}."
                    )
            for scanner in plugin.scanners:
                self._add(self.scanners, scanner, plugin)
            for check in plugin.checks:
                self._add(self.checks, check, plugin)
        self.yielded_by: dict[str, list[ScannerSpec]] = defaultdict(list)
        for scanner in self.scanners.values():
            for fact in scanner.yields:
                self.yielded_by[fact.kind].append(scanner)
        for check in self.checks.values():
            for need in check.needs:
                if need.fact.kind not in self.yielded_by:
                    raise PluginError(f"Check {check.name!r} needs {need.fact.kind!r}, and no scanner yields it.")

    def _add(
        self, table: dict[str, object] | dict[str, ScannerSpec] | dict[str, CheckSpec], spec: object, plugin: Plugin
    ) -> None:
        name = spec.name  # type: ignore[attr-defined]
        if name in table:
            raise PluginError(f"Plugin {plugin.name!r} declares {name!r}, which {self.plugin_of[name]!r} has already.")
        table[name] = spec  # type: ignore[assignment]
        self.plugin_of[name] = plugin.name

    def scanner(self, name: str) -> ScannerSpec:
        """The scanner of this name; raises `UsageError` that lists the names."""
        try:
            return self.scanners[name]
        except KeyError:
            raise UsageError(f"There is no scanner {name!r}; there are: {', '.join(sorted(self.scanners))}.") from None

    def check(self, name: str) -> CheckSpec:
        """The check of this name; raises `UsageError`."""
        try:
            return self.checks[name]
        except KeyError:
            raise UsageError(f"There is no check {name!r}; `kat plugins list` shows them all.") from None


@functools.cache
def load() -> Registry:
    """The registry of what is installed. A plugin that can not be imported stops with its name and the reason."""
    package = importlib.import_module(BUILT_IN)
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_"))
    plugins = [Plugin(name, importlib.import_module(f"{BUILT_IN}.{name}")) for name in names]
    # Modules beside the plugins that several of them share declare nothing.
    plugins = [plugin for plugin in plugins if plugin.scanners or plugin.checks]
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        try:
            module = entry.load()
        except Exception as problem:
            raise PluginError(f"Plugin {entry.name!r} ({entry.value}) can't be loaded: {problem!r}.") from problem
        plugins.append(Plugin(entry.name, module))
    return Registry(plugins)
