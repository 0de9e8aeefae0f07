"""Help of verbs: groups of verbs and options, examples at the end, colours on a terminal.

rich is imported only when help is printed on a terminal; elsewhere, help is plain text with the same words.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence

PLAIN_TERMINALS = ("dumb", "unknown")


class VerbParser(argparse.ArgumentParser):
    """A parser whose help has the groups ``place`` and ``output`` after the options, then examples.

    Attributes
    ----------
    place: the group of options that say where runs, data and machines are.
    output: the group of options about what is printed and written.
    examples: commands with their purposes.
    """

    def __init__(self, *, examples: Sequence[tuple[str, str]] = (), **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._positionals.title = "arguments"
        self.place = self.add_argument_group("place")
        self.output = self.add_argument_group("output")
        self.examples = tuple(examples)

    def format_help(self) -> str:
        """Format the help, in colours where standard output is a terminal that shows them."""
        formatter = _make_formatter(self.prog)
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for group in self._action_groups:
            _add_section(formatter, group.title, group._group_actions)
        _add_section(formatter, "examples", [_Example(command, purpose) for command, purpose in self.examples])
        return formatter.format_help()


class _Example(argparse.Action):
    """A command in place of an argument, and its purpose in place of the help."""

    def __init__(self, command: str, purpose: str) -> None:
        super().__init__([], dest="", metavar=command, help=purpose.replace("%", "%%"))


def add_verb_group(
    parser: VerbParser,
    verbs: "argparse._SubParsersAction[VerbParser]",
    title: str,
    adders: Iterable[Callable[["argparse._SubParsersAction[VerbParser]"], None]],
) -> None:
    """Add verbs, and list them in the help of `parser` below `title`; argparse lists all verbs in one group."""
    parser._positionals._group_actions = []
    known = len(verbs._choices_actions)
    for add in adders:
        add(verbs)
    parser.add_argument_group(title)._group_actions.extend(verbs._choices_actions[known:])


def add_hidden_alias(parser: argparse.ArgumentParser, alias: str, option: str) -> None:
    """Accept `alias`, an earlier spelling of `option`, without showing it."""
    known = parser._option_string_actions[option]
    parser.add_argument(
        alias,
        dest=known.dest,
        default=argparse.SUPPRESS,
        type=known.type,  # type: ignore[arg-type]
        nargs=known.nargs,
        const=known.const,
        metavar=known.metavar,
        help=argparse.SUPPRESS,
    )


def _add_section(formatter: argparse.HelpFormatter, title: str | None, arguments: Iterable[argparse.Action]) -> None:
    formatter.start_section(title)
    formatter.add_arguments(arguments)
    formatter.end_section()


def _make_formatter(prog: str) -> argparse.HelpFormatter:
    if not _shows_colours():
        return argparse.HelpFormatter(prog)
    from rich_argparse import RichHelpFormatter

    class Formatter(RichHelpFormatter):
        group_name_formatter = str
        help_markup = False
        text_markup = False

    return Formatter(prog)


def _shows_colours() -> bool:
    """Return True where standard output is a terminal with colours, and nobody switched them off."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") in PLAIN_TERMINALS:
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()
