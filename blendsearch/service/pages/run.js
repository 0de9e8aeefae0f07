// The page of a run: what is there when it opens, and then every event.
import { ask, copyText, describeMetric, el, enter, find, listen, number, percent, showError, showState, span } from "./api.js";
import { Chart } from "./chart.js";
import { showFound } from "./found.js";
import { SearchHistory } from "./history.js";
import { showImportance } from "./importance.js";
import { showNetwork } from "./network.js";
import { ChartView } from "./view.js";

const run = decodeURIComponent(location.pathname.split("/")[2]);
const history = new SearchHistory();
let table = "", configured = false, shown = "";

const main = new Chart(find("plot"), "Chart of the networks", (id) => history.describe(id), open);
const curve = new Chart(find("curve"), "Hypervolume after every generation");
const view = new ChartView(run, () => draw());

async function open(id) {
  main.mark(id);
  await showNetwork(run, id, find("network-body"), history.metric());
  find("network-h").textContent = id === 0 ? "The dense network" : `Network ${id}`;
  if (matchMedia("(max-width: 62rem)").matches) find("network").scrollIntoView({ block: "start" });
}

function draw() {
  if (!history.head || !history.evaluated) return;
  // some methods evaluate a network or two: there is no progress to draw, as in the report
  const few = history.state.state === "finished" && !history.head.spans && history.evaluated < 3;
  find("course").hidden = few;
  find("caption").textContent = caption();
  find("volumes").hidden = few || !history.generations.length;
  if (few) return;
  main.refresh(view.chart()).catch(showError);
  const narrow = view.narrow.matches ? "&narrow=true" : "";
  if (history.generations.length) curve.refresh(`runs/${run}/chart?kind=hypervolume${narrow}`).catch(showError);
}

function caption() {
  const { x = "auto", stage } = view.choice;
  const ordered = x === "evaluations" || (x === "auto" && !history.head.spans);
  return "Each dot is a network, pruned and evaluated. " + (ordered
    ? "Networks are in the order of their ids. The line follows the best network so far. "
    : (x === "auto" && stage !== "after" ? `The front is by loss and ${history.head.cost}. ` : "") + "The line is the best value that is reached at each cost. ")
    + "Triangles at the edge are networks outside the range shown.";
}

function receive(news) {
  history.receive(news);
  if (news.head) head();
  if (news.state || news.child) state();
  if (news.generations) find("volume").textContent = number(history.generations.at(-1)?.hypervolume);
  if (news.front || news.tests) front();
  if (news.front || news.tests || news.state?.state === "finished") answer();
  if (news.front || news.state?.state === "finished") importance();
  if (news.child) output();
  if (news.head || news.state?.state === "finished") view.refresh(history.metric()).catch(showError);
  if (news.rows || news.dense || news.front || news.generations || news.head) draw();
}

function head() {
  const { title, budget, data, method, fidelity, seed, cost, spans } = history.head;
  find("title").textContent = `${title} at ${budget}`;
  document.title = `${run} · blendsearch`;
  find("under").textContent = `Run ${run}, ${data}, method ${method}, fidelity ${fidelity}, seed ${seed}.${describeMetric(history.metric())}`;
  find("main-h").textContent = spans ? `The front: ${history.metric().name} against ${cost}` : "The best network so far";
  find("front-heads").replaceChildren(...["network", "from"].map((name) => el("th", { scope: "col" }, name)), ...cells({}).map(([name]) => el("th", { scope: "col", class: "n" }, name)));
  find("report").href = `/api/runs/${run}/report`;
  find("report").hidden = false;
  find("against").href = `/compare?one=${run}`;
  find("against").hidden = false;
  find("fork").hidden = false;
  find("anew").hidden = true;
  for (const part of ["tiles", "networks", "network"]) find(part).hidden = false;
  find("columns").classList.remove("alone");
  if (!configured) {
    configured = true;
    ask(`runs/${run}/config`).then((text) => { find("config").textContent = text; }).catch(showError);
  }
}

function state() {
  const { state: word, evaluations, asked, failed, best, per_minute, utilisation, workers, seconds_left } = history.state;
  const lives = history.child?.lives ?? false;
  const { name, share } = history.metric();
  showState(find("state"), word ?? "");
  if (!history.head) waitForRun(word);
  find("done").textContent = evaluations ?? 0;
  find("asked").textContent = asked ? `of ${asked}${failed ? `, ${failed} failed` : ""}` : "";
  find("bar").value = asked ? Math.min(1, evaluations / asked) : 0;
  find("best").textContent = best ? (share ? percent(1 - best.error) : number(history.convertLoss(best.loss))) : "–";
  find("best-id").textContent = best ? `${name === "accuracy" ? "" : `${name}, `}network ${best.id}` : "";
  find("pace").textContent = per_minute ? `${per_minute.toFixed(per_minute < 10 ? 1 : 0)} a minute` : "–";
  find("workers").textContent = workers > 1 ? `${workers} workers${utilisation ? `, ${percent(utilisation, 0)} busy` : ""}` : "";
  find("left").textContent = word === "running" ? span(seconds_left) : "–";
  find("left-tile").hidden = word !== "running";
  if (word !== shown) find("tiles").open = word !== "finished";
  shown = word;
  find("stop").hidden = !lives || word === "finished";
  find("stop").textContent = word === "stopping" ? "Stop at once" : "Stop";
  find("resume").hidden = find("more").hidden = lives || !history.head || !["stopped", "finished"].includes(word);
  find("resume").textContent = word === "finished" ? "Resume with more" : "Resume";
  const field = find("evaluations");
  if (asked && document.activeElement !== field && !field.value) { field.value = asked; }
  if (asked) field.min = asked;
}

const WAITING = {
  starting: "The network and the data are loaded, the channels scored. The run appears here when the search begins.",
  stopping: "The process is ending before the search began.",
  stopped: "It was stopped before the search began, and nothing is stored.",
  failed: "It ended before the search began, and nothing is stored.",
};

// There is only a process yet, or it has ended without a run.
function waitForRun(word) {
  find("title").textContent = `Run ${run}`;
  document.title = `${run} · blendsearch`;
  find("under").textContent = WAITING[word] ?? "";
  find("anew").href = `/start?from=${run}`;
  find("anew").hidden = !["stopped", "failed"].includes(word);
}

function front() {
  const rows = history.onFront();
  const now = JSON.stringify([history.front, [...history.tests]]);
  if (now === table) return;
  table = now;
  const note = (id) => [id === history.front.best ? "best" : null, id === history.front.knee ? "knee" : null].filter(Boolean).join(", ");
  const listed = history.dense ? [{ id: 0, cost: 1, params: 1, error: history.dense.error, loss: history.dense.loss }, ...rows] : rows;
  find("front").replaceChildren(...listed.map((row) => el("tr", note(row.id) ? { class: "chosen" } : {},
    el("th", { scope: "row" }, el("button", { type: "button", class: "link", "aria-label": `Network ${row.id}`, onclick: () => open(row.id) }, row.id), note(row.id) ? ` ${note(row.id)}` : ""),
    el("td", { "data-label": "from" }, history.name(row.id).startsWith("network ") ? `generation ${row.generation}` : history.name(row.id)),
    ...cells(row).map(([label, words]) => el("td", { class: "n", "data-label": label }, words)))));
}

function cells(row) {
  return [[history.head?.cost ?? "cost", percent(row.cost)], ["parameters", percent(row.params)], ...history.list(row, history.tests.get(row.id))];
}

// The network to take, in a sentence: asked for at most every five seconds, and once more at the end.
let asked = 0, waiting = null;
function answer() {
  if (waiting !== null) return;
  waiting = setTimeout(async () => {
    asked = Date.now();
    waiting = null;
    try {
      const found = (await ask(`runs/${run}/front`)).answer;
      find("answer").hidden = !found.rows.length;
      find("sentence").textContent = found.sentences[0];
      find("command").textContent = found.command;
      showFound(find("found"), found);
      find("hint").textContent = [...found.sentences.slice(1), found.hint].filter(Boolean).join(" ");
    } catch (error) { showError(error); }
  }, Math.max(0, asked + 5000 - Date.now()));
}

// Importance changes slowly: it is asked for at most once a minute.
let measured = 0, measuring = null;
function importance() {
  measuring ??= setTimeout(async () => {
    measured = Date.now();
    measuring = null;
    try { await showImportance(run, find("importance"), find("importance-body")); } catch (error) { showError(error); }
  }, Math.max(0, measured + 60_000 - Date.now()));
}

function output() {
  const place = find("output");
  const { said: lines, lives, started } = history.child;
  place.textContent = lines.length ? lines.join("\n") : !started ? "The search was not started by this server." : lives ? "There is no output yet." : "The process ended without output.";
  place.scrollTop = place.scrollHeight;
  const reason = /^blendsearch: (?!stopped)(.*)/.exec(lines.at(-1) ?? "")?.[1];
  if (!lives && (reason || history.state.state === "failed")) showError(new Error(reason ?? lines.at(-1) ?? "The process ended without a reason."));
}

function act(button, path, body) {
  find(button).addEventListener("click", async () => {
    showError(null);
    find(button).disabled = true;
    try { await ask(`runs/${run}/${path}`, body()); } catch (error) { showError(error); } finally { find(button).disabled = false; }
  });
}

for (const part of ["command", "sentence"]) {
  find(`copy-${part}`).addEventListener("click", async () => {
    find("copied").textContent = await copyText(find(part)) ? `The ${part} is copied.` : `The ${part} is selected: press Ctrl+C.`;
  });
}

act("stop", "stop", () => ({}));
act("resume", "resume", () => {
  const wanted = Number(find("evaluations").value);
  return { set: wanted && wanted !== history.state.asked ? [`search.evaluations=${wanted}`] : [] };
});

find("fork").addEventListener("click", () => {
  const form = find("forking");
  form.hidden = !form.hidden;
  find("fork").setAttribute("aria-expanded", String(!form.hidden));
  if (!form.hidden) find("changes").focus();
});
find("forking").addEventListener("submit", async (event) => {
  event.preventDefault();
  showError(null);
  try {
    const set = find("changes").value.split("\n").map((line) => line.trim()).filter(Boolean);
    const made = await ask(`runs/${run}/fork`, { name: find("forked").value || null, set });
    location.assign(`/runs/${encodeURIComponent(made.run)}`);
  } catch (error) { showError(error); }
});

enter(async () => {
  try { receive(await ask(`runs/${run}/course`)); } catch (error) {
    find("title").textContent = `Run ${run}`;
    find("columns").hidden = true;
    find("gone").hidden = false;
    throw error;
  }
  listen(() => `runs/${run}/events?after=${history.last}`, receive);
});
