"""`python -m kattegat`: the `kat` command."""

from kattegat.cli.main import run

if __name__ == "__main__":
    run()
