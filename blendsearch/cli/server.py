"""The verb serve: the live page and its HTTP API."""

import argparse

DEFAULT_PORT = 8484


def serve(arguments: argparse.Namespace) -> None:
    from blendsearch.service.serve import serve

    serve(arguments.runs, arguments.host, arguments.port, arguments.data, tuple(arguments.allow_host), arguments.json)
