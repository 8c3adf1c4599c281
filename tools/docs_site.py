"""MkDocs hook that adds pages from outside `docs/` to the site.

The README becomes the home page. Links between both places are rewritten; links to files that are not pages lose their
target.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"index.md": "README.md", "tf_serving.md": "tf_serving/README.md", "changelog.md": "CHANGELOG.md"}
_LINK = re.compile(r"(?P<text>\[[^\]]*\]|<img [^>]*?src=)(?P<open>\(|\")(?P<target>[^)\"\s]+)(?P<close>\)|\")")


def on_files(files, config):
    """Adds the pages."""
    for page, source in PAGES.items():
        text = relinked((ROOT / source).read_text("utf-8"), ROOT / source)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites the links of a page in `docs/`."""
    return markdown if page.file.src_uri in PAGES else relinked(markdown, ROOT / "docs" / page.file.src_uri)


def relinked(text: str, source: Path) -> str:
    """The text with links as they are on the site."""
    here = source.parent if source.is_relative_to(ROOT / "docs") else ROOT / "docs"
    places = {(ROOT / path).resolve(): page for page, path in PAGES.items()}

    def place(found):
        target, anchor = (*found["target"].split("#", 1), "")[:2]
        if not target or "://" in target:
            return found[0]
        path = (source.parent / target).resolve()
        if path in places:
            target = Path(os.path.relpath(ROOT / "docs" / places[path], here)).as_posix()
        elif path.is_relative_to(ROOT / "docs"):
            target = Path(os.path.relpath(path, here)).as_posix()
        else:
            return found["text"].strip("[]") if found["open"] == "(" else found[0]
        return f"{found['text']}{found['open']}{target}{'#' if anchor else ''}{anchor}{found['close']}"

    return _LINK.sub(place, text)
