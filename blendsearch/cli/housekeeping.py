"""The verbs around searches: delete or tag a run, print the schema of configs, print a completion script."""

import argparse
import json
import sys

from blendsearch.errors import ConfigError
from blendsearch.json_output import format_json


def delete(arguments: argparse.Namespace) -> None:
    """Delete runs, after a question on a terminal; a run that is being searched is refused."""
    from blendsearch.runs.deletion import check_deletable, delete_run, find_run
    from blendsearch.runs.latest import resolve_name

    names = dict.fromkeys(resolve_name(arguments.runs, name) for name in arguments.names)
    found = [find_run(arguments.runs, name) for name in names]
    for path in found:
        check_deletable(path)
    if not arguments.yes and not _is_confirmed([path.name for path in found]):
        raise ConfigError("nothing was deleted: confirm with y, or give --yes")
    for path in found:
        delete_run(path)
        if not arguments.json:
            print(f"deleted {path}")
    if arguments.json:
        print(format_json({"deleted": [path.name for path in found]}))


def _is_confirmed(names: list[str]) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("deleting asks for a confirmation, and there is no terminal: give --yes")
    print(f"delete {', '.join(names)} with all results? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def tag(arguments: argparse.Namespace) -> None:
    """Add and remove tags of a run, archive it or bring it back, and print its labels."""
    from blendsearch.runs.deletion import find_run
    from blendsearch.runs.run_labels import change_labels

    path = find_run(arguments.runs, arguments.run)
    labels = change_labels(path, add=arguments.tags, remove=arguments.remove, archived=arguments.archived)
    if arguments.json:
        print(format_json({"run": path.name, "tags": labels.tags, "archived": labels.archived}))
        return
    print(f"{path.name}: {', '.join(labels.tags) or 'no tags'}{', archived' if labels.archived else ''}")


def print_schema(arguments: argparse.Namespace) -> None:
    """Print the JSON Schema of configs, or write it to a file."""
    from blendsearch.runs.config.json_schema import make_json_schema

    text = json.dumps(make_json_schema(), indent=1)
    if arguments.out is None:
        print(text)
        return
    try:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{arguments.out} cannot be written: {error.strerror or error}") from error
    print(f"schema: {arguments.out}; the first line of a config names it to editors:")
    print(f"# yaml-language-server: $schema={arguments.out}")


def print_completion(arguments: argparse.Namespace) -> None:
    """Print the completion script of a shell."""
    from blendsearch.cli.completion import make_completion

    print(make_completion(arguments.shell, arguments.make_parser()), end="")
