"""DNSSEC: whether the chain of signatures from the trust anchor to a domain holds, and how strong it is."""

from kattegat.plugins.dnssec.checks import *  # noqa: F403 - the registry finds what this package declares
from kattegat.plugins.dnssec.facts import *  # noqa: F403
from kattegat.plugins.dnssec.scan import *  # noqa: F403
