"""A change in a process of its own, which kills itself at a moment of a step: `killed_change.py JSON`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import changekit

from kattegat import settings
from kattegat.lifecycle import run
from kattegat.lifecycle.run import Wish
from kattegat.schema.journal import Progress
from kattegat.store.database import ROLES, Database


class Doomed(changekit.Told):
    """Kills this process at a moment of a step, or after it has said so many sentences."""

    def __init__(self, moment: str, number: int) -> None:
        super().__init__()
        self.moment, self.number = moment, number

    def step(self, progress: Progress) -> None:
        if (progress.moment, progress.number) == (self.moment, self.number):
            os.kill(os.getpid(), signal.SIGKILL)

    def say(self, sentence: str) -> None:
        super().say(sentence)
        if (self.moment, self.number) == ("said", len(self.said)):
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    given = json.loads(sys.argv[1])
    database = Database({role: given["conninfo"][role] for role in ROLES}, login=True)
    chosen = settings.load({"KAT_DATA_DIR": given["data_dir"]})
    told = Doomed(given["moment"], given["number"])
    if given["act"] == "change":
        run.change(chosen, database, Wish(kind="downgrade", yes=True, backup=False), told)
    elif given["act"] == "resume":
        run.resume(database, told)
    else:
        run.cancel(database, told)
    database.close()
    sys.stdout.write("ended\n")


main()
