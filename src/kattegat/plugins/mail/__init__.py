"""Mail policy of a domain: SPF, DMARC, DKIM keys, MTA-STS and TLS-RPT, as parsers and evaluators without I/O."""
