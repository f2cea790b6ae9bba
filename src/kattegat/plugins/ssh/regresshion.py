"""Whether a version of OpenSSH has CVE-2024-6387 (regreSSHion), as far as its greeting can tell.

Distributions mend old versions without changing the version, so the version alone accuses nobody: the greeting has to
name a build of Debian or Ubuntu of which it is known in which revision it was mended.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Standing = Literal["fine", "affected", "unknown"]


class Judgement(NamedTuple):
    """How a version stands, and half a sentence why."""

    standing: Standing
    reason: str


FIRST, FIXED = (8, 5), (9, 8)
"""OpenSSH 8.5p1 brought the fault back, 9.8p1 mended it (its release notes of 2024-07-01)."""
OLD = (4, 4)
"""Before this the fault was there too, unless CVE-2006-5051 and CVE-2008-4109 were mended."""

# DSA-5724-1 and the Debian security tracker: bookworm in 1:9.2p1-2+deb12u3, unstable in 1:9.7p1-7.
DEBIAN_STABLE = {(9, 2): (12, 3)}
DEBIAN_UNSTABLE = {(9, 7): 7}
# USN-6859-1: 22.04 in 1:8.9p1-3ubuntu0.10, 23.10 in 1:9.3p1-1ubuntu3.6, 24.04 in 1:9.6p1-3ubuntu13.3.
UBUNTU = {(8, 9): (0, 10), (9, 3): (3, 6), (9, 6): (13, 3)}

_SOFTWARE = re.compile(r"OpenSSH_(\d{1,3})\.(\d{1,3})(?:\.\d{1,3})?(?:p\d{1,3})?")
_DEBIAN = re.compile(r"(?:Debian|Raspbian)-(\d{1,4})(?:\+deb(\d{1,3})u(\d{1,4}))?(?:[~+.].*)?")
_UBUNTU = re.compile(r"Ubuntu-(\d{1,4})(?:ubuntu(\d{1,4}(?:\.\d{1,4})*))?(?:[~+].*)?")


def judge(software: str, comments: str) -> Judgement:
    """How the server stands that greets with this software and comment (RFC 4253 section 4.2)."""
    if not software.lower().startswith("openssh"):
        return Judgement("fine", "it is not OpenSSH")
    if software.lower().startswith("openssh_for_windows"):
        return Judgement("fine", "OpenSSH for Windows has no such signal handler")
    match = _SOFTWARE.fullmatch(software)
    if match is None:
        return Judgement("unknown", f"the version in {software} can't be read")
    version = (int(match[1]), int(match[2]))
    if version >= FIXED or OLD <= version < FIRST:
        return Judgement("fine", "this version does not have it")
    if version < OLD:
        return Judgement("unknown", f"{software} is so old that it depends on patches which its greeting does not show")
    if found := _DEBIAN.fullmatch(comments):
        return _debian(version, found)
    if found := _UBUNTU.fullmatch(comments):
        return _ubuntu(version, found)
    reason = f"{software} has the fault unless it was built with the patch, which its greeting hides"
    return Judgement("unknown", reason)


def _fine(mended: bool) -> Judgement:
    if mended:
        return Judgement("fine", "this build is mended")
    return Judgement("affected", "this build is older than the one that mends it")


def _debian(version: tuple[int, int], found: re.Match[str]) -> Judgement:
    release, update = (int(found[2]), int(found[3])) if found[2] else (0, 0)
    if version in DEBIAN_STABLE:
        return _fine((release, update) >= DEBIAN_STABLE[version])
    if version in DEBIAN_UNSTABLE:
        return _fine(int(found[1]) >= DEBIAN_UNSTABLE[version])
    return _fine(False)


def _ubuntu(version: tuple[int, int], found: re.Match[str]) -> Judgement:
    if version in DEBIAN_UNSTABLE:  # what Ubuntu took over from Debian unstable
        return _fine(int(found[1]) >= DEBIAN_UNSTABLE[version])
    own = tuple(int(number) for number in found[2].split(".")) if found[2] else ()
    return _fine(version in UBUNTU and own >= UBUNTU[version])
