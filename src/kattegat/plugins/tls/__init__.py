"""TLS: what a website's visitor is shown and whether it can be trusted, and every version and suite that it offers."""

from kattegat.plugins.tls.certificate_checks import *  # noqa: F403 - the registry finds what this package declares
from kattegat.plugins.tls.facts import *  # noqa: F403
from kattegat.plugins.tls.handshake import *  # noqa: F403
from kattegat.plugins.tls.handshake_checks import *  # noqa: F403
from kattegat.plugins.tls.protocol_checks import *  # noqa: F403
from kattegat.plugins.tls.protocols import *  # noqa: F403
from kattegat.plugins.tls.suite_checks import *  # noqa: F403
