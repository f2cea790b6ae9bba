"""What every plugin has: texts, evidence of a real run for each scanner, tests, and a page that names all of it.

Recorded evidence is `tests/plugins/recorded/<plugin>/<scanner>--<case>.evidence`, as `Evidence.pack()` makes it.
"""

from __future__ import annotations

import ast
import inspect
import re
import string
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from kattegat import registry
from kattegat.plugin import (
    CheckSpec,
    Context,
    Evidence,
    Fact,
    Facts,
    Found,
    Hostname,
    Item,
    Net,
    Option,
    Part,
    PluginError,
    ScannerSpec,
    Verdict,
    check,
    hours,
    scanner,
    translatable,
    verdict,
)
from kattegat.registry import Plugin, Registry

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
FIELD = re.compile(r"[a-z_][a-z0-9_]*")


class Folders(msgspec.Struct):
    """Where what belongs to plugins lies."""

    recorded: Path
    tests: tuple[Path, ...]
    pages: Path

    @classmethod
    def of(cls, root: Path) -> Folders:
        tests = root / "tests"
        return cls(tests / "plugins" / "recorded", (tests / "plugins", tests / "lab"), root / "docs/reference/plugins")


def faults(plugin: Plugin, folders: Folders) -> list[str]:
    """Everything that the plugin lacks, one sentence each."""
    return [*_texts(plugin), *_placeholders(plugin), *_evidence(plugin, folders), *_tests(plugin, folders),
            *_page(plugin, folders)]  # fmt: skip


def _texts(plugin: Plugin) -> Iterator[str]:
    if not plugin.doc.strip():
        yield "the plugin's module has no docstring"
    for spec in plugin.scanners:
        if not spec.doc.strip():
            yield f"scanner {spec.name} has no docstring"
        if not spec.yields:
            yield f"scanner {spec.name} yields nothing"
    for fact in plugin.facts:
        # msgspec gives no docstring of its own; one that is inherited speaks of another fact.
        if not (vars(fact).get("__doc__") or "").strip():
            yield f"fact {fact.kind} has no docstring"
    for spec_ in plugin.checks:
        for field in ("title", "risk", "fix", "reference"):
            if not getattr(spec_, field).strip():
                yield f"check {spec_.name} has no {field}"
        if not (inspect.getdoc(spec_.function) or "").strip():
            yield f"check {spec_.name} has no docstring"
    both: list[ScannerSpec | CheckSpec] = [*plugin.scanners, *plugin.checks]
    for named in both:
        if not NAME.fullmatch(named.name):
            yield f"{named.name} is not lower-case words joined by hyphens"
        for option in named.options:
            if not option.doc.strip():
                yield f"option {option.name} of {named.name} has no line of documentation"


def _fields(text: str) -> list[str] | None:
    """The names of a text's placeholders; None when the text can't be formatted."""
    try:
        parts = [part for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError:
        return None
    if any(spec or conversion or not FIELD.fullmatch(name or "") for _, name, spec, conversion in parts):
        return None
    return [name or "" for _, name, _, _ in parts]


def _placeholders(plugin: Plugin) -> Iterator[str]:
    for spec in plugin.checks:
        for field in ("title", "risk", "fix"):
            if _fields(getattr(spec, field)) != []:
                yield f"the {field} of check {spec.name} has placeholders, and nothing fills them"
    for path in _sources(plugin.module):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id == "translatable" and node.args:
                text = _literal(node.args[0])
                if text is None:
                    yield f"{path.name}:{node.lineno}: translatable() takes one literal text, for the catalogue"
                elif _fields(text) is None:
                    yield f"{path.name}:{node.lineno}: the placeholders of {text!r} are not plain names in braces"
            elif node.func.id == "Item" and len(node.args) >= 2:
                yield from _item(path, node)


def _item(path: Path, node: ast.Call) -> Iterator[str]:
    text = node.args[1]
    if isinstance(text, ast.Call) and isinstance(text.func, ast.Name) and text.func.id == "translatable" and text.args:
        text = text.args[0]
    said = _literal(text)
    given = node.args[2] if len(node.args) > 2 else next((k.value for k in node.keywords if k.arg == "params"), None)
    if said is None or not isinstance(given, ast.Dict) or None in given.keys:
        return  # put together elsewhere: the tests of the check see its sentences
    missing = set(_fields(said) or []) - {_literal(key) for key in given.keys if key is not None}
    if missing:
        yield f"{path.name}:{node.lineno}: nothing fills {', '.join(sorted(missing))} in {said!r}"


def _literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _sources(module: ModuleType) -> list[Path]:
    file = getattr(module, "__file__", None)
    if file is None:
        return []
    path = Path(file)
    return sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]


def _evidence(plugin: Plugin, folders: Folders) -> Iterator[str]:
    for spec in plugin.scanners:
        files = sorted((folders.recorded / plugin.name).glob(f"{spec.name}--*.evidence"))
        if not files:
            yield f"there is no recorded evidence {plugin.name}/{spec.name}--<case>.evidence"
        for file in files:
            try:
                Evidence.unpack(file.read_bytes())
            except (msgspec.DecodeError, msgspec.ValidationError) as problem:
                yield f"{file.name} is no evidence: {problem}"


def _tests(plugin: Plugin, folders: Folders) -> Iterator[str]:
    files = [file for folder in folders.tests for file in folder.glob("test_*.py") if file.name != Path(__file__).name]
    texts = [file.read_text(encoding="utf-8") for file in files]
    module = re.compile(rf"\b{re.escape(plugin.module.__name__)}\b")
    if not any(module.search(text) for text in texts):
        yield f"no test imports {plugin.module.__name__}"
    for name, other in [
        *((spec.name, spec.implementation.__name__) for spec in plugin.scanners),
        *((spec.name, spec.function.__name__) for spec in plugin.checks),
    ]:
        word = re.compile(rf"(?<![\w-])({re.escape(name)}|{re.escape(other)})(?![\w-])")
        if not any(word.search(text) for text in texts):
            yield f"no test mentions {name}"


def _page(plugin: Plugin, folders: Folders) -> Iterator[str]:
    page = folders.pages / f"{plugin.name}.md"
    if not page.is_file():
        yield f"there is no page docs/reference/plugins/{page.name}"
        return
    text = page.read_text(encoding="utf-8")
    names = [spec.name for spec in plugin.scanners] + [fact.kind for fact in plugin.facts]
    names += [spec.name for spec in plugin.checks]
    for name in names:
        if f"`{name}`" not in text:
            yield f"docs/reference/plugins/{page.name} does not name `{name}`"
    for spec in plugin.checks:
        row = re.search(rf"^\|\s*`{re.escape(spec.name)}`\s*\|(.*)$", text, re.MULTILINE)
        if row and spec.severity not in row[1]:
            yield f"docs/reference/plugins/{page.name} gives `{spec.name}` another severity than {spec.severity}"


@pytest.mark.parametrize("name", sorted(registry.load().plugins))
def test_plugin_has_all_that_a_plugin_has(name: str) -> None:
    assert faults(registry.load().plugins[name], Folders.of(ROOT)) == []


def test_names_are_unique() -> None:
    """Also between plugins: the registry refuses a second scanner, check or fact of one name."""
    installed = registry.load()
    assert sum(len(plugin.checks) for plugin in installed.plugins.values()) == len(installed.checks)
    assert sum(len(plugin.scanners) for plugin in installed.plugins.values()) == len(installed.scanners)
    with pytest.raises(PluginError, match="declares 'made-up-scanner', which 'made-up' has already"):
        Registry([made_up(), Plugin("again", made_up().module)])


# --- the test of the test --------------------------------------------------------------------------------------------

SOURCE = '''"""A plugin that is made up."""
Item("key", translatable("{server} is {state}"), {"server": 1, "state": 2})
Item("key", "plain")
'''


class MadeUp(Fact, about=Hostname):
    """A fact that is made up."""

    value: int


@scanner("made-up-scanner", about=Hostname, clearance=1, every=hours(1), yields=[MadeUp])
class MadeUpScanner:
    """A scanner that is made up."""

    async def fetch(self, host: Hostname, net: Net) -> Evidence:
        return Evidence()

    def parse(self, host: Hostname, evidence: Evidence) -> Iterator[Found]:
        yield Found(host, MadeUp(value=len(evidence.parts)))


@check(
    "made-up-check",
    about=Hostname,
    needs=[MadeUp],
    severity="low",
    title=translatable("A title"),
    risk=translatable("A risk"),
    fix=translatable("A fix"),
    reference="RFC 1",
    options=[Option("option", 1, "An option.")],
)
def made_up_check(context: Context, facts: Facts[MadeUp]) -> Verdict:
    """A check that is made up."""
    return verdict([Item("key", translatable("{number} is too much"), {"number": fact.value}) for fact in facts])


def made_up(
    *, source: Path | None = None, scanners: type = MadeUpScanner, checks: Callable[..., Verdict] = made_up_check
) -> Plugin:
    module = ModuleType("kattegat_made_up", "A plugin that is made up.")
    module.__dict__.update(MadeUp=MadeUp, MadeUpScanner=scanners, made_up_check=checks)
    if source is not None:
        module.__file__ = str(source)
    return Plugin("made-up", module)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in which the made-up plugin has everything."""
    folders = Folders.of(tmp_path)
    (folders.recorded / "made-up").mkdir(parents=True)
    (tmp_path / "tests" / "lab").mkdir()
    folders.pages.mkdir(parents=True)
    (folders.recorded / "made-up" / "made-up-scanner--case.evidence").write_bytes(Evidence((Part("a", b""),)).pack())
    (folders.tests[0] / "test_made_up.py").write_text("import kattegat_made_up\n# made-up-scanner made-up-check\n")
    (folders.pages / "made-up.md").write_text("`made-up-scanner` `MadeUp`\n\n| `made-up-check` | low |\n")
    (tmp_path / "source.py").write_text(SOURCE)
    return tmp_path


def found(root: Path, plugin: Plugin | None = None) -> list[str]:
    return faults(plugin or made_up(source=root / "source.py"), Folders.of(root))


def test_a_plugin_with_everything_has_no_fault(root: Path) -> None:
    assert found(root) == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("tests/plugins/recorded/made-up/made-up-scanner--case.evidence", None, ["there is no recorded evidence"]),
        ("tests/plugins/recorded/made-up/made-up-scanner--case.evidence", "oops", ["is no evidence"]),
        (
            "tests/plugins/test_made_up.py",
            None,
            ["no test imports", "mentions made-up-scanner", "mentions made-up-check"],
        ),
        ("tests/plugins/test_made_up.py", "import kattegat_made_up  # made-up-check", ["mentions made-up-scanner"]),
        ("docs/reference/plugins/made-up.md", None, ["there is no page docs/reference/plugins/made-up.md"]),
        ("docs/reference/plugins/made-up.md", "`MadeUp` `made-up-scanner`", ["does not name `made-up-check`"]),
        ("docs/reference/plugins/made-up.md", "`MadeUp` `made-up-check`", ["does not name `made-up-scanner`"]),
        ("docs/reference/plugins/made-up.md", "`made-up-scanner` `made-up-check`", ["does not name `MadeUp`"]),
        (
            "docs/reference/plugins/made-up.md",
            "`MadeUp` `made-up-scanner`\n| `made-up-check` | high |",
            ["gives `made-up-check` another severity than low"],
        ),
        ("source.py", 'Item("key", translatable("{server} is {state}"), {"server": 1})', ["nothing fills state"]),
        ("source.py", 'Item("key", "{server}", params={})', ["nothing fills server"]),
        ("source.py", 'translatable("{server")', ["are not plain names in braces"]),
        ("source.py", 'translatable("{0} {a.b}")', ["are not plain names in braces"]),
        ("source.py", "translatable(text)", ["takes one literal text"]),
    ],
)
def test_each_thing_that_lacks_is_a_fault(root: Path, path: str, text: str | None, expected: list[str]) -> None:
    if text is None:
        (root / path).unlink()
    else:
        (root / path).write_text(text)
    faults_ = found(root)
    assert len(faults_) == len(expected), faults_
    assert all(words in fault for words, fault in zip(expected, faults_, strict=True)), faults_


@pytest.mark.parametrize("field", ["title", "risk", "fix", "reference"])
def test_empty_texts_are_faults(root: Path, field: str) -> None:
    spec = msgspec.structs.replace(made_up_check.__check__, **{field: " "})  # type: ignore[attr-defined]
    assert found(root, with_check(root, spec)) == [f"check made-up-check has no {field}"]


def test_placeholders_in_titles_and_bad_names_and_options_are_faults(root: Path) -> None:
    spec = msgspec.structs.replace(
        made_up_check.__check__,  # type: ignore[attr-defined]
        title="{server} is wrong",
        name="Made_up",
        options=(Option("option", 1, ""),),
    )
    assert found(root, with_check(root, spec))[:3] == [
        "Made_up is not lower-case words joined by hyphens",
        "option option of Made_up has no line of documentation",
        "the title of check Made_up has placeholders, and nothing fills them",
    ]


def with_check(root: Path, spec: object) -> Plugin:
    def changed(context: Context, facts: Facts[MadeUp]) -> Verdict:
        """Never called."""
        return verdict([])

    changed.__check__ = spec  # type: ignore[attr-defined]
    return made_up(source=root / "source.py", checks=changed)


def test_missing_docstrings_are_faults(root: Path) -> None:
    class Bare(MadeUpScanner):
        pass

    class Silent(Fact, about=Hostname):
        value: int

    def silent(context: Context, facts: Facts[MadeUp]) -> Verdict:
        return verdict([])

    bare = msgspec.structs.replace(MadeUpScanner.__scanner__, doc="", yields=())  # type: ignore[attr-defined]
    Bare.__scanner__ = bare  # type: ignore[attr-defined]
    silent.__check__ = msgspec.structs.replace(made_up_check.__check__, function=silent)  # type: ignore[attr-defined]
    module = ModuleType("kattegat_made_up")
    module.__dict__.update(Silent=Silent, Bare=Bare, silent=silent, __file__=str(root / "source.py"))
    assert found(root, Plugin("made-up", module))[:5] == [
        "the plugin's module has no docstring",
        "scanner made-up-scanner has no docstring",
        "scanner made-up-scanner yields nothing",
        "fact Silent has no docstring",
        "check made-up-check has no docstring",
    ]


def test_the_sources_of_a_package_are_all_its_modules() -> None:
    package = registry.load().plugins["dns"].module
    assert {path.name for path in _sources(package)} == {"__init__.py", "checks.py", "message.py", "records.py"}
    assert _sources(sys.modules[__name__]) == [Path(__file__)]
