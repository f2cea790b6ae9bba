"""The words of the design as types: keys, assets, scopes, evidence, verdicts, times. Pure: no I/O."""
