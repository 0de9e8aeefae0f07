"""Drive every verb on a damaged run, and classify what it does."""

import contextlib
import io
import json
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from damages import Damage, read_tree, restore_run
from starlette.testclient import TestClient

import blendsearch as bs
from blendsearch.cli.main import main
from blendsearch.errors import BlendsearchError
from blendsearch.runs.run import open_run
from blendsearch.runs.run_facts import compute_owner
from blendsearch.runs.store import Store
from blendsearch.runs.table_layout import write_owner
from blendsearch.service.app import make_app
from blendsearch.service.security import Authenticator
from blendsearch.service.workspace import Workspace

TOKEN = "a-token-that-only-tests-know"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SECONDS = 120
"""A verb that takes longer hangs."""
COMMANDS = {
    "runs": "runs",
    "status": "status RUN",
    "front": "front RUN",
    "show": "show RUN best",
    "show dense": "show RUN 0",
    "compare": "compare RUN --controls none",
    "criteria": "criteria --run RUN",
    "criteria map": "criteria --run RUN --map OUT/map.svg",
    "report": "report RUN --to OUT/report.html",
    "export": "export RUN --to OUT/exported",
    "resume": "resume RUN --accept code,versions,device",
    "fork": "fork RUN --name forked --set search.evaluations=10 --set finals.picks=0 --set promote.share=0",
}
PAGES = {
    "api list": "/api/runs",
    "api status": "/api/runs/RUN",
    "api front": "/api/runs/RUN/front",
    "api network": "/api/runs/RUN/networks/best",
    "api course": "/api/runs/RUN/course",
    "api config": "/api/runs/RUN/config",
}
WRITING = ("resume",)
BOOKKEEPING = ("engine.json", "logs/", "run.json")
"""What resuming writes before it reads the checkpoint: the start, and differences that the user accepted."""
SLOW = ("report", "export", "resume", "fork", "criteria map")
VERBS = (*COMMANDS, "text", "python", *PAGES)
LATENCIES = ("dense_ms", "pruned_ms")
VOLATILE = (
    "quiet",
    "latency_measured",
    "seconds",
    "wall",
    "started",
    "changed",
    "left",
    "per_minute",
    "seconds_left",
    "answer",  # composed from the other keys, and a latency that is measured when a search ends
    "bytes",
    "path",
    "at",
    "dense_ms",
    "pruned_ms",
)
"""Keys whose values differ between two equal calls."""
MEASURED = {"fork": ("latency_ms",)}
"""Further ones, by verb."""


@dataclass(frozen=True)
class Answer:
    """The end of a verb: exit code, output, and errors; `crash` for an exception that no user can fix."""

    code: int
    out: Any = None
    err: str = ""
    crash: str = ""


@dataclass
class Drive:
    """A folder with run ``one``, a copy of `template` that is damaged, and the intact run ``other``."""

    folder: Path
    template: Path

    def __post_init__(self) -> None:
        self.runs, self.out = self.folder / "runs", self.folder / "out"
        self.runs.mkdir(parents=True, exist_ok=True)
        current = self.folder / "template"  # with the tables of this version, which opening a run for writing adds
        restore_run(self.template, current)
        Store(current / "run.sqlite").close()
        write_owner(current / "run.sqlite", compute_owner(open_run(self.folder, "template").provenance))
        self.template = current
        restore_run(self.template, self.runs / "other")
        self.client = TestClient(
            make_app(Workspace(self.runs), Authenticator(TOKEN), frozenset({"127.0.0.1"})),
            base_url="http://127.0.0.1:8484",
        )
        self.intact: dict[str, Answer] = {}

    def check(self, damage: Damage, verbs: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Drive each verb on the damaged run, and return by verb the kind of its end, with details.

        Kinds: same, refused, warned, plausible; and the failures crash, silent, unnamed (an error without the file's
        name), lines (not one line), changed (files changed by a refused or reading verb).
        """
        for verb in verbs:
            if verb not in self.intact:
                self._reset()
                self.intact[verb] = self.drive(verb, seconds=0)  # the first call imports
                assert not self.intact[verb].crash, self.intact[verb]
        found, before = {}, {"": ""}
        for verb in verbs:
            if read_tree(self.runs / "one") != before:
                self._reset()
                damage.apply(self.runs / "one")
                before = read_tree(self.runs / "one")
            found[verb] = self._classify(damage, verb, self.drive(verb), before)
        return found

    def _reset(self) -> None:
        restore_run(self.template, self.runs / "one")
        shutil.rmtree(self.runs / "forked", ignore_errors=True)
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)

    def _classify(self, damage: Damage, verb: str, answer: Answer, before: dict[str, Any]) -> tuple[str, str]:
        intact = self.intact[verb]
        if answer.crash:
            return "crash", answer.crash
        if answer.code not in (0, 2):
            return "crash", f"exit code {answer.code}"
        changes = _list_changes(before, read_tree(self.runs / "one"))
        if verb in WRITING:
            changes = [name for name in changes if answer.code and not name.startswith(BOOKKEEPING)]
        if changes:
            return "changed", ", ".join(changes)
        if answer.code:
            return self._classify_refusal(damage, answer, intact)
        if answer.out == intact.out and not intact.code:
            return "same", ""
        if _warns(answer, intact):
            return "warned", answer.err[-200:]
        return ("plausible" if damage.plausible else "silent"), _find_difference(intact.out, answer.out)

    def _classify_refusal(self, damage: Damage, answer: Answer, intact: Answer) -> tuple[str, str]:
        lines = [line for line in answer.err.splitlines() if not line.startswith(("warning", "checkpoint"))]
        if len(lines) != 1:
            return "lines", answer.err[-300:]
        name = Path(damage.file).name
        named = any(word in lines[0] for word in (name, Path(damage.file).parts[0], "run.json", "'one'", "runs/one"))
        if answer.err != intact.err and not named:
            return "unnamed", lines[0]
        return "refused", lines[0]

    def drive(self, verb: str, seconds: int = SECONDS) -> Answer:
        """Run `verb` in this process, for at most so many seconds; 0: without limit."""
        for leftover in (self.runs / "forked", self.out):
            shutil.rmtree(leftover, ignore_errors=True)
        self.out.mkdir(parents=True, exist_ok=True)
        action: Callable[[], Answer]
        if verb in PAGES:
            action = lambda: self._ask(PAGES[verb].replace("RUN", "one"))  # noqa: E731
        elif verb == "python":
            action = self._open
        elif verb == "text":
            action = lambda: self._command("front RUN", json_output=False)  # noqa: E731
        else:
            action = lambda: self._command(COMMANDS[verb])  # noqa: E731
        try:
            with _limit_time(seconds):
                return action()
        except BaseException as error:
            return Answer(1, crash=_describe_crash(error))

    def _command(self, words: str, json_output: bool = True) -> Answer:
        filled = words.replace("RUN", "one").replace("OUT", str(self.out)).split()
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main([*filled, "--runs", str(self.runs), *(["--json"] if json_output else [])])
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
        text = out.getvalue()
        if not code and json_output:
            measured = MEASURED.get(words.split()[0], ())
            return Answer(
                code, drop_volatile(_read_last(text, words.split()[0]), measured), err.getvalue() + _list_warnings(text)
            )
        return Answer(code, text, err.getvalue())

    def _ask(self, page: str) -> Answer:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always", UserWarning)
            answer = self.client.get(page, headers=BEARER)
        err = "\n".join(f"warning: {item.message}" for item in noted if item.category is UserWarning)
        if answer.status_code in (404, 409, 422):
            return Answer(2, err=answer.json()["error"])
        found = answer.text if page.endswith("config") else drop_volatile(answer.json())
        return Answer(0 if answer.status_code == 200 else 1, found, err)

    def _open(self) -> Answer:
        try:
            with contextlib.redirect_stderr(io.StringIO()) as err:
                run = bs.open("one", runs=self.runs)
                shown = [repr(run), run._repr_html_(), run.summary(), run.finished, str(run.name)]
                best = run.best()
                shown += [repr(best), best.kept(), best.details(), repr(run.knee()), repr(run.baselines())]
        except BlendsearchError as error:
            return Answer(2, err=str(error))
        return Answer(0, drop_volatile(json.loads(json.dumps(shown))), err.getvalue())


def _read_last(text: str, verb: str) -> Any:
    last = text if verb in ("front", "show", "runs", "criteria", "status") else text.splitlines()[-1]
    return drop_volatile(json.loads(last))


def _list_warnings(text: str) -> str:
    """Return the warnings among the JSON events of a search."""
    return "".join(f"{line}\n" for line in text.splitlines() if line.startswith('{"event": "warning"'))


def drop_volatile(value: Any, keys: Sequence[str] = VOLATILE) -> Any:
    """Return JSON without times."""
    if isinstance(value, dict):
        return {key: drop_volatile(item, keys) for key, item in value.items() if key not in keys}
    return [drop_volatile(item, keys) for item in value] if isinstance(value, list) else value


def _warns(answer: Answer, intact: Answer) -> bool:
    news = set(answer.err.splitlines()) - set(intact.err.splitlines())
    return bool(news) or "unreadable" in json.dumps(answer.out)


def _find_difference(one: Any, other: Any, place: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                return _find_difference(one.get(key), other.get(key), f"{place}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            if left != right:
                return _find_difference(left, right, f"{place}.{number}")
    return f"{place}: {str(one)[:60]} -> {str(other)[:60]}"


def _list_changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]


def _describe_crash(error: BaseException) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "blendsearch/" in name and "tests" not in name:
            place = f"{name.rpartition('blendsearch/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{place} {type(error).__name__}: {str(error)[:100]}"


@contextlib.contextmanager
def _limit_time(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
