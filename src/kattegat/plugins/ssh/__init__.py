"""SSH: which version, algorithms and host keys a server has, without logging in, and which of them are weak."""

from kattegat.plugins.ssh.checks import *  # noqa: F403 - the registry finds what this package declares
from kattegat.plugins.ssh.facts import *  # noqa: F403
from kattegat.plugins.ssh.scan import *  # noqa: F403
