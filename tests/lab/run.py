"""Start the laboratory by hand.

python tests/lab/run.py                 start it, print what is where, wait for Ctrl-C
python tests/lab/run.py --once CMD...   run a command where kat's runner would run, then take everything down
python tests/lab/run.py clean [--all]   remove what dead laboratories left; with --all, running ones too
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys

from katlab import netns
from katlab.command import environment

from lab import Lab, LabError


def main(argv: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=["start", "clean"], default="start")
    parser.add_argument("--all", action="store_true", help="with clean: running laboratories too")
    parser.add_argument("--many", type=int, default=0, metavar="N", help="with N more web hosts h001.many.test ...")
    parser.add_argument("--once", nargs=argparse.REMAINDER, metavar="CMD", help="run a command and take all down")
    options = parser.parse_args(argv)
    if options.action == "clean":
        for ident in netns.clean(everything=options.all):
            print(f"removed {ident}")
        return 0
    # Ctrl-C and a polite kill both have to pass through stop().
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Lab() as lab:
            if options.many:
                lab.many(options.many)
            if options.once:
                env = environment(LAB_RESOLVER=lab.resolver, LAB_CA=str(lab.ca))
                env["LAB_TRUST_ANCHOR"] = str(lab.trust_anchor)
                env["LAB_BIND_ANCHOR"] = str(lab.bind_anchor)
                return lab.run(options.once, stdin=None, stdout=None, stderr=None, env=env).returncode
            describe(lab)
            signal.pause()
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    except subprocess.SubprocessError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def describe(lab: Lab) -> None:
    """Print addresses, files, and how to run a command inside."""
    for host in lab.hosts.values():
        print(f"{host.name:8} {host.netns:32} {' '.join(host.addresses)}")
    print(f"resolver      {lab.resolver}")
    print(f"trust anchor  {lab.trust_anchor}")
    print(f"CA            {lab.ca}")
    print(f"files         {lab.directory}")
    for name, addresses in lab.names.items():
        print(f"  {name:24} {' '.join(addresses)}")
    print(f"\nip netns exec {lab.hosts['scanner'].netns} dig www.good.test\nCtrl-C ends it.", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
