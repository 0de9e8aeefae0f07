// The list of runs: sorted, searched, tagged, archived and deleted.
import { ask, el, enter, find, formatMetric, listen, showError, showState } from "./api.js";
import { saveCsv } from "./csv.js";

const COLUMNS = [
  { key: "run", title: "run" },
  { key: "state", title: "state" },
  { key: "model", title: "model" },
  { key: "data", title: "data" },
  { key: "budget", title: "budget" },
  { key: "evaluations", title: "evaluations", numeric: true, text: (row) => row.asked ? `${row.evaluations} of ${row.asked}` : "" },
  { key: "best_metric", title: "best, validation", numeric: true, text: (row) => row.best_metric === null ? "" : `${row.metric.name} ${formatMetric(row.metric, row.best_metric)}` },
  { key: "changed", title: "last change", numeric: true, text: (row) => row.changed === null ? "" : when(row.changed) },
];
const DAY = 86400;
const chosen = new Set();
const view = { order: "run", falls: false, search: "", archived: false };
let rows = [];
let picked = []; // the runs of the dialog that is open

function when(seconds) {
  const [date, old] = [new Date(seconds * 1000), Date.now() / 1000 - seconds];
  return old < DAY ? date.toLocaleTimeString([], { timeStyle: "short" }) : date.toLocaleDateString([], { dateStyle: "medium" });
}

// What is shown is part of the address, so that it survives a reload and can be sent to others.
function readAddress() {
  const asked = new URLSearchParams(location.search);
  const order = asked.get("sort") ?? "run";
  view.falls = order.startsWith("-");
  view.order = COLUMNS.some((column) => column.key === order.replace("-", "")) ? order.replace("-", "") : "run";
  view.search = asked.get("search") ?? "";
  view.archived = asked.has("archived");
}

function writeAddress() {
  const shown = new URLSearchParams();
  if (view.order !== "run" || view.falls) shown.set("sort", (view.falls ? "-" : "") + view.order);
  if (view.search) shown.set("search", view.search);
  if (view.archived) shown.set("archived", "");
  history.replaceState(null, "", shown.size ? `?${shown}` : location.pathname);
}

function isFound(row) {
  const text = [row.run, row.model, row.data, row.budget, row.state, ...row.tags].join(" ").toLowerCase();
  return view.search.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function compareRows(one, other) {
  const [a, b] = [one[view.order], other[view.order]];
  if (a === null || b === null) return (a === null) - (b === null); // unknown values are last
  const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return (view.falls ? -order : order) || one.run.localeCompare(other.run);
}

function listShown() {
  return rows.filter((row) => (view.archived || !row.archived) && isFound(row)).sort(compareRows);
}

function sortBy(key) {
  view.falls = view.order === key ? !view.falls : COLUMNS.find((column) => column.key === key).numeric ?? false;
  view.order = key;
  show();
}

function showHeads() {
  const all = el("input", { type: "checkbox", id: "all", "aria-label": "Select all shown runs", onchange: (event) => {
    for (const row of listShown()) if (event.target.checked) chosen.add(row.run); else chosen.delete(row.run);
    show();
  } });
  find("heads").replaceChildren(el("td", {}, all), ...COLUMNS.map(({ key, title, numeric }) => el("th", { scope: "col", class: numeric && "n", "data-key": key },
    el("button", { type: "button", class: "link sort", onclick: () => sortBy(key) }, title))));
  find("order").replaceChildren(...COLUMNS.flatMap(({ key, title }) => [["", "rising"], ["-", "falling"]].map(([sign, way]) => el("option", { value: sign + key }, `${title}, ${way}`))));
}

function makeRow(row) {
  const state = el("span", {});
  showState(state, row.state);
  const box = el("input", { type: "checkbox", checked: chosen.has(row.run), "aria-label": `Select ${row.run}`, onchange: (event) => {
    if (event.target.checked) chosen.add(row.run); else chosen.delete(row.run);
    showBar();
  } });
  const tags = row.tags.map((tag) => el("button", { type: "button", class: "tag", "aria-label": `Search for the tag ${tag}`, onclick: () => { view.search = tag; show(); } }, tag));
  return el("tr", { class: row.archived && "archived", "data-run": row.run }, el("td", { class: "box" }, box),
    el("th", { scope: "row" }, el("a", { href: `/runs/${encodeURIComponent(row.run)}` }, row.run), row.archived ? el("small", {}, " archived") : null, tags.length ? el("div", { class: "tags" }, ...tags) : null),
    el("td", { "data-label": "state" }, state),
    ...COLUMNS.slice(2).map(({ key, title, numeric, text }) => {
      const words = text ? text(row) : row[key];
      return el("td", { class: numeric && "n", "data-label": words && title, title: key === "changed" && words ? new Date(row.changed * 1000).toLocaleString() : null }, words);
    }));
}

// The rows are made anew with every event: the same control of the same run keeps the focus.
function holdFocus() {
  const controls = "a, button, input";
  const row = document.activeElement?.closest("#rows tr");
  if (!row) return () => {};
  const place = [...row.querySelectorAll(controls)].indexOf(document.activeElement);
  return () => find("rows").querySelector(`tr[data-run="${CSS.escape(row.dataset.run)}"]`)?.querySelectorAll(controls)[place]?.focus();
}

function show() {
  const shown = listShown();
  const held = holdFocus();
  for (const name of chosen) if (!shown.some((row) => row.run === name)) chosen.delete(name);
  find("rows").replaceChildren(...shown.map(makeRow));
  held();
  for (const head of find("heads").querySelectorAll("th")) {
    if (head.dataset.key === view.order) head.setAttribute("aria-sort", view.falls ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  find("order").value = (view.falls ? "-" : "") + view.order;
  find("archived").checked = view.archived;
  if (find("search").value !== view.search) find("search").value = view.search;
  showNone(shown);
  showBar();
  writeAddress();
}

function showNone(shown) {
  for (const part of ["filter", "bar", "table"]) find(part).hidden = !rows.length;
  find("none").hidden = shown.length > 0;
  find("none").replaceChildren(...(rows.length
    ? [rows.every((row) => row.archived) ? "All runs are archived." : "No run matches the search."]
    : ["There are no runs yet: ", el("a", { href: "/start" }, "start a search"), ", or run ", el("code", {}, "blendsearch search"), " in a terminal."]));
}

function showBar() {
  const shown = listShown();
  const selected = shown.filter((row) => chosen.has(row.run));
  const hidden = rows.filter((row) => row.archived).length;
  find("all").checked = selected.length > 0 && selected.length === shown.length;
  find("all").indeterminate = selected.length > 0 && selected.length < shown.length;
  find("count").textContent = selected.length ? `${selected.length} selected` : `${shown.length} of ${rows.length} runs${hidden && !view.archived ? `, ${hidden} archived` : ""}`;
  find("compare").disabled = selected.length !== 2;
  find("tag").disabled = selected.length !== 1;
  find("archive").disabled = find("delete").disabled = !selected.length;
  find("archive").textContent = selected.length && selected.every((row) => row.archived) ? "Unarchive" : "Archive";
}

function pick() { return listShown().filter((row) => chosen.has(row.run)); }

const at = (run) => `runs/${encodeURIComponent(run)}`;

// Do something to every selected run; the reason of the first failure is shown, and the others are done.
async function changeEach(changing, change) {
  showError(null);
  let failed = null;
  for (const row of changing) {
    try { await change(row); } catch (error) { failed ??= error; }
  }
  rows = await ask("runs");
  show();
  if (failed) showError(failed);
}

function openTagging() {
  picked = pick();
  const [row] = picked;
  find("tagging-h").textContent = `Tags of ${row.run}`;
  find("tags").value = row.tags.join(", ");
  find("tagging-alert").textContent = "";
  find("tagging").showModal();
}

async function saveTags(event) {
  if (event.submitter?.value !== "save") return;
  event.preventDefault();
  const [row] = picked;
  const tags = find("tags").value.split(",").map((tag) => tag.trim()).filter(Boolean);
  try {
    await ask(`${at(row.run)}/labels`, { tags });
    find("tagging").close();
    rows = await ask("runs");
    show();
  } catch (error) { find("tagging-alert").textContent = error.message; }
}

function openDeleting() {
  picked = pick();
  find("deleting-h").textContent = picked.length === 1 ? `Delete ${picked[0].run}?` : `Delete ${picked.length} runs?`;
  find("doomed").replaceChildren(...picked.map((row) => el("li", {}, `${row.run}${row.evaluations ? `, ${row.evaluations} evaluations` : ""}`)));
  find("deleting").returnValue = "";
  find("deleting").showModal();
}

find("search").addEventListener("input", (event) => { view.search = event.target.value; show(); });
find("filter").addEventListener("submit", (event) => event.preventDefault());
find("archived").addEventListener("change", (event) => { view.archived = event.target.checked; show(); });
find("order").addEventListener("change", (event) => {
  view.falls = event.target.value.startsWith("-");
  view.order = event.target.value.replace("-", "");
  show();
});
find("compare").addEventListener("click", () => {
  const [one, other] = pick();
  location.assign(`/compare?one=${encodeURIComponent(one.run)}&other=${encodeURIComponent(other.run)}`);
});
find("tag").addEventListener("click", openTagging);
find("tagging").firstElementChild.addEventListener("submit", saveTags);
find("archive").addEventListener("click", () => {
  const archived = find("archive").textContent === "Archive";
  changeEach(pick(), (row) => ask(`${at(row.run)}/labels`, { archived })).catch(showError);
});
find("delete").addEventListener("click", openDeleting);
find("deleting").addEventListener("close", () => {
  if (find("deleting").returnValue !== "delete") return;
  changeEach(picked, (row) => ask(at(row.run), undefined, "DELETE")).catch(showError);
});
find("csv").addEventListener("click", () => {
  const names = ["run", "state", "model", "data", "budget", "evaluations", "asked", "best_val_accuracy", "metric", "best_metric", "tags", "archived", "changed"];
  saveCsv("runs.csv", [names, ...listShown().map((row) => names.map((name) => name === "tags" ? row.tags.join(", ") : name === "metric" ? row.metric.name : name === "changed" && row.changed !== null ? new Date(row.changed * 1000).toISOString() : row[name]))]);
});

enter(async () => {
  const found = await ask("runs");
  readAddress();
  showHeads();
  rows = found;
  show();
  listen(() => "events", (news) => { rows = news; show(); });
});
