// Two runs in one chart and one table.
import { ask, el, enter, find, formatMetric, isKnown, listen, number, percent, showError, showState } from "./api.js";
import { Chart } from "./chart.js";
import { SearchHistory } from "./history.js";

const sides = [null, null];
const ends = [null, null];
const narrow = matchMedia("(max-width: 40rem)");
const chart = new Chart(find("plot"), "Chart of both runs");

function draw() {
  const known = sides.filter((side) => side?.head);
  if (!known.length) return;
  const [first, second] = known.filter((side) => side.evaluated);
  find("both").hidden = !first;
  const words = new URLSearchParams({ ...(second && { beside: second.head.run }), ...(narrow.matches && { narrow: "true" }) });
  if (first) chart.refresh(`runs/${first.head.run}/chart?${words}`).catch(showError);
  facts();
}

function facts() {
  const volume = (side) => side.generations.at(-1)?.hypervolume;
  const show = (side, row) => !isKnown(row?.loss) ? "–" : formatMetric(side.metric(), side.metric().share ? 1 - row.error : side.convertLoss(row.loss));
  const best = (side) => side.rows.get(side.front.best);
  const lines = [
    ["state", (side) => { const state = el("span", {}); showState(state, side.state.state ?? ""); return state; }],
    ["model", (side) => side.head.title], ["data", (side) => side.head.data], ["budget", (side) => side.head.budget],
    ["method", (side) => `${side.head.method}, fidelity ${side.head.fidelity}, seed ${side.head.seed}`],
    ["evaluations", (side) => `${side.state.evaluations} of ${side.state.asked}`],
    ["metric", (side) => side.metric().name + (side.metric().higher ? ", higher is better" : ", lower is better")],
    ["dense, validation", (side) => show(side, side.dense)],
    ["best, validation", (side) => best(side) ? `${show(side, best(side))} (network ${best(side).id})` : "–"],
    ["best, val. loss", (side) => side.metric().share ? number(best(side)?.loss) : "–"],
    ["best, cost", (side) => best(side) ? `${percent(best(side).cost)} of ${side.head.cost}, ${percent(best(side).params)} of parameters` : "–"],
    ["best, test", (side) => side.metric().share ? percent(side.tests.get(side.front.best)) : "–"],
    ["on the front", (side) => side.front.ids.length], ["hypervolume", (side) => number(volume(side))],
  ];
  find("names").replaceChildren(el("th", { scope: "col" }, "run"), ...sides.map((side) => el("th", { scope: "col" }, side?.head ? el("a", { href: `/runs/${encodeURIComponent(side.head.run)}` }, side.head.run) : "–")));
  find("facts").replaceChildren(...lines.map(([name, words]) => el("tr", {}, el("th", { scope: "row" }, name), ...sides.map((side) => el("td", {}, side?.head ? words(side) : "–")))));
}

async function load(n, run) {
  ends[n]?.();
  sides[n] = null;
  showError(null);
  if (!run) { draw(); return; }
  const history = new SearchHistory();
  try {
    history.receive(await ask(`runs/${run}/course`));
    sides[n] = history;
    draw();
    if (history.head) ends[n] = listen(() => `runs/${run}/events?after=${history.last}`, (news) => { history.receive(news); draw(); });
  } catch (error) { showError(error); }
}

enter(async () => {
  const rows = (await ask("runs")).filter((row) => row.asked);
  const wanted = new URLSearchParams(location.search);
  const names = rows.map((row) => row.run);
  const first = names.includes(wanted.get("one")) ? wanted.get("one") : names[0];
  const second = names.includes(wanted.get("other")) ? wanted.get("other") : names.find((name) => name !== first);
  const loading = [];
  for (const [n, [id, chosen]] of [["one", first], ["other", second]].entries()) {
    const list = find(id);
    list.replaceChildren(...(n ? [el("option", { value: "" }, "–")] : []), ...names.map((name) => el("option", { value: name, selected: name === chosen }, name)));
    list.addEventListener("change", () => load(n, list.value));
    if (chosen) loading.push(load(n, chosen));
  }
  await Promise.all(loading);
  if (!names.length) showError(new Error("There are no runs to compare yet."));
});
