"""Check that the built site loads nothing from other hosts. Plain links may lead anywhere."""

import re
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)", re.IGNORECASE
)
STYLED = re.compile(r"(?:url\(|@import\s)\s*[\"']?((?:https?:)?//[^\"')\s]+)")


def list_external_resources(folder: Path) -> list[str]:
    """List the resources that pages and styles in `folder` load from other hosts: ``file: address``."""
    found = []
    for path in sorted(folder.rglob("*")):
        rule = {".html": LOADED, ".css": STYLED}.get(path.suffix)
        if rule is not None:
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{path.name}: {address}" for address in rule.findall(text)]
    return found


def setup(app: Any) -> dict[str, bool]:
    def finished(app: Any, problem: Exception | None) -> None:
        if problem is None and (found := list_external_resources(Path(app.outdir))):
            raise ExtensionError(f"the site would load {found[0]}: keep it beside the pages")

    app.connect("build-finished", finished)
    return {"parallel_read_safe": True}
