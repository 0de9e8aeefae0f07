"""The directive ``drawn``: an inline SVG of ``pictures/``, so that its colours follow light and dark mode."""

from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

PICTURES = Path(__file__).parent / "pictures"


class Drawn(SphinxDirective):
    """A drawing with a caption. It scrolls on narrow screens, unless it is `small`."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"small": directives.flag}

    def run(self) -> list[nodes.Node]:
        path = PICTURES / self.arguments[0]
        self.env.note_dependency(str(path))
        drawing = path.read_text(encoding="utf-8")
        style = "drawn" if "small" in self.options else "drawn wide"
        return [
            nodes.raw("", f'<figure class="{style}"><div class="scroll">{drawing}</div><figcaption>', format="html"),
            *self.parse_content_to_nodes(),
            nodes.raw("", "</figcaption></figure>", format="html"),
        ]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("drawn", Drawn)
    return {"parallel_read_safe": True}
