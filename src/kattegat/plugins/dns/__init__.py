"""DNS: the records of names and addresses, how a zone is served, and what is wrong with either."""

from kattegat.plugins.dns.checks import *  # noqa: F403 - the registry finds what this package declares
from kattegat.plugins.dns.records import *  # noqa: F403
