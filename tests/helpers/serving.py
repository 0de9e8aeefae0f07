"""A real `blendsearch serve` in a separate process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from blendsearch.errors import RunError
from blendsearch.service.processes import ProcessManager

TOKEN = "a-token-that-only-tests-know"


class Served:
    """Address and API of a server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: Any = None) -> Any:
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.url}/api/{path}", data, headers), timeout=60) as answer:
            return json.loads(answer.read())

    def until(self, path: str, holds: Callable[[Any], bool], seconds: float = 300.0) -> Any:
        """Poll `path` until the answer `holds`, and return it."""
        end = time.monotonic() + seconds
        while True:
            found = self.ask(path)
            if holds(found):
                return found
            assert time.monotonic() < end, found
            time.sleep(0.1)


@contextmanager
def served(runs: Path, *words: str, leave: bool = False) -> Iterator[Served]:
    """Serve `runs`; in the end stop all started processes, unless asked to `leave` them."""
    command = [sys.executable, "-m", "blendsearch", "serve", "--runs", str(runs), "--port", "0", "--json", *words]
    environment = {**os.environ, "BLENDSEARCH_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts["token"] == TOKEN
        yield Served(facts["url"])
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()
        children = ProcessManager(runs)
        for name in () if leave else children.list_names():
            with suppress(RunError):  # it has ended already
                children.stop(name)
