"""A matplotlib figure as a picture file, or as SVG inside a page whose colours the page decides."""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, TypeVar, cast
from xml.etree import ElementTree

import matplotlib
import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from blendsearch.results.report.output_file import open_draft

GROUND, INK, SOFT, RULE, FAINT = "#ffffff", "#1b1f24", "#59636e", "#d5dbe1", "#e9edf0"
BLUE, VERMILLION, ORANGE, GREEN, PURPLE = "#0072b2", "#c65600", "#b97f00", "#007f5f", "#a8507f"
SEEN, ON_BLUE = "#7d8791", "#fffffe"
VARIABLES = {
    GROUND: "ground",
    INK: "ink",
    SOFT: "soft",
    RULE: "rule",
    FAINT: "faint",
    BLUE: "blue",
    VERMILLION: "vermillion",
    ORANGE: "orange",
    GREEN: "green",
    PURPLE: "purple",
    SEEN: "seen",
    ON_BLUE: "on-blue",
}
"""The CSS variable of each colour. A page that sets none of them gets these colours."""

UNIT = 1 / 72
"""Inches of a user unit: figures are laid out in units, and one unit is a pixel of a page."""
PNG_DPI = 144

HALO, WALK = "halo", "walk"
"""Beginnings of the gid of texts with a rim of the ground's colour, and of points that arrow keys walk along."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "blendsearch",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}
_lock = RLock()
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Mark(NamedTuple):
    """A shape to point at: its tooltip, and the network that it stands for."""

    tip: str
    id: int | None = None


@dataclass(frozen=True)
class Drawing:
    """A figure with its text alternative.

    Attributes
    ----------
    name: unique on a page.
    marks: the shapes to point at, in the order of drawing, by the gid of their artist.
    links: ids of networks whose shapes link to ``#network-ID``.
    tips: whether shapes carry tooltips; without them a page makes its own from their ``data-id``.
    """

    figure: Figure
    name: str
    title: str
    description: str
    marks: Mapping[str, Sequence[Mark]] = field(default_factory=dict)
    links: frozenset[int] = frozenset()
    tips: bool = True

    def __html__(self) -> str:
        return self.to_svg()

    @property
    def width(self) -> float:
        return float(self.figure.get_figwidth() / UNIT)

    def to_svg(self, *, standalone: bool = False) -> str:
        """SVG with text as text and colours as CSS variables; `standalone` adds what a file of its own needs."""
        with use_drawing_style():
            buffer = io.BytesIO()
            background = GROUND if standalone else "none"
            self.figure.savefig(buffer, format="svg", facecolor=background, metadata={"Date": None, "Creator": None})
        root = _SvgConverter(self, fallback=standalone).convert(ElementTree.fromstring(buffer.getvalue()))
        if standalone:
            root.set("xmlns", "http://www.w3.org/2000/svg")
            root.set("font-family", "system-ui, DejaVu Sans, sans-serif")
        else:
            root.set("style", f"max-width:{self.width:g}px")
        return ElementTree.tostring(root, encoding="unicode")

    def save(self, path: Path) -> None:
        """Write png, svg or pdf, by the suffix of `path`. Raises RunError when it cannot be written."""
        kind = path.suffix[1:].lower()
        with open_draft(path) as draft, use_drawing_style():
            if kind == "svg":
                draft.write_text(self.to_svg(standalone=True) + "\n", encoding="utf-8")
            else:
                dates = {"CreationDate": None} if kind == "pdf" else None
                self.figure.savefig(draft, format=kind, dpi=PNG_DPI, facecolor="white", metadata=dates)


@contextmanager
def use_drawing_style() -> Iterator[None]:
    """Set matplotlib's parameters, whatever a user's matplotlibrc has; one thread at a time, as they are global."""
    with _lock, matplotlib.style.context("default"), matplotlib.rc_context(_STYLE):
        yield


def styled(function: _Function) -> _Function:
    """Run a drawing function under `use_drawing_style`."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with use_drawing_style():
            return function(*args, **kwargs)

    return cast(_Function, run)


def make_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` user units, which belongs to no pyplot state."""
    figure = Figure(figsize=(width * UNIT, height * UNIT), facecolor="none")
    FigureCanvasAgg(figure)
    return figure


_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_LONG_NUMBER = re.compile(r"-?\d+\.\d+")
_SPACES = re.compile(r"(?<=[A-Za-z])\s+|\s+(?=[A-Za-z])")
_NO_ROTATION = re.compile(r"rotate\(-?0[ )]")
_DEFAULTS = {"opacity": "1", "fill-opacity": "1", "stroke-opacity": "1", "stroke-width": "1", "text-anchor": "start"}
_SHAPES = frozenset({"path", "use"})
_STYLES = (
    "fill",
    "fill-opacity",
    "stroke",
    "stroke-width",
    "stroke-dasharray",
    "stroke-opacity",
    "opacity",
    "text-anchor",
)


class _SvgConverter:
    """Turns matplotlib's SVG into a small one without style attributes, which a page's policy may forbid."""

    def __init__(self, drawing: Drawing, *, fallback: bool) -> None:
        """With `fallback`, colours have a value for where no page sets the variables."""
        self._drawing = drawing
        self._fallback = fallback
        self._ids: dict[str, str] = {}
        self._styles: dict[str, dict[str, str]] = {}

    def convert(self, source: ElementTree.Element) -> ElementTree.Element:
        drawing = self._drawing
        names = f"{drawing.name}-title", f"{drawing.name}-description"
        box = source.get("viewBox", "")
        root = ElementTree.Element("svg", {"viewBox": box, "role": "group" if drawing.links else "img"})
        root.set("aria-labelledby", names[0])
        root.set("aria-describedby", names[1])
        ElementTree.SubElement(root, "title", {"id": names[0]}).text = drawing.title
        ElementTree.SubElement(root, "desc", {"id": names[1]}).text = drawing.description
        for child in source:
            self._copy(child, root)
        return root

    def _copy(self, element: ElementTree.Element, parent: ElementTree.Element) -> None:
        tag = element.tag.removeprefix(_SVG)
        if tag in ("metadata", "style", "clipPath") or _is_invisible(element):
            return
        if tag == "g":
            self._copy_group(element, parent)
            return
        copied = ElementTree.SubElement(parent, tag, self._convert_attributes(element))
        copied.text = element.text if tag == "text" else None
        for child in element:
            self._copy(child, copied)
        if tag == "defs" and not len(copied):
            parent.remove(copied)

    def _copy_group(self, element: ElementTree.Element, parent: ElementTree.Element) -> None:
        """Copy a group's children, and the group itself where it has marks or a meaning."""
        name = element.get("id", "")
        marks = self._drawing.marks.get(name)
        place = parent
        if marks is not None:
            place = ElementTree.SubElement(parent, "g", {"class": "marks walk" if name.startswith(WALK) else "marks"})
        elif name.startswith(HALO):
            halo = {"paint-order": "stroke", "stroke": self._name_color(GROUND), "stroke-width": "3"}
            place = ElementTree.SubElement(parent, "g", halo)
        for child in element:
            self._copy(child, place)
        if marks is not None:
            self._attach(place, marks)

    def _attach(self, group: ElementTree.Element, marks: Sequence[Mark]) -> None:
        """Give the shapes of a group their tooltips, ids and links, and move what they share to the group."""
        shapes = [child for child in group if child.tag in _SHAPES]
        for name in _STYLES:
            values = {shape.get(name) for shape in shapes}
            if len(values) == 1 and (value := values.pop()) is not None:
                group.set(name, value)
                for shape in shapes:
                    del shape.attrib[name]
        for shape, mark in zip(shapes, marks, strict=True):
            if mark.id is not None:
                shape.set("data-id", str(mark.id))
            if self._drawing.tips and mark.tip:
                ElementTree.SubElement(shape, "title").text = mark.tip
            if mark.id in self._drawing.links:
                place = list(group).index(shape)
                link = ElementTree.Element("a", {"href": f"#network-{mark.id}", "tabindex": "-1"})
                group[place] = link
                link.append(shape)

    def _convert_attributes(self, element: ElementTree.Element) -> dict[str, str]:
        found: dict[str, str] = {}
        shared = "id" in element.attrib
        for name, value in element.attrib.items():
            if name == "style":
                # a shape that others use has its style from them
                found |= {} if shared else self._convert_style(value)
            elif name == "id":
                found["id"] = self._rename(value)
            elif name == f"{_XLINK}href":
                found["href"] = f"#{self._rename(value[1:])}"
            elif name == "transform":
                found |= _convert_transform(value)
            elif name == "d":
                found["d"] = _SPACES.sub("", _round_numbers(value, 2 if shared else 1))
            elif name in ("x", "y"):
                found[name] = f"{round(float(value), 1):g}"
            elif name != "clip-path":
                found[name] = value
        return found

    def _convert_style(self, style: str) -> dict[str, str]:
        """A style attribute as presentation attributes; those of ten thousand dots are the same."""
        if style not in self._styles:
            self._styles[style] = dict(self._list_attributes(style))
        return self._styles[style]

    def _list_attributes(self, style: str) -> Iterator[tuple[str, str]]:
        """The attributes of a style that have an effect."""
        for item in filter(None, (part.strip() for part in style.split(";"))):
            name, _, value = item.partition(": ")
            if name == "font-size":
                yield name, value.removesuffix("px")
            elif name == "font-weight":
                yield name, "600"
            elif name in ("fill", "stroke"):
                yield name, self._name_color(value)
            elif name in _STYLES and _DEFAULTS.get(name) != value:
                yield name, _round_numbers(value, 2)

    def _name_color(self, color: str) -> str:
        name = VARIABLES.get(color)
        return color if name is None else f"var(--{name}, {color})" if self._fallback else f"var(--{name})"

    def _rename(self, name: str) -> str:
        return self._ids.setdefault(name, f"{self._drawing.name}-{len(self._ids)}")


def _is_invisible(element: ElementTree.Element) -> bool:
    """Return whether a shape has neither a fill nor a line, as the backgrounds have."""
    style = element.get("style", "")
    return element.tag == f"{_SVG}path" and "fill: none" in style and "stroke: " not in style and not element.get("id")


def _convert_transform(value: str) -> dict[str, str]:
    """The transformation as an attribute; none for a rotation by nothing."""
    value = _round_numbers(value, 1)
    return {} if _NO_ROTATION.match(value) else {"transform": value}


def _round_numbers(text: str, digits: int) -> str:
    return _LONG_NUMBER.sub(lambda match: f"{round(float(match[0]), digits):g}", text.replace("\n", " ").strip())
