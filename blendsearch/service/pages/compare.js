// Two runs in one picture and one table.
import { ask, complain, el, enter, find, listen, number, percent, showState } from "./api.js";
import { Course } from "./course.js";
import { Plot, sample } from "./plot.js";

const LOOKS = [{ colour: "blue", shape: "circle", dash: [] }, { colour: "vermillion", shape: "diamond", dash: [7, 4] }];
const sides = [null, null];
const ends = [null, null];
let plot = null;

function scene() {
  const courses = sides.filter((side) => side?.head);
  if (new Set(courses.map((course) => course.measure())).size > 1) complain(new Error("One of these is judged by errors, the other by losses alone: one picture does not fit both."));
  const byCost = courses.length > 0 && courses.every((course) => course.head.spans && course.head.cost === courses[0].head.cost);
  const layers = [], targets = [], walk = [];
  let [least, most, right, left] = [Infinity, 0, 1, 1];
  sides.forEach((course, n) => {
    if (!course?.head) return;
    const look = LOOKS[n];
    for (const row of course.judged) course.place(row, byCost);
    layers.push({ kind: "dots", xs: course.judged.map((row) => row.x), ys: course.judged.map((row) => row.y), colour: look.colour, alpha: .22, size: 2.2 });
    most = Math.max(most, course.judged.length ? course.highest() : 0);
    for (const row of course.judged) { least = Math.min(least, row.y); left = Math.min(left, row.cost); right = Math.max(right, row.id); targets.push(row); }
    walk.push(...course.onFront());
  });
  sides.forEach((course, n) => {
    if (!course?.head) return;
    const look = LOOKS[n];
    const points = byCost ? course.onFront().map((row) => [row.x, row.y]) : course.bestSoFar();
    layers.push({ kind: "line", points, colour: look.colour, dash: look.dash, step: !byCost });
    layers.push({ kind: "marks", points: byCost ? points : points.slice(-1), shape: look.shape, colour: look.colour, size: 4.5, full: true, clamp: true });
  });
  const cost = courses[0]?.head.cost;
  return {
    x: byCost ? { least: Math.max(0, left - .03), most: 1.03, name: `${cost}, share of the dense network's`, form: (v) => percent(v, 0) } : { least: 0, most: right, name: "Evaluation", form: (v) => `${Math.round(v)}` },
    y: { least: Number.isFinite(least) ? Math.max(0, least * .9) : 0, most: most || 1, name: courses[0].measure(), form: courses[0].form(most) },
    layers, targets, walk,
  };
}

function draw() {
  if (!sides.some((side) => side?.head)) return;
  find("both").hidden = false;
  plot ??= new Plot(find("plot"), 400, "Two runs by error", () => {});
  const names = sides.map((side) => side?.head?.run ?? "–");
  plot.show(scene(), `Networks of ${names.join(" and ")} by error; the numbers are in the table.`);
  const byCost = scene().x.name !== "Evaluation";
  find("legend").replaceChildren(...sides.flatMap((side, n) => side?.head ? [sample({ kind: "line", ...LOOKS[n] }, `${side.head.run}: ${byCost ? "front" : "least loss so far"}`)] : []));
  find("caption").textContent = byCost ? "Dots are all networks of a run in its colour, lines the fronts by loss and cost." : "Dots are all networks of a run in its colour, in the order of asking; lines the error of the one with the least loss until then.";
  facts();
}

function facts() {
  const volume = (side) => side.generations.at(-1)?.hypervolume;
  const best = (side) => side.rows.get(side.front.best);
  const lines = [
    ["state", (side) => { const state = el("span", {}); showState(state, side.state.state ?? ""); return state; }],
    ["model", (side) => side.head.title], ["data", (side) => side.head.data], ["budget", (side) => side.head.budget],
    ["method", (side) => `${side.head.method}, judged ${side.head.fidelity}, seed ${side.head.seed}`],
    ["evaluations", (side) => `${side.state.evaluations} of ${side.state.asked}`],
    ["dense, val. accuracy", (side) => side.dense?.error === undefined || !side.told() ? "–" : percent(1 - side.dense.error)],
    ["best, val. accuracy", (side) => best(side) ? `${side.told() ? percent(1 - best(side).error) : "–"} (network ${best(side).id})` : "–"],
    ["best, val. loss", (side) => number(best(side)?.loss)],
    ["best, cost", (side) => best(side) ? `${percent(best(side).cost)} of ${side.head.cost}, ${percent(best(side).params)} of parameters` : "–"],
    ["best, test accuracy", (side) => percent(side.tests.get(side.front.best))],
    ["on the front", (side) => side.front.ids.length], ["hypervolume", (side) => number(volume(side))],
  ];
  find("names").replaceChildren(el("th", { scope: "col" }, "of the run"), ...sides.map((side) => el("th", { scope: "col" }, side?.head ? el("a", { href: `/runs/${encodeURIComponent(side.head.run)}` }, side.head.run) : "–")));
  find("facts").replaceChildren(...lines.map(([name, words]) => el("tr", {}, el("th", { scope: "row" }, name), ...sides.map((side) => el("td", {}, side?.head ? words(side) : "–")))));
}

async function take(n, run) {
  ends[n]?.();
  sides[n] = null;
  complain(null);
  if (!run) { draw(); return; }
  const course = new Course();
  try {
    course.hear(await ask(`runs/${run}/course`));
    sides[n] = course;
    draw();
    if (course.head) ends[n] = listen(() => `runs/${run}/events?after=${course.last}`, (news) => { course.hear(news); draw(); });
  } catch (error) { complain(error); }
}

enter(async () => {
  const rows = (await ask("runs")).filter((row) => row.asked);
  const wanted = new URLSearchParams(location.search);
  const names = rows.map((row) => row.run);
  const first = names.includes(wanted.get("one")) ? wanted.get("one") : names[0];
  const second = names.includes(wanted.get("other")) ? wanted.get("other") : names.find((name) => name !== first);
  const taken = [];
  for (const [n, [id, chosen]] of [["one", first], ["other", second]].entries()) {
    const list = find(id);
    list.replaceChildren(...(n ? [el("option", { value: "" }, "–")] : []), ...names.map((name) => el("option", { value: name, selected: name === chosen }, name)));
    list.addEventListener("change", () => take(n, list.value));
    if (chosen) taken.push(take(n, chosen));
  }
  await Promise.all(taken);
  if (!names.length) complain(new Error("There are no runs to compare yet."));
});
