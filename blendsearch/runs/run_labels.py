"""Labels that people give a run: tags, and whether it is archived. They change nothing in its results."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from blendsearch.errors import ConfigError
from blendsearch.runs.checkpoint import write_atomically
from blendsearch.runs.decoding import check_type
from blendsearch.runs.files import refuse_links
from blendsearch.runs.parsing import read_json

LABELS_FILE = "labels.json"
MAX_TAGS = 20
MAX_BYTES = 64_000
TAG_PATTERN = r"[^\W_][\w .:=+/-]{0,39}"
_TAG = re.compile(TAG_PATTERN)


class _LabelFacts(TypedDict):
    tags: list[str]
    archived: bool


@dataclass(frozen=True)
class Labels:
    """The labels of a run: its tags in alphabetical order; lists hide it if `archived`."""

    tags: tuple[str, ...] = ()
    archived: bool = False


def read_labels(path: Path) -> Labels:
    """Read the labels of the run directory `path`; none where the file is missing or damaged."""
    try:
        facts: _LabelFacts = read_json(path / LABELS_FILE, max_bytes=MAX_BYTES)
        check_type(facts, _LabelFacts)
        return Labels(_normalize_tags(facts["tags"]), facts["archived"])
    except (OSError, ValueError, RecursionError, ConfigError):
        return Labels()


def change_labels(
    path: Path, *, add: Sequence[str] = (), remove: Collection[str] = (), archived: bool | None = None
) -> Labels:
    """Add and remove tags of the run directory `path`, archive it or bring it back; returns its labels.

    Raises ConfigError for a tag that is not allowed or one too many, RunError when the labels cannot be written.
    """
    known = read_labels(path)
    tags = _normalize_tags([*(tag for tag in known.tags if tag not in remove), *add])
    labels = Labels(tags, known.archived if archived is None else archived)
    if labels != known:
        _write_labels(path, labels)
    return labels


def _write_labels(path: Path, labels: Labels) -> None:
    refuse_links(path, path.name)
    write_atomically(path / LABELS_FILE, json.dumps({"tags": labels.tags, "archived": labels.archived}, indent=1))


def _normalize_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Sort tags and drop repetitions. Raises ConfigError for one that is not allowed, and for too many."""
    found = sorted({" ".join(tag.split()) for tag in tags})
    for tag in found:
        if not _TAG.fullmatch(tag):
            raise ConfigError(
                f"{tag[:60]!r} is not a tag: expected 1 to 40 letters, digits, spaces or . : = + / - _, with a letter "
                "or digit first"
            )
    if len(found) > MAX_TAGS:
        raise ConfigError(f"a run has at most {MAX_TAGS} tags: remove one first")
    return tuple(found)
