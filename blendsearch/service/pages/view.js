// The choices of a chart: its axes, the stage of training, and a logarithmic axis. They are part of the address.
import { ask, el, find } from "./api.js";

const NAMES = {
  auto: "automatic", evaluations: "evaluations", macs: "MACs", params: "parameters", bytes: "bytes of the weights",
  memory: "memory", latency: "latency", measured: "measured latency",
  accuracy: "accuracy", error: "error", loss: "loss",
  both: "before and after training", before: "before training", after: "after training",
};

export class ChartView {
  // `changed()` is called after every choice.
  constructor(run, changed) {
    Object.assign(this, { run, changed, names: { ...NAMES }, narrow: matchMedia("(max-width: 40rem)") });
    this.choice = Object.fromEntries(new URLSearchParams(location.search));
    find("view").addEventListener("change", () => this.take());
    find("view").addEventListener("submit", (event) => event.preventDefault());
    this.narrow.addEventListener("change", changed);
  }

  // Offer what the run has so far.
  async refresh(metric) {
    if (metric.share) Object.assign(this.names, { accuracy: metric.name, error: metric.name === "accuracy" ? "error" : `1 - ${metric.name}` });
    else this.names.loss = metric.name;
    const { x, y, stages } = await ask(`runs/${this.run}/axes`);
    this.fill("x", ["auto", ...x]);
    this.fill("y", ["auto", ...y]);
    this.fill("stage", stages);
    find("view-stages").hidden = stages.length < 2;
    find("view-log").checked = this.choice.log === "true";
    find("view-csv").href = this.path("chart.csv");
  }

  fill(name, values) {
    const list = find(`view-${name}`);
    const wanted = values.includes(this.choice[name]) ? this.choice[name] : values[0];
    list.replaceChildren(...values.map((value) => el("option", { value, selected: value === wanted }, this.names[value] ?? value)));
    this.choice[name] = wanted;
  }

  take() {
    for (const name of ["x", "y", "stage"]) this.choice[name] = find(`view-${name}`).value;
    this.choice.log = String(find("view-log").checked);
    const words = this.words();
    history.replaceState(null, "", words.size ? `?${words}` : location.pathname);
    find("view-csv").href = this.path("chart.csv");
    this.changed();
  }

  // The choices that differ from those of the server.
  words() {
    const { x, y, stage, log } = this.choice;
    return new URLSearchParams(Object.entries({ x, y, stage, log }).filter(([, value]) => value && !["auto", "both", "false"].includes(value)));
  }

  path(name, further = {}) {
    const words = this.words();
    for (const [key, value] of Object.entries(further)) words.set(key, value);
    return `/api/runs/${this.run}/${name}${words.size ? `?${words}` : ""}`;
  }

  // The address of the chart below /api/.
  chart(further = {}) {
    return this.path("chart", this.narrow.matches ? { ...further, narrow: "true" } : further).slice("/api/".length);
  }
}
