"""The connect scan, and external programs within limits."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kattegat.plugin import NotReached
from kattegat.runner import dial
from kattegat.runner.limits import Unreached
from kattegat.runner.tools import Tools


async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def test_open_closed_and_no_answer(lab: Any) -> None:
    async def main() -> None:
        with socket.socket() as deaf, socket.socket() as filler, socket.socket() as closed:
            # A full queue of one listening socket drops what comes next, as a firewall would.
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            filler.connect(deaf.getsockname())
            closed.bind(("127.0.0.1", 0))
            async with lab.serving(quiet) as port, lab.serving(quiet) as other:
                net = lab.net()
                ports = [port, closed.getsockname()[1], deaf.getsockname()[1], other, port]
                found = [entry async for entry in net.ports("127.0.0.1", ports)]
        assert sorted(found) == sorted(
            [(ports[0], "open"), (ports[1], "closed"), (ports[2], "no answer"), (ports[3], "open")]
        )

    asyncio.run(main())


def test_attempts_are_bounded(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = most = 0
    real = dial.Dialer.socket

    async def watched(self: dial.Dialer, address: str, port: int, seconds: float) -> socket.socket:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            await asyncio.sleep(0)
            return await real(self, address, port, seconds)
        finally:
            now -= 1

    monkeypatch.setattr(dial.Dialer, "socket", watched)

    async def main() -> None:
        net = lab.net({"attempts_per_address": 5})
        found = [entry async for entry in net.ports("127.0.0.1", range(1, 200))]
        assert sorted(port for port, _ in found) == list(range(1, 200))

    asyncio.run(main())
    assert most == 5


def test_scan_that_is_given_up_leaves_nothing_behind(lab: Any) -> None:
    async def main() -> None:
        net = lab.net()
        before = len(asyncio.all_tasks())
        results = net.ports("127.0.0.1", range(1, 500))
        await anext(results)
        await results.aclose()
        assert len(asyncio.all_tasks()) == before

    asyncio.run(main())


def test_own_trouble_is_not_said_of_the_target(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def exhausted(self: dial.Dialer, address: str, port: int, seconds: float) -> socket.socket:
        raise Unreached("This machine could not open a connection.", "local")

    async def broken(self: dial.Dialer, address: str, port: int, seconds: float) -> socket.socket:
        raise LookupError("a bug")

    async def main() -> None:
        for wrong, error in ((exhausted, NotReached), (broken, LookupError)):
            monkeypatch.setattr(dial.Dialer, "socket", wrong)
            with pytest.raises(error):
                async for _ in lab.net().ports("127.0.0.1", [1, 2, 3]):
                    pass

    asyncio.run(main())


# --- external programs -----------------------------------------------------------------------------------------------


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a program on PATH out of a shell script."""

    def make(script: str, name: str = "probe") -> str:
        path = tmp_path / name
        path.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then echo "Probe version 7.94-1 (x)"; exit 0; fi\n{script}\n'
        )
        path.chmod(0o755)
        return name

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return make


def test_reply_of_a_tool(lab: Any, tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAT_DATABASE_URL", "postgresql://secret")
    name = tool('cat; printf "\\000\\377"; echo "$@" >&2; env >&2; exit 3')

    async def main() -> None:
        net = lab.net()
        assert net.has(name)
        assert not net.has("no-such-tool")
        assert not net.has("/bin/sh")
        reply = await net.run(name, "-a", "b c", stdin=b"in", targets=["127.0.0.1"])
        assert (reply.code, reply.stdout, reply.version) == (3, b"in\x00\xff", "7.94-1")
        assert reply.arguments == ("-a", "b c")
        assert reply.stderr.startswith(b"-a b c\n")
        assert b"secret" not in reply.stderr
        detail = net.journal.detail()
        assert (detail.tool, detail.tool_version, detail.arguments) == (name, "7.94-1", ["-a", "b c"])
        assert detail.contacted == ["127.0.0.1"]

    asyncio.run(main())


def test_missing_tool(lab: Any) -> None:
    async def main() -> None:
        with pytest.raises(NotReached, match="no-such-tool is not installed on this runner"):
            await lab.net().run("no-such-tool")
        with pytest.raises(NotReached, match="not installed"):
            await lab.net().run("../../bin/sh")

    asyncio.run(main())


def alive(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_time_out_ends_the_whole_group(lab: Any, tool: Any, tmp_path: Path) -> None:
    name = tool(f"sleep 3600 & echo $! > {tmp_path}/pid; sleep 3600")

    async def main() -> None:
        net = lab.net({"tool_seconds": 0.5})
        with pytest.raises(NotReached, match=r"probe was ended after 0\.5 seconds"):
            await net.run(name)
        child = int((tmp_path / "pid").read_text())
        async with asyncio.timeout(30):  # the kernel ends it a moment later
            while alive(child):
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_cancelled_job_ends_its_tool(lab: Any, tool: Any, tmp_path: Path) -> None:
    name = tool(f"echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; sleep 3600")

    async def main() -> None:
        task = asyncio.create_task(lab.net().run(name))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not alive(int((tmp_path / "pid").read_text()))

    asyncio.run(main())


@pytest.mark.parametrize("script", ["cat /dev/zero", "cat /dev/zero >&2"])
def test_endless_output(lab: Any, tool: Any, script: str) -> None:
    async def main() -> None:
        with pytest.raises(NotReached, match="wrote more than 100000 bytes"):
            await lab.net({"tool_bytes": 100_000}).run(tool(script))

    asyncio.run(main())


def test_limits_hold_in_the_tool(lab: Any, tool: Any) -> None:
    async def main() -> None:
        reply = await lab.net().run(tool("ulimit -c; ulimit -n; ulimit -v; ulimit -f; pwd; echo $HOME"))
        core, files, memory, size, folder, home = reply.stdout.decode().split()
        assert core == "0"
        assert int(files) <= 256
        assert int(memory) <= 4 * 1024 * 1024
        assert size != "unlimited"
        assert folder == home
        assert not Path(folder).exists()

    asyncio.run(main())


def test_tool_without_a_version(tool: Any, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexit 1\n")
    mute.chmod(0o755)

    async def main() -> None:
        from kattegat.runner.limits import Rules

        tools = Tools(Rules())
        assert await tools.version("mute") == ""
        assert await tools.version("no-such-tool") == ""

    asyncio.run(main())
