"""Websites: where they answer, what they tell browsers, and what is wrong with it."""

from kattegat.plugins.web.checks_contact import *  # noqa: F403 - the registry finds what this package declares
from kattegat.plugins.web.checks_cookies import *  # noqa: F403
from kattegat.plugins.web.checks_headers import *  # noqa: F403
from kattegat.plugins.web.checks_https import *  # noqa: F403
from kattegat.plugins.web.checks_server import *  # noqa: F403
from kattegat.plugins.web.contact import *  # noqa: F403
from kattegat.plugins.web.ports import *  # noqa: F403
from kattegat.plugins.web.site import *  # noqa: F403
