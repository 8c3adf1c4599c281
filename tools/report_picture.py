"""Picture of the report page for the README: `python -m tools.report_picture` writes docs/report.png.

`$TFDFD_CHROMIUM` names the browser, a Chromium or its headless shell.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tfdfd.cli.main import main as tfdfd

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "report.png"
WIDTH, HEIGHT = 1120, 1240
_SECONDS = 120


def main() -> int:
    """Detects in the sample clips, opens the first input of the page, and writes the picture."""
    browser = os.environ.get("TFDFD_CHROMIUM")
    if not browser:
        raise SystemExit("no browser: $TFDFD_CHROMIUM must name a Chromium.")
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        tfdfd(["detect", "tfdfd/samples", "--report", str(page), "--quiet"])
        text = page.read_text("utf-8")
        page.write_text(text.replace("<details><summary>", "<details open><summary>", 1), "utf-8")
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={PICTURE}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
