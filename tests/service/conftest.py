"""A browser for the tests of pages, where playwright is installed. A module has its own fixture `server`."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from browsing import open_browser

    with open_browser() as found:
        yield found


@pytest.fixture
def at(browser: Any, server: Any) -> Iterator[Any]:
    from browsing import open_pages

    with open_pages(browser, server) as opened:
        yield opened
