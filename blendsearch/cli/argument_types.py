"""Types of arguments: functions that parse a word of the command line, or raise with what was expected."""

import argparse


def parse_count(text: str) -> int:
    """Parse a whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def parse_factors(text: str) -> tuple[float, ...]:
    """Parse compression factors above 1, separated by commas."""
    try:
        found = tuple(sorted({float(item.removesuffix("x")) for item in text.split(",")}))
    except ValueError:
        found = ()
    if not found or not all(1 < factor <= 10_000 for factor in found):
        raise argparse.ArgumentTypeError(f"expected numbers above 1, separated by commas, such as 2,4,8; got {text!r}")
    return found


def parse_share(text: str) -> float:
    """Parse a share above 0, at most 1."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and at most 1, got {text!r}")
    return found


def parse_port(text: str) -> int:
    """Parse the number of a port, 0 included."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return number
