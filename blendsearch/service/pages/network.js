// One network: the channels that each group keeps, the weights of its blend, its costs, and its export.
import { ask, convertLoss, el, number, percent } from "./api.js";

const SHOWN = 4, LEAST = .005;

export async function showNetwork(run, id, place, metric) {
  place.setAttribute("aria-busy", "true");
  try {
    const facts = await ask(`runs/${run}/networks/${id}`);
    place.replaceChildren(...parts(run, facts, metric));
  } catch (error) {
    place.replaceChildren(el("p", { class: "alert", role: "alert" }, error.message));
  } finally { place.removeAttribute("aria-busy"); }
}

function parts(run, facts, metric) {
  const { name, share } = metric;
  const loss = (value) => `${share ? "loss" : name} ${number(convertLoss(metric, value))}`;
  const further = Object.entries(facts.further ?? {}).filter(([key]) => key !== name);
  const origin = facts.origin.split(" = ");
  const rows = [
    ["from", facts.origin === "dense" ? "the dense network" : `${origin[0]}, generation ${facts.generation}${facts.on_front ? ", on the front" : ""}`],
    ["MACs", `${percent(facts.macs_ratio)} (${facts.macs.toLocaleString("en")})`],
    ["parameters", `${percent(facts.params_ratio)} (${facts.params.toLocaleString("en")})`],
    ["memory", facts.memory_ratio === undefined ? null : percent(facts.memory_ratio)],
    ["latency", facts.latency_ratio === undefined ? null : `${percent(facts.latency_ratio)} charged`],
    ["validation", loss(facts.val_loss) + (share ? `, ${name} ${percent(facts.val_accuracy)}` : "")],
    ["test", facts.test_accuracy === null ? null : `${name} ${percent(facts.test_accuracy)}`],
    ...further.map(([key, value]) => [key, value.toPrecision(4)]),
    ["evaluated", `${facts.fidelity}, ${facts.seconds.toFixed(1)} s`],
    ...facts.finals.map((final) => [`${final.how}, seed ${final.repeat}`, share ? `validation ${percent(final.val_accuracy)}, test ${percent(final.test_accuracy)}` : `validation ${loss(final.val_loss)}, test ${loss(final.test_loss)}`]),
    ["cut", facts.cut.slice(0, 16)],
  ].filter(([, words]) => words !== null);
  const list = el("dl", { class: "facts" }, ...rows.flatMap(([name, words]) => [el("dt", {}, name), el("dd", {}, words)]));
  const blends = facts.groups.map((group) => blend(group));
  const alike = blends.length > 1 && blends.every((words) => words === blends[0]);
  const kept = el("table", { class: "bars" },
    el("caption", {}, "Bars are as long as the share of channels that is kept."),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "group"), el("th", { scope: "col" }, "kept"), el("th", { scope: "col", class: "n" }, "channels"), alike || !blends.some(Boolean) ? null : el("th", { scope: "col" }, "weights"))),
    el("tbody", {}, ...facts.groups.map((group, n) => el("tr", {}, el("th", { scope: "row" }, group.group), el("td", { class: "wide" }, bar(group.kept_ratio)),
      el("td", { class: "n" }, `${group.kept} of ${group.channels}`), alike || !blends.some(Boolean) ? null : el("td", {}, blends[n])))));
  return [
    list,
    makeExport(run, facts),
    ...(alike && facts.groups[0].blend ? [el("h3", {}, "Blend, the same in every group"), bars(facts.groups[0].blend)] : []),
    alike && !facts.groups[0].blend && blends[0] ? el("p", {}, blends[0]) : null,
    el("h3", {}, "Channels kept"), el("div", { class: "tall", tabindex: "0", role: "region", "aria-label": "Table of groups, scrolls" }, kept),
  ].filter(Boolean);
}

function blend(group) {
  if (group.log_alpha !== undefined) return `log α ${group.log_alpha.toFixed(2)}, β ${group.beta.toFixed(2)}`;
  const used = (group.blend ?? []).filter((item) => item.part >= LEAST);
  const rest = used.length - SHOWN;
  return used.slice(0, SHOWN).map((item) => `${item.criterion} ${percent(item.part, 0)}`).join(", ") + (rest > 0 ? `, ${rest} more` : "");
}

function bars(blend) {
  return el("table", { class: "bars" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "criterion"), el("th", { scope: "col" }, "weight"), el("th", { scope: "col", class: "n" }, "share"))),
    el("tbody", {}, ...blend.filter((item) => item.part >= LEAST).map((item) => el("tr", {}, el("th", { scope: "row" }, item.criterion), el("td", { class: "wide" }, bar(item.part, "weight")), el("td", { class: "n" }, percent(item.part, 0))))));
}

function bar(share, kind = "") {
  const filled = el("i");
  filled.style.width = `${Math.min(100, share * 100)}%`;
  return el("div", { class: `bar ${kind}`, "aria-hidden": "true" }, filled);
}

// A process of the server writes the files once; they are downloaded as one zip.
function makeExport(run, facts) {
  if (facts.origin === "dense") return null;
  const words = el("span", { class: "soft", role: "status" });
  const button = el("button", { type: "button", onclick: async () => {
    button.disabled = true;
    try {
      let found = await ask(`runs/${run}/exports`, { pick: String(facts.id) });
      words.textContent = "Exporting: cut, written, loaded back and evaluated again …";
      while (found.state === "going") {
        await new Promise((done) => setTimeout(done, 700));
        found = await ask(`runs/${run}/exports/${facts.id}`);
      }
      if (found.state !== "done") throw new Error(found.said.at(-1) ?? "the export failed without a reason");
      const link = el("a", { class: "button", href: `/api/runs/${run}/exports/${facts.id}/files`, download: "" }, "Download the files (zip)");
      words.textContent = "Written and checked.";
      button.replaceWith(link);
      link.focus();
    } catch (error) { words.textContent = error.message; button.disabled = false; }
  } }, `Export network ${facts.id}`);
  return el("div", { class: "actions" }, button, words);
}
