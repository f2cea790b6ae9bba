"""Mail: who may send for a domain, how its mail is protected on the way, and how its mail servers answer."""

from kattegat.plugins.mail.check_dkim import *  # noqa: F403 - the registry finds what this package declares
from kattegat.plugins.mail.check_dmarc import *  # noqa: F403
from kattegat.plugins.mail.check_spf import *  # noqa: F403
from kattegat.plugins.mail.check_transport import *  # noqa: F403
from kattegat.plugins.mail.facts import *  # noqa: F403
from kattegat.plugins.mail.policy import *  # noqa: F403
from kattegat.plugins.mail.smtp import *  # noqa: F403
