"""What can go wrong while the laboratory is built."""

from __future__ import annotations


class LabError(Exception):
    """The laboratory can't do what was asked; str() says what is wrong and what to do next."""


class NotPossibleError(LabError):
    """The machine can't carry the laboratory: not root, no network namespaces, or servers that are not installed."""


class CommandFailedError(LabError):
    """A command the laboratory needs ended with an error.

    `args_run` is the command, `status` its exit status, `output` what it printed.
    """

    def __init__(self, args_run: list[str], status: int, output: str) -> None:
        self.args_run = args_run
        self.status = status
        self.output = output
        super().__init__(f"`{' '.join(args_run)}` ended with {status}: {output.strip()[-2000:] or 'no output'}")


class ServerNotReadyError(LabError):
    """A server ended, or did not listen in time. `name` is the server, `log` the end of its output."""

    def __init__(self, name: str, reason: str, log: str) -> None:
        self.name = name
        self.reason = reason
        self.log = log
        super().__init__(
            f"The laboratory's server {name} {reason}; the end of its log: {log.strip()[-2000:] or 'empty'}"
        )
