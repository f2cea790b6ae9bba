"""Every `kat` that the how-to pages, the tutorial and the README have people type is there, with its options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import App

from kattegat.cli.main import app
from kattegat.runner.main import arguments

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*(ROOT / "docs" / "how-to").glob("*.md"), *(ROOT / "docs" / "tutorial").glob("*.md"), ROOT / "README.md"]
)
# `kat` by itself, by its path, in a container, or as another user; up to the end of the code.
TYPED = re.compile(r"(?<![\w/.-])(?:[\w./]*/bin/)?kat(?=\s+[a-z-])([^`\n#|&;>'$]*)")


def typed(page: Path) -> list[str]:
    """What a page has people type after `kat`, from its code blocks and its inline code."""
    text = page.read_text()
    # What a command answers is indented deeper or begins with the command's name and a colon; it is no command.
    blocks = [line.strip() for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]
    commands = [line for line in blocks if re.match(r"[\w./]*kat\s|docker compose|sudo|KAT_\w+=|python", line)]
    inline = re.findall(r"`([^`\n]+)`", text)
    found = []
    for code in (*commands, *inline):
        # The service of compose is called kat too.
        code = re.sub(r"^docker compose run --rm (?:-\S+ \S+ )*kat ", "kat ", code)
        found += [match[1].strip() for match in TYPED.finditer(code)]
    return [entry for entry in found if entry]


def problem(words: list[str]) -> str:
    """Why this is no command of ours, or nothing. Upper case stands for what a reader puts in its place."""
    here: App = app
    path: list[str] = []
    while words and words[0] in here and not words[0].startswith("-"):
        here, path = here[words[0]], [*path, words[0]]
        words = words[1:]
    options = [word.split("=")[0] for word in words if word.startswith("-") and word != "-"]
    if not path:
        return "" if set(options) <= {"--help", "--version"} and options else f"there is no kat {' '.join(words)}"
    if path == ["process", "runner"]:
        known = {option for action in arguments()._actions for option in action.option_strings}
    elif here.default_command is None:
        # A group named by itself, as in "kat backup", or one whose command is not there.
        return f"there is no kat {' '.join([*path, words[0]])}" if words else ""
    else:
        known = {name for argument in here.assemble_argument_collection() for name in argument.names}
    unknown = [option for option in options if option not in known | {"--help"}]
    return f"kat {' '.join(path)} has no {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_has_people_type_exists(page: Path) -> None:
    wrong = []
    for entry in typed(page):
        try:
            words = shlex.split(entry)
        except ValueError:
            # Cut off inside quotes.
            words = entry.replace('"', "").split()
        if said := problem(words):
            wrong.append(said)
    assert wrong == []


@pytest.mark.parametrize(
    ("entry", "right"),
    [
        ("downgrade --to 0.1.0", True),
        ("backup create --to DIR", True),
        ("process runner --door X --token-file F", True),
        ("downgrade --with-magic", False),
        ("go-back", False),
        ("backup undo", False),
        ("process runner --database X", False),
    ],
)
def test_the_rule_tells_right_from_wrong(entry: str, right: bool) -> None:
    assert (problem(entry.split()) == "") is right


def test_the_pages_are_read() -> None:
    found = {entry.split()[0] for page in PAGES for entry in typed(page)}
    assert {"downgrade", "upgrade", "backup", "status", "parked", "history", "finalize", "scan", "process"} <= found
