"""`kat plugins set` and `unset`: what is typed becomes a setting of the install or of one organisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from katcli import Install, Site

from kattegat.cli import plugins


@pytest.mark.parametrize(
    ("default", "typed", "value"),
    [
        ((), ("s1", "s2"), ["s1", "s2"]),
        ("", ("two", "words"), "two words"),
        ("", ("7",), "7"),
        (14, ("7",), 7),
        (True, ("false",), False),
        (14, ("soon",), "soon"),
    ],
)
def test_what_is_typed_takes_the_type_of_the_default(default: Any, typed: tuple[str, ...], value: Any) -> None:
    assert plugins._value(default, typed) == value


def test_an_option_is_given_and_taken_away(make_install: Callable[[str], Install], site: Site) -> None:
    install = make_install("options")
    said = install.run("plugins", "set", "mail-policy.selectors", "s1", code=3).stderr
    assert "no install" in said
    install.scan(site, "--scanner", "http")
    install.run("plugins", "set", "mail-policy.selectors", "s1", "--organisation", "default", code=0)
    # It was given to the organisation and not to the install.
    assert "has no value there" in install.run("plugins", "unset", "mail-policy.selectors", code=2).stderr
    install.run("plugins", "unset", "mail-policy.selectors", "--organisation", "default", code=0)
    install.run("plugins", "unset", "mail-policy.selectors", "--organisation", "default", code=2)
    assert "There is no setting" in install.run("plugins", "set", "mail-policy.nosuch", "1", code=2).stderr
    assert "true or false" in install.run("plugins", "set", "http.follow_elsewhere", "perhaps", code=2).stderr
