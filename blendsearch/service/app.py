"""The JSON API and the pages, as one ASGI application."""

import asyncio
import io
import logging
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware

from blendsearch.errors import BlendsearchError, ConfigError
from blendsearch.results.answer import compose_answer
from blendsearch.results.listing import DAMAGE
from blendsearch.results.report.chart_table import format_chart_csv
from blendsearch.runs.config.loading import DIGITS, dump_config
from blendsearch.runs.run import Run
from blendsearch.service.charts import ChartCache, build_chart
from blendsearch.service.events import RunWatcher, format_compact_json
from blendsearch.service.feeds import Feeds
from blendsearch.service.limits import EventStream, StreamLimit, WorkLimit
from blendsearch.service.schemas import (
    AxesResponse,
    ChartQuery,
    ErrorResponse,
    ExportRequest,
    ExportStatus,
    ForkRequest,
    LabelsRequest,
    LabelsRow,
    NetworkSelector,
    ResumeRequest,
    RunName,
    RunRow,
    SearchRequest,
    SessionRequest,
    StartedRun,
    StoppedRun,
)
from blendsearch.service.security import App, Authenticator, SecurityMiddleware, parse_session
from blendsearch.service.workspace import NotFoundError, Workspace

PAGES = Path(__file__).with_name("pages")
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def _document_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse} for status in statuses}


def _document_content(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {kind: {"schema": {"type": "string"}}}}}


def make_app(
    workspace: Workspace, authenticator: Authenticator, hosts: frozenset[str], cookie: str = "blendsearch"
) -> App:
    """Make the application. `hosts` are the names it answers to, `cookie` the name of the session cookie."""
    app = FastAPI(
        title="blendsearch",
        version="1",
        description="Searches for smaller CNNs: their runs, networks and files. "
        "The answer to every refused request is an ErrorResponse.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        responses=_document_errors(400, 401, 403, 413, 421, 422, 503),
    )
    app.include_router(_make_session_router(authenticator, cookie))
    app.include_router(_make_read_router(workspace))
    app.include_router(_make_write_router(workspace))
    app.include_router(_make_page_router())

    @app.exception_handler(BlendsearchError)
    async def handle_blendsearch_error(request: Request, error: BlendsearchError) -> JSONResponse:
        status = 404 if isinstance(error, NotFoundError) else 422 if isinstance(error, ConfigError) else 409
        return JSONResponse({"error": " ".join(str(error).split())}, status)

    async def handle_damage(request: Request, error: Exception) -> JSONResponse:
        logging.getLogger("uvicorn.error").error("a request failed", exc_info=error)
        run = request.path_params.get("run")
        if run is None:
            return JSONResponse({"error": "the request failed: the server's output has the reason"}, 500)
        return JSONResponse({"error": f"run {run!r} is damaged ({type(error).__name__}): restore it from a copy"}, 409)

    for kind in DAMAGE:
        app.add_exception_handler(kind, handle_damage)

    @app.exception_handler(RequestValidationError)
    async def handle_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        places = (".".join(str(part) for part in item["loc"]) + f": {item['msg']}" for item in error.errors())
        return JSONResponse({"error": "; ".join(places)[:500]}, 422)

    @app.exception_handler(HTTPException)
    async def handle_http_error(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    app.add_middleware(GZipMiddleware, minimum_size=1000)
    return SecurityMiddleware(app, authenticator, hosts, cookie)


def _make_session_router(authenticator: Authenticator, cookie: str) -> APIRouter:
    router = APIRouter(tags=["session"])

    @router.post("/api/session", status_code=204, responses=_document_errors(401))
    def create_session(body: SessionRequest) -> Response:
        if not authenticator.is_valid_token(body.token):
            raise HTTPException(401, "the token is wrong: the server printed it when it started")
        answer = Response(status_code=204)
        answer.set_cookie(cookie, authenticator.create_session(), httponly=True, samesite="strict", path="/")
        return answer

    @router.delete("/api/session", status_code=204)
    def end_session(request: Request) -> Response:
        authenticator.end_session(parse_session(request.headers.get("cookie", ""), cookie))
        answer = Response(status_code=204)
        answer.delete_cookie(cookie, path="/", httponly=True, samesite="strict")
        return answer

    return router


def _make_read_router(workspace: Workspace) -> APIRouter:
    from blendsearch.results.status import read_status
    from blendsearch.results.summary import summarize_run

    router = APIRouter(tags=["reading"])
    feeds, streams = Feeds(workspace), StreamLimit()
    reports, drawings = WorkLimit("reports", 2, 8), WorkLimit("charts", 1, 64)
    measurements = WorkLimit("measurements of importance", 1, 64)
    missing = _document_errors(404, 409)
    text, page, stream = (_document_content(kind) for kind in ("text/plain", "text/html", "text/event-stream"))

    @router.get("/api/runs", response_model=list[RunRow])
    async def summarize_runs() -> Any:
        # in other threads than requests that take long
        return await asyncio.to_thread(workspace.summarize_runs)

    @router.get("/api/events", response_class=StreamingResponse, responses=stream)
    async def stream_runs() -> StreamingResponse:
        """Server-sent events: the list, at once and after every change."""
        return EventStream(feeds.stream_list(), streams)

    @router.get("/api/example", response_class=Response, responses=text)
    def get_example_config() -> Response:
        return Response(DIGITS.read_text(encoding="utf-8"), media_type="text/plain")

    @router.get("/api/runs/{run}", responses=missing)
    def get_run_status(run: RunName) -> dict[str, Any]:
        """As `blendsearch status --json`."""
        return read_status(workspace.open(run)).to_dict()

    @router.get("/api/runs/{run}/front", responses=missing)
    def get_run_front(run: RunName) -> dict[str, Any]:
        """As `blendsearch front --json`, with notes on how the data was split and latency measured."""
        found = workspace.open(run)
        notes = {name: found.structure[name] for name in ("splits", "latency") if name in found.structure}
        numbers = summarize_run(found)
        results = {**numbers.to_dict(), "answer": compose_answer(found, numbers).to_dict()}
        return {"run": found.name, "finished": found.finished, **results, "notes": notes}

    @router.get("/api/runs/{run}/importance", responses=missing)
    async def get_run_importance(run: RunName) -> dict[str, Any]:
        """The importance of criteria, clusters and groups, and a note on its meaning; empty where there is none."""
        return await measurements.run(_measure_importance, workspace, run)

    @router.get("/api/runs/{run}/networks/{what}", responses=missing)
    def get_network(run: RunName, what: NetworkSelector) -> dict[str, Any]:
        """As `blendsearch show --json`: kept channels and blend by group, costs, and where it came from."""
        return workspace.get_network(run, what)

    @router.get("/api/runs/{run}/course", response_model=dict[str, Any], responses=missing)
    def get_run_history(run: RunName) -> Response:
        """The first event of `events`: evaluations as columns, the front, baselines, generations, state."""
        watch = RunWatcher(workspace, run)
        try:
            return Response(format_compact_json(watch.poll().to_dict()), media_type="application/json")
        finally:
            watch.close()

    @router.get("/api/runs/{run}/events", response_class=StreamingResponse, responses=missing | stream)
    async def stream_run(
        run: RunName,
        after: Annotated[int, Query(ge=0, le=10**9, description="the largest known id")] = 0,
        last_event_id: Annotated[str | None, Header(pattern="^[0-9]{1,9}$")] = None,
    ) -> StreamingResponse:
        """Server-sent events: JSON objects with the new parts of `course`. Evaluations may be repeated."""
        if not workspace.has_run(run) and run not in workspace.processes.list_names():
            raise NotFoundError(f"no run is called {run!r}")
        begin = after if last_event_id is None else int(last_event_id)
        return EventStream(feeds.stream_run(run, begin), streams)

    charts = ChartCache()

    def open_runs(run: str, query: ChartQuery) -> list[Run]:
        return [workspace.open(name) for name in (run, query.beside) if name is not None]

    @router.get(
        "/api/runs/{run}/chart", response_class=Response, responses=missing | _document_content("image/svg+xml")
    )
    async def get_run_chart(run: RunName, query: Annotated[ChartQuery, Query()]) -> Response:
        """A chart as SVG: the front, or at one budget the best network so far. Points have their id as `data-id`."""

        def draw() -> str:
            return charts.render(open_runs(run, query), query.kind, query.get_options())

        text = await drawings.run(draw)
        return Response(text, media_type="image/svg+xml")

    @router.get("/api/runs/{run}/chart.csv", response_class=Response, responses=missing | _document_content("text/csv"))
    async def get_chart_table(run: RunName, query: Annotated[ChartQuery, Query()]) -> Response:
        """The points of the chart as CSV."""

        def format_points() -> str:
            return format_chart_csv(build_chart(open_runs(run, query), query.kind, query.get_options()))

        text = await drawings.run(format_points)
        headers = {"content-disposition": f'attachment; filename="{run}-{query.kind}.csv"'}
        return Response(text, media_type="text/csv", headers=headers)

    @router.get("/api/runs/{run}/axes", response_model=AxesResponse, responses=missing)
    def get_axes(run: RunName) -> Any:
        """The axes and stages that charts of the run can have so far."""
        from blendsearch.results.report.chart_axes import list_axes

        return list_axes(workspace.open(run)).to_dict()

    @router.get("/api/runs/{run}/config", response_class=Response, responses=missing | text)
    def get_run_config(run: RunName) -> Response:
        """The config as YAML, with every default written out."""
        text = workspace.processes.read_config(run) if not workspace.has_run(run) else None
        return Response(text or dump_config(workspace.open(run).config), media_type="text/plain")

    @router.get("/api/runs/{run}/report", response_class=Response, responses=missing | page)
    async def get_run_report(run: RunName) -> HTMLResponse:
        """As `blendsearch report`: one page that loads nothing."""
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
        headers = {"content-security-policy": f"{policy}; frame-ancestors 'none'"}
        return HTMLResponse(await reports.run(_make_report, workspace, run), headers=headers)

    @router.get("/api/runs/{run}/exports/{network}", response_model=ExportStatus, responses=missing)
    def get_export_status(run: RunName, network: Annotated[int, InPath(ge=0, le=10**9)]) -> Any:
        return workspace.get_export_status(run, network)

    @router.get(
        "/api/runs/{run}/exports/{network}/files",
        response_class=Response,
        responses=missing | _document_content("application/zip"),
    )
    async def download_export(run: RunName, network: Annotated[int, InPath(ge=0, le=10**9)]) -> Response:
        """A zip of what `blendsearch export` wrote; for `blendsearch.load` once unpacked."""
        status = await run_in_threadpool(workspace.get_export_status, run, network)
        if status["state"] != "done":
            raise HTTPException(404, f"network {network} of run {run!r} has not been exported: post to its exports")
        name = f"{run}-{network}"
        body = await reports.run(_pack_folder, workspace.get_export_folder(run, network), name)
        headers = {"content-disposition": f'attachment; filename="{name}.zip"'}
        return Response(body, media_type="application/zip", headers=headers)

    return router


def _measure_importance(workspace: Workspace, run: str) -> dict[str, Any]:
    from blendsearch.results.importance import describe_importance, measure_importance

    found = measure_importance(workspace.open(run))
    return {"run": run, **found.to_dict(), "note": describe_importance(found)}


def _make_report(workspace: Workspace, run: str) -> str:
    from blendsearch.results.report.report import write_report

    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write_report(workspace.open(run), path)
        return path.read_text(encoding="utf-8")


def _pack_folder(folder: Path, name: str) -> bytes:
    """Pack the files of a folder as a zip, below the folder `name`."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{name}/{path.name}")
    return body.getvalue()


def _make_write_router(workspace: Workspace) -> APIRouter:
    router = APIRouter(tags=["changing"], responses=_document_errors(404, 409))

    @router.post("/api/runs", status_code=201, response_model=StartedRun)
    def start_search(body: SearchRequest) -> Any:
        """Start a process. It reports in the run's `events` what does not fit."""
        return {"run": workspace.start(body.config, body.name, body.set)}

    @router.post("/api/runs/{run}/stop", response_model=StoppedRun)
    def stop_search(run: RunName) -> Any:
        """Stop like an interrupt: evaluations are kept, and the run can be resumed."""
        return {"run": run, "stopped": workspace.stop(run)}

    @router.post("/api/runs/{run}/labels", response_model=LabelsRow)
    def label_run(run: RunName, body: LabelsRequest) -> Any:
        labels = workspace.label(run, body.tags, body.archived)
        return {"run": run, "tags": labels.tags, "archived": labels.archived}

    @router.delete("/api/runs/{run}", status_code=204)
    def delete_run(run: RunName) -> Response:
        """Delete a run with all its results, as `blendsearch delete`; refused while it is searched."""
        workspace.delete(run)
        return Response(status_code=204)

    @router.post("/api/runs/{run}/resume", status_code=202, response_model=StartedRun)
    def resume_search(run: RunName, body: ResumeRequest) -> Any:
        workspace.resume(run, body.set)
        return {"run": run}

    @router.post("/api/runs/{run}/fork", status_code=201, response_model=StartedRun)
    def fork_run(run: RunName, body: ForkRequest) -> Any:
        """As `blendsearch fork`: a new search that starts from the results of this one."""
        return {"run": workspace.fork(run, body.name, body.set)}

    @router.post("/api/runs/{run}/exports", status_code=202, response_model=ExportStatus)
    def start_export(run: RunName, body: ExportRequest) -> Any:
        """Start an export; `exports/NETWORK` has its state."""
        return workspace.get_export_status(run, workspace.export(run, body.pick))

    return router


def _make_page_router() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    def serve_page(name: str) -> FileResponse:
        return FileResponse(PAGES / f"{name}.html", media_type="text/html")

    @router.get("/")
    def serve_runs_page() -> FileResponse:
        return serve_page("runs")

    @router.get("/runs/{run}")
    def serve_run_page(run: RunName) -> FileResponse:
        return serve_page("run")

    @router.get("/compare")
    def serve_compare_page() -> FileResponse:
        return serve_page("compare")

    @router.get("/start")
    def serve_start_page() -> FileResponse:
        return serve_page("start")

    @router.get("/pages/{name}")
    def serve_asset(name: Annotated[str, InPath(pattern=r"^[a-z_]{1,30}\.(css|js|svg)$")]) -> FileResponse:
        path = PAGES / name
        if not path.is_file():
            raise HTTPException(404, "not found")
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix])

    return router
