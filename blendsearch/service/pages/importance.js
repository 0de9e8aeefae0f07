// The importance of criteria, clusters and groups: tables with a bar for the correlation with the loss.
import { ask, el, percent } from "./api.js";

export async function showImportance(run, section, place) {
  const found = await ask(`runs/${run}/importance`);
  section.hidden = !found.criteria.length && !found.groups.length;
  if (section.hidden) return;
  const parts = `A criterion’s part of the blend, averaged over groups: in the ${found.best} best networks, and in all.`;
  const kept = `The share of its channels that a group keeps: in the ${found.best} best networks, and in all. The dense network keeps 100 %.`;
  place.replaceChildren(
    el("p", { class: "soft" }, found.note),
    ...table("Criteria", "criterion", parts, found.criteria.map((row) => [row.members[0], row.best_part, row.mean_part, row.rho]), found.chance),
    ...table("Clusters of criteria", "cluster", "", found.clusters.map((row) => [row.members.join(", "), row.best_part, row.mean_part, row.rho]), found.chance),
    ...table("Groups of layers", "group", kept, found.groups.map((row) => [row.group, row.best_kept, row.mean_kept, row.rho]), found.chance));
}

function table(title, head, words, rows, chance) {
  if (!rows.length) return [];
  const column = (name, facts = {}) => el("th", { scope: "col", ...facts }, name);
  return [el("h3", {}, title), words ? el("p", { class: "soft" }, words) : "",
    el("div", { class: "tall", tabindex: "0", role: "region", "aria-label": `Importance: ${title}, scrolls` }, el("table", { class: "strength" },
      el("thead", {}, el("tr", {}, column(head), column("best", { class: "n" }), column("all", { class: "n" }), column("rho with the loss", { class: "n", colspan: 2 }))),
      el("tbody", {}, ...rows.map(([name, best, all, rho]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "n" }, percent(best, 0)), el("td", { class: "n" }, percent(all, 0)),
        el("td", { class: "rho", "aria-hidden": "true" }, bar(rho)), el("td", { class: "n" }, format(rho, chance)))))))];
}

function format(rho, chance) {
  if (rho === null) return "–";
  return Math.abs(rho) < chance ? `(${rho.toFixed(2)})` : rho.toFixed(2);
}

function bar(rho) {
  const filled = el("i", { class: rho > 0 ? "worse" : "better" });
  filled.style.width = `${50 * Math.abs(rho ?? 0)}%`;
  return el("div", {}, filled);
}
