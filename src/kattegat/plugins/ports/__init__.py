"""Ports: which answer at an address, what greets there, and which should not be open to everybody."""

from kattegat.plugins.ports.checks import *  # noqa: F403 - the registry finds what this package declares
from kattegat.plugins.ports.connect import *  # noqa: F403
from kattegat.plugins.ports.facts import *  # noqa: F403
from kattegat.plugins.ports.greeting import *  # noqa: F403
from kattegat.plugins.ports.nmap import *  # noqa: F403
