"""Reference pages generated from the program: the config, the methods, the criteria, the command line, the events.

A page includes one with a line such as ``% generated: config``. A field without a description, and a description
without a field, end the build (and a test) with the name.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

RECORDED = Path(__file__).parent / "recorded"
FIELDS = Path(__file__).parent / "reference" / "fields.yaml"
"""Descriptions of the fields of the config, by section."""

PLACEHOLDER = re.compile(r"^% generated: (\w+)$", re.MULTILINE)


ARGUMENTS = {"RUN": "a run, by its id", "ID": "a job, by its id"}
"""Arguments without help texts."""


class DescriptionError(Exception):
    """The program and its description differ."""


# --- the config -------------------------------------------------------------------------------------------------------


def describe_config() -> str:
    """Describe every section of the config: its fields, their types, defaults and purposes."""
    from blendsearch.runs.config.schema import load_config_class

    schema = load_config_class().model_json_schema()
    described = yaml.safe_load(FIELDS.read_text(encoding="utf-8"))
    pages = [_format_section("At the top", "", schema, described.pop("top", {}))]
    shared: dict[str, dict[str, Any]] = {}
    for path, name, given in _iter_sections(schema):
        shared.setdefault(name, {})[path] = given
    for name, places in shared.items():
        title, first = ", ".join(f"`{path}`" for path in places), next(iter(places))
        pages.append(_format_section(title, first, schema["$defs"][name], described.pop(first, {})))
        pages.append(_format_other_defaults(schema["$defs"][name], places))
    if described:
        raise DescriptionError(f"{FIELDS.name} describes {next(iter(described))}, which the config does not have")
    return "\n".join(pages)


def _iter_sections(schema: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield each section below the top: its path, the name of its definition, its defaults there; outer ones first."""
    waiting = [("", schema)]
    while waiting:
        path, section = waiting.pop(0)
        for field, facts in section["properties"].items():
            if (name := _get_definition(facts)) is not None:
                inner = f"{path}.{field}".lstrip(".")
                yield inner, name, facts.get("default")
                waiting.append((inner, schema["$defs"][name]))


def _format_section(title: str, path: str, section: dict[str, Any], described: dict[str, str]) -> str:
    lines = [f"## {title}", ""]
    for field, facts in section["properties"].items():
        place = f"{path}.{field}".lstrip(".")
        if _get_definition(facts) is not None:
            if field in described:
                raise DescriptionError(f"{FIELDS.name} describes {place}, which is a section: its fields are described")
            continue
        words = described.pop(field, None)
        if not words:
            raise DescriptionError(f"{FIELDS.name} does not describe {place}")
        default = "" if field in section.get("required", []) or facts.get("default") is None else facts["default"]
        given = "; needed" if field in section.get("required", []) else ""
        if default != "":
            given = f"; default {_quote(default)}"
        lines += [
            f"`{field}`{{#{place.replace('.', '-')}}}",
            f": {words.strip()}",
            f"  *{_describe_type(facts)}{given}*",
            "",
        ]
    if described:
        raise DescriptionError(
            f"{FIELDS.name} describes {path}.{next(iter(described))}, which the config does not have"
        )
    return "\n".join(lines) + "\n"


def _format_other_defaults(section: dict[str, Any], places: dict[str, Any]) -> str:
    """Format the defaults of a section that differ between the places where it is used."""
    lines = []
    for path, given in places.items():
        usual = {field: facts.get("default") for field, facts in section["properties"].items()}
        other = {field: value for field, value in (given or {}).items() if value != usual[field]}
        if given is None and len(places) > 1:
            lines.append(f"- `{path}` is absent by default.")
        elif other:
            lines.append(f"- `{path}` has other defaults: {_quote(other)}")
    return "\n".join(lines) + "\n"


def _get_definition(facts: dict[str, Any]) -> str | None:
    """Get the name of the section that a field holds; None for other fields."""
    for item in (facts, *facts.get("anyOf", ()), *facts.get("allOf", ())):
        if "$ref" in item:
            return str(item["$ref"]).rpartition("/")[2]
    return None


def _describe_type(facts: dict[str, Any]) -> str:
    """Describe the type of a field."""
    if "anyOf" in facts:
        return " or ".join(dict.fromkeys(_describe_type(item) for item in facts["anyOf"] if item.get("type") != "null"))
    if "const" in facts:
        return _quote(facts["const"])
    if "enum" in facts:
        return ", ".join(map(_quote, facts["enum"]))
    kind = facts.get("type")
    if kind == "array":
        if "prefixItems" in facts:
            return "[" + ", ".join(["number"] * len(facts["prefixItems"])) + "]"
        return f"list of {_pluralize(_describe_type(facts['items']))}"
    if kind == "object":
        inner = facts.get("additionalProperties")
        return (
            f"mapping of names to {_pluralize(_describe_type(inner))}"
            if isinstance(inner, dict) and inner
            else "mapping"
        )
    if kind in ("integer", "number"):
        return " ".join(filter(None, ("whole number" if kind == "integer" else "number", _format_range(facts))))
    return {"string": "text", "boolean": "`true` or `false`"}.get(str(kind), "anything")


def _pluralize(words: str) -> str:
    return {"text": "names", "number": "numbers"}.get(words, words.replace("number ", "numbers ", 1))


def _format_range(facts: dict[str, Any]) -> str:
    low, above = facts.get("minimum"), facts.get("exclusiveMinimum")
    high, below = facts.get("maximum"), facts.get("exclusiveMaximum")
    top = f"{high:g}]" if high is not None else f"{below:g})" if below is not None else ""
    if low is not None:
        return f"in [{low:g}, {top}" if top else f"from {low:g}"
    if above is not None:
        return f"in ({above:g}, {top}" if top else f"above {above:g}"
    return f"up to {top}" if top else ""


def _quote(value: Any) -> str:
    if isinstance(value, str):
        return f"`{value}`"
    return f"`{_format_flow(value, 1000)}`"


def _format_flow(value: Any, width: int) -> str:
    """Format `value` as YAML in braces and brackets."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=width)
    return text.removesuffix("\n").removesuffix("\n...")


def describe_methods() -> str:
    """Describe the fields that each method sets."""
    from blendsearch.runs.config.method_registry import list_methods

    return "\n".join(
        f"### `method: {spec.name}`\n\n```yaml\n{_format_yaml(dict(spec.defaults))}```\n"
        for spec in list_methods()
        if spec.defaults
    )


def _format_yaml(tree: dict[str, Any]) -> str:
    """Format one section per line, with its fields in braces."""
    return "".join(f"{name}: {_format_flow(value, 90)}\n" for name, value in tree.items())


# --- the criteria -----------------------------------------------------------------------------------------------------


def describe_criteria() -> str:
    """Describe every criterion of blendsearch, by family."""
    from blendsearch.criteria.registry import CRITERIA, POOL_MODULES, load_pool

    load_pool()
    families: dict[str, list[Any]] = {}
    for item in CRITERIA.values():
        if (
            item.score.__module__.removeprefix("blendsearch.criteria.") in POOL_MODULES
        ):  # without those of installed packages
            families.setdefault(item.family, []).append(item)
    lines = []
    for family, items in families.items():
        lines += [
            f"## {family}",
            "",
            "{.wide}",
            "| criterion | what it computes | reads | cost | from |",
            "| --- " * 5 + "|",
        ]
        for item in items:
            reads = ", ".join(f"`{need}`" for need in sorted(item.needs)) or "weights"
            if not item.formula:
                raise DescriptionError(f"criterion {item.name} has no docstring")
            name = f"`{item.name}`{{#criterion-{item.name.replace('_', '-')}}}"
            lines.append(f"| {name} | {_escape(item.formula)} | {reads} | {item.cost} | {_escape(item.source)} |")
        lines.append("")
    return "\n".join(lines)


def _escape(words: str) -> str:
    """Format plain text of a docstring as a cell of a Markdown table."""
    parts = words.replace("``", "`").split("`")
    for place, part in enumerate(parts):
        quoted = part if place % 2 else re.sub(r"([\\*_<>\[\]$])", r"\\\1", part)
        parts[place] = quoted.replace("|", r"\|")
    return "`".join(parts)


# --- the command line -------------------------------------------------------------------------------------------------


def describe_cli() -> str:
    """Describe every verb with its arguments, as ``--help`` prints them."""
    from blendsearch.cli.parser import make_parser

    (verbs,) = (item for item in make_parser()._actions if isinstance(item, argparse._SubParsersAction))
    return "\n".join(_format_verb(name, made) for name, made in verbs.choices.items())


def _format_verb(name: str, made: Any) -> str:
    if not made.description:
        raise DescriptionError(f"verb {name} has no description")
    made.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=88)  # of the usage, not of the help
    usage = "\n".join(line[len("usage: ") :] for line in made.format_usage().rstrip().splitlines())
    first, rest = made.description[0].upper(), made.description[1:]
    lines = [f"## `{name}`", "", f"{first}{rest}.", "", "```text", usage, "```", ""]
    shown = [action for action in made._actions if action.help is not argparse.SUPPRESS]
    for action in sorted(shown, key=lambda action: (bool(action.option_strings), action.dest == "runs")):
        if isinstance(action, argparse._HelpAction):
            continue
        called = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.option_strings and action.nargs != 0:
            called += f" {action.metavar or action.dest.upper()}"
        words = action.help or ARGUMENTS.get(str(action.metavar))
        if not words and action.choices:
            words = f"one of {', '.join(map(str, action.choices))}"
        if not words:
            raise DescriptionError(f"verb {name}: {called} has no help")
        needed = "; needed" if action.required and action.option_strings else ""
        lines += [f"`{called}`", f": {_escape(words.replace('%%', '%'))}{needed}", ""]
    return "\n".join([*lines, "```sh", *_format_examples(made.examples), "```", ""])


def _format_examples(examples: Iterable[tuple[str, str]]) -> list[str]:
    return [line for command, purpose in examples for line in (f"# {purpose}", command)]


# --- the events -------------------------------------------------------------------------------------------------------


def describe_events() -> str:
    """Describe every event with its fields, in the order in which a search reports them."""
    from blendsearch import events

    kinds = [item for item in vars(events).values() if isinstance(item, type) and issubclass(item, events.Event)]
    lines = []
    for item in kinds:
        if "kind" not in vars(item) or item is events.MethodProgress:
            continue
        words = " ".join((item.__doc__ or "").split("Attributes")[0].split())
        named = [field.name for field in dataclasses.fields(item) if field.name != "metrics"]
        fields = ", ".join(f"`{name}`" for name in named) or "none"
        lines += [f"`{item.kind}`", f": {_escape(words)}", f"  Fields: {fields}.", ""]
    lines += [
        "Methods report their own progress with `done`, `of` and further fields; the event has the method's name.",
        "",
    ]
    return "\n".join(lines)


# --- recorded commands ------------------------------------------------------------------------------------------------


def describe_recorded() -> str:
    """Describe the times that docs/recorded/record.py measured, before and now."""
    times = {name: json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8")) for name in ("before", "after")}
    rows = {
        "a misspelt criterion is named": ("typo", "end"),
        "first line of a search": ("search", "first line"),
        "first sentence with a network": ("search", "sentence"),
        "end of the search, with training": ("search", "end"),
        "the results again, by `front`": ("front", "end"),
    }
    lines = ["| seconds until | before | now | now, of a processor |", "| --- " * 4 + "|"]
    for title, (command, what) in rows.items():
        before, now = (times[name][command][what] for name in ("before", "after"))
        lines.append(f"| {title} | {'never' if before is None else before[0]} | {now[0]} | {now[1]} |")
    return "\n".join([*lines, "", f"Now: {times['after']['machine']}. Before: {times['before']['machine']}.", ""])


PAGES = {
    "recorded": describe_recorded,
    "config": describe_config,
    "methods": describe_methods,
    "criteria": describe_criteria,
    "cli": describe_cli,
    "events": describe_events,
}


def fill_page(text: str) -> str:
    """Replace the placeholders in `text` by generated pages."""
    return PLACEHOLDER.sub(lambda match: PAGES[match[1]](), text)


def setup(app: Any) -> dict[str, bool]:
    def read(app: Any, page: str, source: list[str]) -> None:
        source[0] = fill_page(source[0])

    def outdated(app: Any, env: Any, *changes: set[str]) -> list[str]:
        """List the pages with placeholders: the program may have changed although the page has not."""
        return [
            page for page in env.found_docs if PLACEHOLDER.search(Path(env.doc2path(page)).read_text(encoding="utf-8"))
        ]

    app.connect("source-read", read)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True}
