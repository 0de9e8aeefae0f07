"""The JSON of requests and answers of the API, and the patterns of names in its paths."""

from typing import Annotated, Literal

from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field

from blendsearch.results.report.chart import ChartOptions, Stage, XAxisName, YAxisName
from blendsearch.runs.run_labels import MAX_TAGS
from blendsearch.service.charts import ChartKind
from blendsearch.service.config_policy import MAX_CONFIG_SIZE

RUN_ID = "^[a-z0-9][a-z0-9-]{0,63}$"
PICK = "^(best|knee|[0-9]{1,9})$"

RunName = Annotated[str, InPath(pattern=RUN_ID, description="the run's id")]
NetworkSelector = Annotated[str, InPath(pattern=PICK, description="best, knee, or the id of a network")]
Override = Annotated[str, Field(max_length=2000, description="section.field=value")]
Overrides = Annotated[list[Override], Field(max_length=100)]


class RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorResponse(BaseModel):
    """The reason for a refusal, in one line."""

    error: str


class MetricRow(BaseModel):
    """What the networks of a run are shown by. Values that are no `share` are stored as loss, or 1 minus the loss."""

    name: str
    higher: bool = Field(description="whether higher is better")
    share: bool = Field(description="whether values are in [0, 1] and stored as 1 minus the error")


class RunRow(BaseModel):
    """A run at a glance. `state` is starting, running, stopping, stopped or finished, or the reason why it failed."""

    run: str
    model: str
    data: str
    budget: str
    evaluations: int
    asked: int
    best_val_accuracy: float | None
    metric: MetricRow = Field(default_factory=lambda: MetricRow(name="accuracy", higher=True, share=True))
    best_metric: float | None = Field(None, description="the best value of the metric on validation data")
    state: str
    tags: list[str] = []
    archived: bool = False
    changed: float | None = Field(None, description="time of the last change by a search, in seconds since 1970")


class StartedRun(BaseModel):
    """The run that a process was started for."""

    run: str


class StoppedRun(BaseModel):
    """`stopped` is false while the process finishes an evaluation."""

    run: str
    stopped: bool


class ExportStatus(BaseModel):
    """The state of an export, and the last lines of its process."""

    network: int
    state: Literal["missing", "going", "done", "failed"]
    said: list[str]


class SessionRequest(RequestBody):
    token: str = Field(max_length=500, description="the token that the server printed when it started")


class SearchRequest(RequestBody):
    """A search to start. A config from a network names only what is registered on this server."""

    config: str = Field(max_length=MAX_CONFIG_SIZE, description="YAML, as for `blendsearch search`")
    name: str | None = Field(None, pattern=RUN_ID, description="the run's id")
    set: Overrides = []


class ResumeRequest(RequestBody):
    set: Overrides = []


class LabelsRequest(RequestBody):
    """The labels to change: `tags` replace all tags, and lists hide a run that is `archived`."""

    tags: list[Annotated[str, Field(max_length=60)]] | None = Field(None, max_length=MAX_TAGS)
    archived: bool | None = None


class LabelsRow(BaseModel):
    """The labels of a run."""

    run: str
    tags: list[str]
    archived: bool


class ForkRequest(ResumeRequest):
    name: str | None = Field(None, pattern=RUN_ID, description="the new run's id")


class ExportRequest(RequestBody):
    pick: str = Field("best", pattern=PICK, description="best, knee, or the id of a network")


class ChartQuery(RequestBody):
    """The axes of a chart. `auto` is the cost whose budget is a range, and accuracy where the run has it."""

    kind: ChartKind = "front"
    x: XAxisName = "auto"
    y: YAxisName = "auto"
    log: bool = Field(False, description="a logarithmic x axis")
    stage: Stage = Field("both", description="networks before the long fine-tune, after it, or both")
    narrow: bool = Field(False, description="drawn for the width of a phone")
    beside: str | None = Field(None, pattern=RUN_ID, description="a second run in the same chart")

    def get_options(self) -> ChartOptions:
        return ChartOptions(self.x, self.y, self.log, self.stage, self.narrow)


class AxesResponse(BaseModel):
    """What charts of a run can show: costs, measures, and stages of training."""

    x: list[str]
    y: list[str]
    stages: list[str]
