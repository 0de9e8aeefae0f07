// A run's page: what is there already, and then what comes as it comes.
import { ask, complain, el, enter, find, listen, number, percent, showState, span } from "./api.js";
import { Course, KINDS } from "./course.js";
import { Plot, sample } from "./plot.js";
import { showNetwork } from "./candidate.js";

const run = decodeURIComponent(location.pathname.split("/")[2]);
const course = new Course();
let open = null, legend = "", table = "", configured = false;

const main = new Plot(find("plot"), 380, "Networks by error", choose);
const curve = new Plot(find("curve"), 200, "Hypervolume after every generation", null);

async function choose(id) {
  open = id;
  draw();
  await showNetwork(run, id, find("network-body"));
  find("network-h").textContent = id === 0 ? "The dense network" : `Network ${id}`;
  if (matchMedia("(max-width: 62rem)").matches) find("network").scrollIntoView({ block: "start" });
}

function draw() {
  if (!course.head) return;
  // the network or two that some methods end with are no course to draw, as in the report
  const few = course.state.state === "finished" && !course.head.spans && course.judged.length < 3;
  find("course").hidden = find("volumes").hidden = few;
  if (few) return;
  main.show(course.scene(open), course.picture());
  curve.show(course.curve(), `Hypervolume after ${course.generations.length} generations, at last ${number(course.generations.at(-1)?.hypervolume)}`);
}

function hear(news) {
  course.hear(news);
  if (news.head) head();
  if (news.state || news.child) state();
  if (news.generations) find("volume").textContent = number(course.generations.at(-1)?.hypervolume);
  if (news.front || news.tests) { front(); key(); }
  if (news.child) said();
  if (news.rows || news.dense || news.front || news.generations || news.head) draw();
}

function head() {
  const { title, budget, data, method, fidelity, seed, cost, spans } = course.head;
  find("title").textContent = `${title} at ${budget}`;
  document.title = `${run} · blendsearch`;
  find("under").textContent = `Run ${run}, ${data}, method ${method}, judged ${fidelity}, seed ${seed}.`;
  find("main-h").textContent = spans ? `The front: ${course.told() ? "error" : "loss"} against ${cost}` : "How the search comes to its best";
  find("cost-h").textContent = cost;
  find("caption").textContent = spans
    ? `Every dot is a network that was cut and judged; dark ones are of the last generation. The front is by loss and ${cost}, so its errors need not fall all the way. Triangles at the edge are above the picture.`
    : "Every dot is a network that was cut and judged, in the order of asking; dark ones are of the last generation. The line is that of the one with the least loss until then. Triangles at the edge are above the picture.";
  find("report").href = `/api/runs/${run}/report`;
  find("report").hidden = false;
  find("against").href = `/compare?one=${run}`;
  find("against").hidden = false;
  find("fork").hidden = false;
  if (!configured) {
    configured = true;
    ask(`runs/${run}/config`).then((text) => { find("config").textContent = text; }).catch(complain);
  }
}

function state() {
  const { state: word, evaluations, asked, failed, best, per_minute, utilisation, workers, seconds_left } = course.state;
  const lives = course.child?.lives ?? false;
  const shown = lives && (word === "stopped" || word === "finished") ? "starting" : word;
  showState(find("state"), shown ?? "");
  find("done").textContent = evaluations ?? 0;
  find("asked").textContent = asked ? `of ${asked}${failed ? `, ${failed} failed` : ""}` : "";
  find("bar").value = asked ? Math.min(1, evaluations / asked) : 0;
  find("best").textContent = best ? (course.told() ? percent(1 - best.error) : number(best.loss)) : "–";
  find("best-id").textContent = best ? `network ${best.id}` : "";
  find("pace").textContent = per_minute ? `${per_minute.toFixed(per_minute < 10 ? 1 : 0)} a minute` : "–";
  find("workers").textContent = workers > 1 ? `${workers} workers${utilisation ? `, ${percent(utilisation, 0)} busy` : ""}` : "";
  find("left").textContent = shown === "running" ? span(seconds_left) : "–";
  find("stop").hidden = !lives;
  find("resume").hidden = find("more").hidden = lives || !["stopped", "finished"].includes(word);
  find("resume").textContent = word === "finished" ? "Go on" : "Resume";
  const field = find("evaluations");
  if (asked && document.activeElement !== field && !field.value) { field.value = asked; }
  if (asked) field.min = asked;
}

function key() {
  const words = course.head?.spans ? "front" : "least loss so far";
  const kinds = KINDS.map((style, n) => [style, course.baselines.find((item) => item.shape === n)?.kind]).filter(([, kind]) => kind);
  const now = JSON.stringify([words, kinds.map(([, kind]) => kind), Boolean(course.dense)]);
  if (now === legend || !course.head) return;
  legend = now;
  const spans = course.head.spans;
  const items = [sample({ kind: "line", colour: "blue" }, words)];
  for (const [[shape, colour, dash], kind] of kinds) items.push(sample(spans ? { kind: "marks", shape, colour, size: 5 } : { kind: "line", colour, dash, size: 1.6 }, `best ${kind}`));
  if (course.dense) items.push(sample(spans ? { kind: "marks", shape: "star", colour: "ink", size: 6, full: true } : { kind: "line", colour: "ink", size: 1.6 }, "dense network"));
  items.push(sample({ kind: "dots", colour: "seen", alpha: .7, size: 3 }, "evaluated"));
  find("legend").replaceChildren(...items);
}

function front() {
  const rows = course.onFront();
  const now = JSON.stringify([course.front, [...course.tests]]);
  if (now === table) return;
  table = now;
  const note = (id) => [id === course.front.best ? "best" : null, id === course.front.knee ? "knee" : null].filter(Boolean).join(", ");
  const listed = course.dense ? [{ id: 0, cost: 1, params: 1, error: course.dense.error, loss: course.dense.loss }, ...rows] : rows;
  find("front").replaceChildren(...listed.map((row) => el("tr", note(row.id) ? { class: "chosen" } : {},
    el("th", { scope: "row" }, el("button", { type: "button", class: "link", "aria-label": `Network ${row.id}`, onclick: () => choose(row.id) }, row.id), note(row.id) ? ` ${note(row.id)}` : ""),
    el("td", {}, course.called(row.id).startsWith("network ") ? `generation ${row.generation}` : course.called(row.id)),
    el("td", { class: "n" }, percent(row.cost)), el("td", { class: "n" }, percent(row.params)), el("td", { class: "n" }, number(row.loss)),
    el("td", { class: "n" }, row.error === null || !course.told() ? "–" : percent(1 - row.error)), el("td", { class: "n" }, percent(course.tests.get(row.id))))));
}

function said() {
  const place = find("said");
  const lines = course.child.said;
  place.textContent = lines.length ? lines.join("\n") : "It was not started here, or has said nothing yet.";
  place.scrollTop = place.scrollHeight;
  if (course.state.state === "failed") complain(new Error(lines.at(-1) ?? "It ended without a reason."));
}

function act(button, path, body) {
  find(button).addEventListener("click", async () => {
    complain(null);
    find(button).disabled = true;
    try { await ask(`runs/${run}/${path}`, body()); } catch (error) { complain(error); } finally { find(button).disabled = false; }
  });
}

act("stop", "stop", () => ({}));
act("resume", "resume", () => {
  const wanted = Number(find("evaluations").value);
  return { set: wanted && wanted !== course.state.asked ? [`search.evaluations=${wanted}`] : [] };
});

find("fork").addEventListener("click", () => {
  const form = find("forking");
  form.hidden = !form.hidden;
  find("fork").setAttribute("aria-expanded", String(!form.hidden));
  if (!form.hidden) find("changes").focus();
});
find("forking").addEventListener("submit", async (event) => {
  event.preventDefault();
  complain(null);
  try {
    const set = find("changes").value.split("\n").map((line) => line.trim()).filter(Boolean);
    const made = await ask(`runs/${run}/fork`, { name: find("forked").value || null, set });
    location.assign(`/runs/${encodeURIComponent(made.run)}`);
  } catch (error) { complain(error); }
});

enter(async () => {
  hear(await ask(`runs/${run}/course`));
  listen(() => `runs/${run}/events?after=${course.last}`, hear);
});
