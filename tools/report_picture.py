"""Picture of the report page for the README: `python -m tools.report_picture` writes docs/report.png.

`$TFDFD_CHROMIUM` names the browser, a Chromium or its headless shell.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import cv2

from tests.browser import Browser
from tfdfd.cli.main import main as tfdfd

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "report.png"
WIDTH, HEIGHT = 1120, 1240


def main() -> int:
    """Detects in the sample clips, opens the first input of the page, and writes the picture."""
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        page, picture = Path(folder, "page.html"), Path(folder, "page.png")
        tfdfd(["detect", "tfdfd/samples", "--report", str(page), "--quiet"])
        with Browser() as browser:
            browser.show(WIDTH, HEIGHT)
            browser.open(page.as_uri())
            browser.run("document.querySelector('.row details').open = true")
            browser.until("[...document.querySelectorAll('.shots img')].slice(0, 3).every((one) => one.complete)")
            browser.screenshot(picture)
        # The browser writes the whole page.
        cv2.imwrite(str(PICTURE), cv2.imread(str(picture))[:HEIGHT])
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
