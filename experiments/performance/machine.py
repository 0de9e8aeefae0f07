"""The machine on which a figure was measured."""

import os
import platform


def describe_machine() -> str:
    """Describe the cores, the load at this moment, and the version of Python."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
