"""Small TCP listeners: services that should not be open to the world, and one that never says a word.

Run as a program: ``banners.py PORTS-ADDRESS SILENT-ADDRESS...``. On the first address the ports below speak; on the
others ports 80 and 443 accept a connection and then say nothing, so that a client's time-out is what ends it.
"""

from __future__ import annotations

import asyncio
import sys

#: MySQL protocol 10 hand-shake of a server 5.5.20: packet length, sequence number, then the greeting.
_MYSQL_BODY = (
    b"\x0a5.5.20-log\x00" + b"\x2a\x00\x00\x00" + b"abcdefgh\x00" + b"\xff\xf7\x08\x02\x00\x0f\x80\x15" + b"\x00" * 10
    + b"abcdefghijkl\x00" + b"mysql_native_password\x00"
)  # fmt: skip
GREETINGS = {
    21: b"220 (vsFTPd 2.3.4)\r\n",
    23: b"\xff\xfd\x18\xff\xfd\x20lab-router login: ",
    3306: len(_MYSQL_BODY).to_bytes(3, "little") + b"\x00" + _MYSQL_BODY,
}
#: Port -> (beginning of a request -> answer); other requests get the answer to b"".
ANSWERS = {
    5432: {b"\x00\x00\x00\x08\x04\xd2\x16\x2f": b"N", b"": b"E\x00\x00\x00\x0bSFATAL\x00\x00"},
    6379: {
        b"PING": b"+PONG\r\n",
        b"*1\r\n$4\r\nPING": b"+PONG\r\n",
        b"INFO": b"$21\r\nredis_version:3.0.0\r\n\r\n",
        b"": b"-ERR unknown command\r\n",
    },
}


async def speak(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection to a port of `GREETINGS` or `ANSWERS`."""
    try:
        writer.write(GREETINGS.get(port, b""))
        await writer.drain()
        while data := await reader.read(4096):
            answers = ANSWERS.get(port, {})
            for start, answer in answers.items():
                if data.upper().startswith(start):
                    writer.write(answer)
                    await writer.drain()
                    break
    except ConnectionError:
        pass
    finally:
        writer.close()


async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read whatever comes and answer nothing until the client gives up."""
    try:
        while await reader.read(4096):
            pass
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(address: str, silent: list[str]) -> None:
    """Listen until the process is ended."""

    def speaker(port: int):  # type: ignore[no-untyped-def]
        return lambda reader, writer: speak(port, reader, writer)

    servers = [await asyncio.start_server(speaker(port), address, port) for port in (*GREETINGS, *ANSWERS)]
    servers += [await asyncio.start_server(keep_silent, quiet, port) for quiet in silent for port in (80, 443)]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2:]))
