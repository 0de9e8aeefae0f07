"""The JSON API and the pages, as one ASGI application."""

import io
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware

from blendsearch.errors import BlendsearchError, ConfigError
from blendsearch.runs.config.loading import DIGITS, dump_config
from blendsearch.service.config_policy import LARGEST_CONFIG
from blendsearch.service.events import Watch, compact, events, list_events
from blendsearch.service.security import App, Guard, Keys, session_of
from blendsearch.service.workspace import Missing, Place

PAGES = Path(__file__).with_name("pages")
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

RunName = Annotated[str, InPath(pattern="^[a-z0-9][a-z0-9-]{0,63}$", description="the run's id")]
What = Annotated[str, InPath(pattern="^(best|knee|[0-9]{1,9})$", description="best, knee, or the id of a network")]
Override = Annotated[str, Field(max_length=2000, description="section.field=value")]
Overrides = Annotated[list[Override], Field(max_length=100)]


class Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Why a request was refused, in one line."""

    error: str


class RunRow(BaseModel):
    """A run at a glance. `state` is running, starting, stopped or finished, or says why it failed or is unreadable."""

    run: str
    model: str
    data: str
    budget: str
    evaluations: int
    asked: int
    best_val_accuracy: float | None
    state: str


class Started(BaseModel):
    """The run that a process was started for."""

    run: str


class Stopped(BaseModel):
    """`stopped` is false while the process still ends an evaluation that it cannot leave."""

    run: str
    stopped: bool


class Export(BaseModel):
    """How an export stands, and what its process said last."""

    network: int
    state: Literal["missing", "going", "done", "failed"]
    said: list[str]


class Token(Given):
    token: str = Field(max_length=500, description="the token that the server printed when it started")


class Search(Given):
    """A search to start. Names of this server only: see the README on what configs from a network may have."""

    config: str = Field(max_length=LARGEST_CONFIG, description="YAML, as for `blendsearch search`")
    name: str | None = Field(None, pattern="^[a-z0-9][a-z0-9-]{0,63}$", description="the run's id")
    set: Overrides = []


class Changes(Given):
    set: Overrides = []


class Fork(Changes):
    name: str | None = Field(None, pattern="^[a-z0-9][a-z0-9-]{0,63}$", description="the new run's id")


class Pick(Given):
    pick: str = Field("best", pattern="^(best|knee|[0-9]{1,9})$", description="best, knee, or the id of a network")


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in statuses}


def _content(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {kind: {"schema": {"type": "string"}}}}}


def make_app(place: Place, keys: Keys, hosts: frozenset[str], cookie: str = "blendsearch") -> App:
    """The application. `hosts` are the names it answers to, `cookie` the name of the one that holds a session."""
    app = FastAPI(
        title="blendsearch",
        version="1",
        description="Searches for really smaller CNNs: their runs, found networks and files. "
        "Every answer to a refused request is a Problem.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page would load its scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses=_problems(400, 401, 403, 413, 421, 422),
    )
    app.include_router(_session(keys, cookie))
    app.include_router(_reading(place))
    app.include_router(_changing(place))
    app.include_router(_pages())

    @app.exception_handler(BlendsearchError)
    async def _ours(request: Request, error: BlendsearchError) -> JSONResponse:
        status = 404 if isinstance(error, Missing) else 422 if isinstance(error, ConfigError) else 409
        return JSONResponse({"error": " ".join(str(error).split())}, status)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        places = (".".join(str(part) for part in item["loc"]) + f": {item['msg']}" for item in error.errors())
        return JSONResponse({"error": "; ".join(places)[:500]}, 422)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    app.add_middleware(GZipMiddleware, minimum_size=1000)
    return Guard(app, keys, hosts, cookie)


def _session(keys: Keys, cookie: str) -> APIRouter:
    router = APIRouter(tags=["session"])

    @router.post("/api/session", status_code=204, responses=_problems(401))
    def exchange_the_token_for_a_cookie(given: Token) -> Response:
        if not keys.admits(given.token):
            raise HTTPException(401, "the token is wrong: the server printed it when it started")
        answer = Response(status_code=204)
        answer.set_cookie(cookie, keys.new_session(), httponly=True, samesite="strict", path="/")
        return answer

    @router.delete("/api/session", status_code=204)
    def end_the_session(request: Request) -> Response:
        keys.end(session_of(request.headers.get("cookie", ""), cookie))
        answer = Response(status_code=204)
        answer.delete_cookie(cookie, path="/", httponly=True, samesite="strict")
        return answer

    return router


def _reading(place: Place) -> APIRouter:
    from blendsearch.results.report.report import write_report
    from blendsearch.results.status import status
    from blendsearch.results.summary import summary

    router = APIRouter(tags=["reading"])
    missing = _problems(404, 409)
    text, page, stream = (_content(kind) for kind in ("text/plain", "text/html", "text/event-stream"))

    @router.get("/api/runs", response_model=list[RunRow])
    def list_the_runs() -> Any:
        return place.listing()

    @router.get("/api/events", response_class=StreamingResponse, responses=stream)
    async def follow_the_list_of_runs() -> StreamingResponse:
        """Server-sent events: the whole list, at once and whenever it has changed."""
        return StreamingResponse(list_events(place), media_type="text/event-stream")

    @router.get("/api/example", response_class=Response, responses=text)
    def read_the_example_config() -> Response:
        return Response(DIGITS.read_text(encoding="utf-8"), media_type="text/plain")

    @router.get("/api/runs/{run}", responses=missing)
    def see_how_a_search_is_going(run: RunName) -> dict[str, Any]:
        """As `blendsearch status --json`."""
        return status(place.open(run))

    @router.get("/api/runs/{run}/front", responses=missing)
    def see_what_a_run_found(run: RunName) -> dict[str, Any]:
        """As `blendsearch front --json`, with notes on how the data was split and latency measured."""
        found = place.open(run)
        notes = {name: found.structure[name] for name in ("splits", "latency") if name in found.structure}
        return {"run": found.name, "finished": found.finished, **summary(found), "notes": notes}

    @router.get("/api/runs/{run}/networks/{what}", responses=missing)
    def see_one_network(run: RunName, what: What) -> dict[str, Any]:
        """As `blendsearch show --json`: kept channels and blend by group, costs, and where it came from."""
        return place.network(run, what)

    @router.get("/api/runs/{run}/course", response_model=dict[str, Any], responses=missing)
    def see_all_evaluations_of_a_run(run: RunName) -> Response:
        """All that `events` tells first: evaluations as columns, the front, baselines, generations, state."""
        watch = Watch(place, run)
        try:
            return Response(compact(watch.news()), media_type="application/json")
        finally:
            watch.close()

    @router.get("/api/runs/{run}/events", response_class=StreamingResponse, responses=missing | stream)
    async def follow_a_run(
        run: RunName,
        after: Annotated[int, Query(ge=0, le=10**9, description="the largest id that is known already")] = 0,
        last_event_id: Annotated[str | None, Header(pattern="^[0-9]{1,9}$")] = None,
    ) -> StreamingResponse:
        """Server-sent events: JSON objects with the parts of `course` that are new. Evaluations may come again."""
        if not place.has(run) and run not in place.children.names():
            raise Missing(f"no run is called {run!r}")
        begin = after if last_event_id is None else int(last_event_id)
        return StreamingResponse(events(place, run, begin), media_type="text/event-stream")

    @router.get("/api/runs/{run}/config", response_class=Response, responses=missing | text)
    def read_a_config(run: RunName) -> Response:
        """The config as YAML, with every default spelt out."""
        text = place.children.config(run) if not place.has(run) else None
        return Response(text or dump_config(place.open(run).config), media_type="text/plain")

    @router.get("/api/runs/{run}/report", response_class=Response, responses=missing | page)
    def read_the_report(run: RunName) -> HTMLResponse:
        """As `blendsearch report`: one page that loads nothing."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            write_report(place.open(run), path)
            policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
            headers = {"content-security-policy": f"{policy}; frame-ancestors 'none'"}
            return HTMLResponse(path.read_text(encoding="utf-8"), headers=headers)

    @router.get("/api/runs/{run}/exports/{network}", response_model=Export, responses=missing)
    def see_how_an_export_stands(run: RunName, network: Annotated[int, InPath(ge=0, le=10**9)]) -> Any:
        return place.exported(run, network)

    @router.get(
        "/api/runs/{run}/exports/{network}/files",
        response_class=Response,
        responses=missing | _content("application/zip"),
    )
    def take_an_exported_network(run: RunName, network: Annotated[int, InPath(ge=0, le=10**9)]) -> Response:
        """A zip of what `blendsearch export` wrote; for `blendsearch.load` once unpacked."""
        if place.exported(run, network)["state"] != "done":
            raise HTTPException(404, f"network {network} of run {run!r} has not been exported: post to its exports")
        name = f"{run}-{network}"
        body = io.BytesIO()
        with zipfile.ZipFile(body, "w") as archive:
            for path in sorted(place.exports(run, network).iterdir()):
                archive.write(path, f"{name}/{path.name}")
        headers = {"content-disposition": f'attachment; filename="{name}.zip"'}
        return Response(body.getvalue(), media_type="application/zip", headers=headers)

    return router


def _changing(place: Place) -> APIRouter:
    router = APIRouter(tags=["changing"], responses=_problems(404, 409))

    @router.post("/api/runs", status_code=201, response_model=Started)
    def start_a_search(given: Search) -> Any:
        """The process is started, and then says itself what does not fit: see the run's `events`."""
        return {"run": place.start(given.config, given.name, given.set)}

    @router.post("/api/runs/{run}/stop", response_model=Stopped)
    def stop_a_search(run: RunName) -> Any:
        """As an interrupt would: what was evaluated stands, and the run can be resumed."""
        return {"run": run, "stopped": place.stop(run)}

    @router.post("/api/runs/{run}/resume", status_code=202, response_model=Started)
    def resume_a_search(run: RunName, given: Changes) -> Any:
        place.resume(run, given.set)
        return {"run": run}

    @router.post("/api/runs/{run}/fork", status_code=201, response_model=Started)
    def fork_a_run(run: RunName, given: Fork) -> Any:
        """As `blendsearch fork`: a new search that begins with what this one found."""
        return {"run": place.fork(run, given.name, given.set)}

    @router.post("/api/runs/{run}/exports", status_code=202, response_model=Export)
    def export_a_network(run: RunName, given: Pick) -> Any:
        """Begins; ask at `exports/NETWORK` how it stands."""
        return place.exported(run, place.export(run, given.pick))

    return router


def _pages() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    def page(name: str) -> FileResponse:
        return FileResponse(PAGES / f"{name}.html", media_type="text/html")

    @router.get("/")
    def runs() -> FileResponse:
        return page("runs")

    @router.get("/runs/{run}")
    def run(run: RunName) -> FileResponse:
        return page("run")

    @router.get("/compare")
    def compare() -> FileResponse:
        return page("compare")

    @router.get("/start")
    def start() -> FileResponse:
        return page("start")

    @router.get("/pages/{name}")
    def asset(name: Annotated[str, InPath(pattern=r"^[a-z_]{1,30}\.(css|js|svg)$")]) -> FileResponse:
        path = PAGES / name
        if not path.is_file():
            raise HTTPException(404, "not found")
        return FileResponse(path, media_type=TYPES[path.suffix])

    return router
