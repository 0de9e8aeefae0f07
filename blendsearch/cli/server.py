"""The verb serve: the live page, and the API that other machines' verbs ask."""

import argparse
from pathlib import Path
from typing import Any

DEFAULT_PORT = 8484


def serve(arguments: argparse.Namespace) -> None:
    from blendsearch.service.serve import serve

    serve(arguments.runs, arguments.host, arguments.port, arguments.data, tuple(arguments.allow_host), arguments.json)


def add_serve_verb(add_verb: Any) -> None:
    """Add the verb by `verb`, which makes a parser of a name, a function and a help text."""
    parser = add_verb("serve", serve, "show runs live in a browser, and answer other machines' --server")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=_parse_port, default=DEFAULT_PORT, metavar="N", help=f"0: any free (default: {DEFAULT_PORT})"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="where the page's configs may name files (default: none)"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name this server is asked by"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object with url and token instead of text")


def add_server_option(parser: argparse.ArgumentParser) -> None:
    """Let a verb be asked of a server."""
    parser.add_argument("--server", metavar="URL", help="ask this `blendsearch serve`; its token in BLENDSEARCH_TOKEN")


def _parse_port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65536:
        raise ValueError(text)
    return number
