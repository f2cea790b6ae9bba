"""Makes the pictures of the README: a scan of the laboratory in a terminal, and its page. Needs root and Chromium.

make pictures       # apt-get install chromium fonts-dejavu first; the laboratory's packages too
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from kattegat.reports import terminal
from kattegat.reports.contents import Contents

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
TARGETS = ("www.bad.test", "expired.bad.test", "www.good.test")
WIDTH = 130
LINES = 46

sys.path.insert(0, str(ROOT / "tests" / "lab"))


def shoot(page: Path, picture: Path, width: int, height: int) -> None:
    """A screenshot of a local page."""
    with tempfile.TemporaryDirectory() as profile:
        quiet = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
        command = ["chromium", "--headless", "--no-sandbox", *quiet, "--disable-sync", f"--user-data-dir={profile}"]
        size = [f"--window-size={width},{height}", "--hide-scrollbars", f"--screenshot={picture}", page.as_uri()]
        subprocess.run([*command, *size], check=True, capture_output=True)


def main() -> None:
    """Scans, draws, writes both pictures."""
    from kat import Kat

    from lab import Lab

    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, Lab() as lab:
        folder = Path(name)
        folder.chmod(0o711)
        kat = Kat(lab, folder / "data")
        try:
            document = kat.scan(*TARGETS, "--html", str(folder / "scan.html"))
        finally:
            kat.remove()
        contents = msgspec.convert(document, type=Contents)
        whole = Console(file=io.StringIO(), width=WIDTH, force_terminal=True, color_system="truecolor", highlight=False)
        with whole.capture() as captured:
            whole.print(f"$ kat scan {' '.join(TARGETS)}", style="bold")
            terminal.show(whole, contents)
        lines = captured.get().splitlines()
        # The beginning and the end: what a person sees who scrolls.
        shown = [*lines[: LINES - 6], "  ...", *lines[-5:]] if len(lines) > LINES else lines
        screen = Console(record=True, file=io.StringIO(), width=WIDTH)
        for line in shown:
            screen.print(Text.from_ansi(line))
        drawing = folder / "terminal.svg"
        screen.save_svg(str(drawing), title="kat scan")
        shoot(drawing, PICTURES / "scan-terminal.png", 1620, 1240)
        shoot(folder / "scan.html", PICTURES / "scan-page.png", 1240, 1400)


if __name__ == "__main__":
    main()
