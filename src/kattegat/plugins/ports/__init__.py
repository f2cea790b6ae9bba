"""Ports: which answer at an address, what greets there, and which should not be open to everybody."""

from kattegat.plugins.ports.checks import *  # noqa: F403 - the registry finds what this package declares
from kattegat.plugins.ports.scanners import *  # noqa: F403
