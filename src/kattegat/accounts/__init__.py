"""Organisations, groups, asset sets, consent, own networks, settings in force and the audit trail."""
