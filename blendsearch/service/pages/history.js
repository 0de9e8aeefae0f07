// What a page knows of one run, put together from the events of it.
import { convertLoss, isKnown, number, percent } from "./api.js";

const PARTS = ["head", "state", "dense", "front", "baselines", "generations", "child"];

export class SearchHistory {
  constructor() {
    this.rows = new Map(); // by id: {id, cost, params, error, loss, generation}
    this.evaluated = 0; // rows with numbers
    this.origins = new Map();
    this.tests = new Map();
    this.state = {};
    this.front = { ids: [], best: null, knee: null };
    this.baselines = [];
    this.generations = [];
    this.head = null;
    this.dense = null;
    this.last = 0;
  }

  receive(news) {
    for (const part of PARTS) if (news[part]) this[part] = news[part];
    for (const [id, value] of Object.entries(news.tests ?? {})) this.tests.set(Number(id), value);
    if (!news.rows) return;
    const { id, cost, params, error, loss, generation, origins } = news.rows;
    for (let n = 0; n < id.length; n += 1) {
      if (this.rows.has(id[n])) continue;
      this.rows.set(id[n], { id: id[n], cost: cost[n], params: params[n], error: error[n], loss: loss[n], generation: generation[n] });
      if (error[n] === null || loss[n] === null) continue;
      this.evaluated += 1;
      this.last = Math.max(this.last, id[n]);
    }
    for (const [key, text] of Object.entries(origins)) this.origins.set(Number(key), text);
  }

  metric() { return this.head?.metric ?? { name: "accuracy", higher: true, share: true }; }

  // The name of what is stored as loss, and its value: those of a metric that is no share.
  lossName() { return this.metric().share ? "loss" : this.metric().name; }

  convertLoss(loss) { return convertLoss(this.metric(), loss); }

  // The names of the columns of a metric, and its values for a network with error and loss.
  list(row, tested) {
    const { name, share } = this.metric();
    const loss = [`val. ${this.lossName()}`, number(this.convertLoss(row?.loss))];
    return share ? [loss, [`val. ${name}`, percent(isKnown(row?.error) ? 1 - row.error : null)], [`test ${name}`, percent(tested)]] : [loss];
  }

  name(id) {
    const origin = this.origins.get(id);
    return id === 0 ? "dense network" : origin ? origin.split(" = ")[0] : `network ${id}`;
  }

  describe(id) {
    const row = id === 0 ? { id, cost: 1, ...this.dense } : this.rows.get(id);
    if (!row) return `${id}`;
    const { name, share } = this.metric();
    const accuracy = share ? `${percent(1 - row.error)} ${name}, ` : "";
    return `${id}: ${this.name(id)}, ${accuracy}${this.lossName()} ${this.convertLoss(row.loss).toFixed(3)}, ${percent(row.cost, 1)} of ${this.head.cost}`;
  }

  onFront() { return this.front.ids.map((id) => this.rows.get(id)).filter(Boolean); }
}
