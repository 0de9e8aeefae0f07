// What is known of one run, put together from the news of it, and the scenes that pictures are drawn from.
import { percent } from "./api.js";

export const KINDS = [["diamond", "vermillion", [8, 4]], ["square", "orange", [2, 3]], ["triangle", "green", [8, 3, 2, 3]], ["cross", "purple", [2, 2, 8, 2]]];

export class Course {
  constructor() {
    this.rows = new Map(); // by id: {id, cost, params, error, loss, generation}
    this.judged = []; // those with numbers, by id
    this.origins = new Map();
    this.failures = new Map();
    this.tests = new Map();
    this.state = {};
    this.front = { ids: [], best: null, knee: null };
    this.baselines = [];
    this.generations = [];
    this.head = null;
    this.dense = null;
    this.last = 0;
  }

  hear(news) {
    for (const part of ["head", "state", "dense", "front", "baselines", "generations", "child"]) if (news[part]) this[part] = news[part];
    for (const [id, value] of Object.entries(news.tests ?? {})) this.tests.set(Number(id), value);
    if (!news.rows) return;
    const { id, cost, params, error, loss, generation, origins, failures } = news.rows;
    let sorted = true;
    for (let n = 0; n < id.length; n += 1) {
      if (this.rows.has(id[n])) continue;
      const row = { id: id[n], cost: cost[n], params: params[n], error: error[n], loss: loss[n], generation: generation[n], x: 0, y: this.told() ? error[n] : loss[n] };
      row.tip = () => this.tip(row);
      this.rows.set(row.id, row);
      if (row.error === null || row.loss === null) continue;
      sorted = sorted && (!this.judged.length || this.judged.at(-1).id < row.id);
      this.judged.push(row);
      this.last = Math.max(this.last, row.id);
    }
    if (!sorted) this.judged.sort((a, b) => a.id - b.id);
    for (const [key, text] of Object.entries(origins)) this.origins.set(Number(key), text);
    for (const [key, text] of Object.entries(failures)) this.failures.set(Number(key), text);
  }

  // Where a person's own judgement told no error, the picture is of losses.
  told() { return this.head?.errors ?? true; }

  measure() { return this.told() ? "Error on validation images" : "Loss on validation data"; }

  form(most) { return this.told() ? (value) => percent(value, most < .06 ? 1 : 0) : (value) => `${Number(value.toPrecision(3))}`; }

  denseY() { return (this.told() ? this.dense?.error : this.dense?.loss) ?? null; }

  called(id) {
    const origin = this.origins.get(id);
    return id === 0 ? "dense network" : origin ? origin.split(" = ")[0] : `network ${id}`;
  }

  tip(row) {
    return `${row.id}: ${this.called(row.id)}, ${this.told() ? `${percent(row.error)} error, ` : ""}loss ${row.loss.toFixed(3)}, ${percent(row.cost, 1)} of ${this.head.cost}`;
  }

  onFront() { return this.front.ids.map((id) => this.rows.get(id)).filter(Boolean); }

  // The largest error that the picture has room for, as in the report: what is far above most stands at its edge.
  highest() {
    const errors = this.judged.map((row) => row.y).sort((a, b) => a - b);
    if (!errors.length) return 1;
    const known = this.baselines.map((item) => this.rows.get(item.id)?.y).filter((value) => value !== undefined);
    if (!this.head.spans) {
      const usual = errors[Math.floor((errors.length - 1) * 3 / 4)];
      const first = Math.min(this.rows.get(this.front.best)?.y ?? errors[0], ...known);
      return Math.min(errors.at(-1), errors[0] + Math.max(2.5 * (usual - errors[0]), 1.2 * (first - errors[0]))) + 0.002;
    }
    const shown = known.length ? known : this.onFront().map((row) => row.y);
    return Math.min(this.told() ? 1 : Infinity, errors.at(-1), 1.3 * Math.max(...shown, this.denseY() ?? 0)) + 0.002;
  }

  // Where a row stands: by its cost where budgets span, else in the order of asking.
  place(row, byCost) { row.x = byCost ? row.cost : row.id; return row; }

  bestSoFar() {
    const steps = [];
    let best = null;
    for (const row of this.judged) {
      if (!best || row.loss < best.loss) { best = row; steps.push([row.id, row.y]); }
    }
    if (steps.length) steps.push([this.last, steps.at(-1)[1]]);
    return steps;
  }

  scene(open) {
    const spans = this.head.spans;
    const top = this.highest();
    for (const row of this.judged) this.place(row, spans);
    const lowest = this.judged.reduce((a, row) => Math.min(a, row.y), Infinity);
    const least = Math.min(Number.isFinite(lowest) ? lowest : 0, this.denseY() ?? Infinity);
    const costs = spans ? this.judged.reduce((a, row) => Math.min(a, row.cost), 1) : 0;
    const newest = this.judged.reduce((a, row) => Math.max(a, row.generation), 0);
    const old = this.judged.filter((row) => row.generation < newest), fresh = this.judged.filter((row) => row.generation === newest);
    const dots = (rows, alpha, size) => ({ kind: "dots", xs: rows.map((row) => row.x), ys: rows.map((row) => row.y), colour: "seen", alpha, size });
    const layers = [dots(old, .45, 2.4), dots(fresh, .9, 2.8)];
    const front = this.onFront();
    const walk = spans ? front : this.bestSoFar().slice(0, -1).map(([id]) => this.rows.get(id));
    if (spans) {
      layers.push({ kind: "line", points: front.map((row) => [row.x, row.y]), colour: "blue" });
      layers.push(...this.marks((rows, shape, colour) => ({ kind: "marks", points: rows.map((row) => [row.cost, row.y]), shape, colour, size: 6 })));
      layers.push({ kind: "marks", points: front.map((row) => [row.x, row.y]), shape: "circle", colour: "blue", size: 4, full: true, clamp: true });
      if (this.denseY() !== null) layers.push({ kind: "marks", points: [[1, this.denseY()]], shape: "star", colour: "ink", size: 8, full: true });
    } else {
      const across = [0, Math.max(this.last, 1)];
      const level = (value, colour, dash) => ({ kind: "line", points: value <= top ? across.map((x) => [x, value]) : [], colour, dash, size: 1.6 });
      layers.push(...this.marks((rows, shape, colour, dash) => level(Math.min(...rows.map((row) => row.y)), colour, dash)));
      if (this.denseY() !== null) layers.push(level(this.denseY(), "ink", []));
      layers.push({ kind: "line", points: this.bestSoFar(), colour: "blue", step: true });
    }
    const whole = (value) => `${Math.round(value)}`;
    const asked = this.state.state === "running" ? Math.max(this.last, 1) * 1.02 : Math.max(this.last, 1);
    return {
      x: spans ? { least: Math.max(0, costs - .03), most: 1.03, name: `${this.head.cost}, share of the dense network's`, form: (v) => percent(v, 0) }
        : { least: 0, most: asked, name: "Evaluation", form: whole },
      y: { least: spans && least < .4 * top ? 0 : Math.max(0, least - .08 * (top - least)), most: top, name: this.measure(), form: this.form(top) },
      layers, targets: this.judged, walk, ring: open === null || open === undefined ? null : this.rows.get(open) ?? null,
    };
  }

  marks(make) {
    return KINDS.map(([shape, colour, dash], n) => {
      const rows = this.baselines.filter((item) => item.shape === n).map((item) => this.rows.get(item.id)).filter(Boolean);
      return rows.length ? make(rows, shape, colour, dash) : null;
    }).filter(Boolean);
  }

  curve() {
    const points = this.generations.filter((item) => item.hypervolume !== null).map((item) => [item.evaluations, item.hypervolume]);
    const values = points.map((point) => point[1]);
    const [least, most] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    const margin = Math.max(.002, .1 * (most - least));
    return {
      x: { least: 0, most: Math.max(1, points.at(-1)?.[0] ?? 1), name: "Evaluations", form: (v) => `${Math.round(v)}` },
      y: { least: least - margin, most: most + margin, name: "Hypervolume", form: (v) => v.toFixed(most - least < .02 ? 4 : 3) },
      layers: [{ kind: "line", points, colour: "blue" }, { kind: "marks", points: points.length < 200 ? points : [], shape: "circle", colour: "blue", size: 3, full: true }],
      targets: [], walk: [],
    };
  }

  picture() {
    const best = this.state.best;
    const found = best ? `The least loss is that of network ${best.id}${this.told() ? `, ${percent(best.error)} error` : ""}.` : "";
    return `${this.judged.length} networks, ${this.front.ids.length} on the front. ${found}`;
  }
}
