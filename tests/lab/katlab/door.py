"""A way between two network namespaces for one TCP port, without joining the networks."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading

from .command import environment
from .errors import CommandFailedError

# Runs inside the namespace: makes the listening socket there and hands it out through the socket it inherited. A
# socket belongs to the namespace it was made in, whichever process holds it.
_LISTEN = """
import socket, sys
out = socket.socket(fileno=int(sys.argv[1]))
inner = socket.create_server(("127.0.0.1", 0))
socket.send_fds(out, [b"x"], [inner.fileno()])
"""


class Door:
    """Listens on the loopback of a namespace, at `port`, and passes each connection on to this process's loopback."""

    def __init__(self, netns: str, target: int) -> None:
        self.target = target
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = ["ip", "netns", "exec", netns, sys.executable, "-c", _LISTEN, str(theirs.fileno())]
            done = subprocess.run(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=environment(),
                check=False,
            )
            if done.returncode:
                raise CommandFailedError(command, done.returncode, done.stderr)
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        self._listener = socket.socket(fileno=descriptors[0])
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name=f"door-{self.port}", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(inner,), daemon=True).start()

    def _pass_on(self, inner: socket.socket) -> None:
        with inner, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as outer:
            back = threading.Thread(target=_pump, args=(outer, inner), daemon=True)
            back.start()
            _pump(inner, outer)
            back.join()

    def close(self) -> None:
        """Take no further connections."""
        # Closing alone does not wake a thread in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
