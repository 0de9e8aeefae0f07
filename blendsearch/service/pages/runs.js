// The list of runs.
import { ask, el, enter, find, listen, percent, showState } from "./api.js";

function show(rows) {
  find("none").hidden = rows.length > 0;
  find("rows").replaceChildren(...rows.map((row) => {
    const state = el("span", {});
    showState(state, row.state);
    return el("tr", {}, el("th", { scope: "row" }, el("a", { href: `/runs/${encodeURIComponent(row.run)}` }, row.run)), el("td", {}, state),
      el("td", {}, row.model), el("td", {}, row.data), el("td", {}, row.budget),
      el("td", { class: "n" }, row.asked ? `${row.evaluations} of ${row.asked}` : ""), el("td", { class: "n" }, row.best_val_accuracy === null ? "" : percent(row.best_val_accuracy)));
  }));
}

enter(async () => {
  show(await ask("runs"));
  listen(() => "events", show);
});
