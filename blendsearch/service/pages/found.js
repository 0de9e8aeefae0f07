// Cards about the network to take: its costs, its size, its time and its accuracy, each beside the dense network's.
import { el, formatMetric, convertLoss, isKnown, percent } from "./api.js";

export function showFound(place, answer) {
  const best = answer.rows.find((row) => row.mark.includes("best"));
  place.hidden = !best;
  place.replaceChildren(...(best ? listCards(best, answer) : []).map(([title, value, note]) => el("div", {}, el("dt", {}, title), el("dd", {}, value, note ? el("small", {}, ` ${note}`) : null))));
}

function listCards(best, { dense, metric }) {
  const timed = isKnown(best.latency_ms) && isKnown(dense?.latency_ms);
  return [
    ["MACs", percent(best.macs_ratio, 1), "of the dense network’s"],
    ["size, float32", formatBytes(best.bytes), dense ? `instead of ${formatBytes(dense.bytes)}` : ""],
    ...(timed ? [["latency, measured", `${best.latency_ms.toPrecision(3)} ms`, `instead of ${dense.latency_ms.toPrecision(3)} ms`]] : []),
    listQuality(best, dense, metric),
  ];
}

function listQuality(best, dense, metric) {
  const tested = isKnown(best.test_accuracy) && isKnown(dense?.test_accuracy);
  const read = (row) => !isKnown(row) ? null : !metric.share ? convertLoss(metric, row.val_loss) : tested ? row.test_accuracy : row.val_accuracy;
  const title = `${tested && metric.share ? "test" : "validation"} ${metric.name}${best.trained ? "" : ", not trained"}`;
  return [title, isKnown(read(best)) ? formatMetric(metric, read(best)) : "–", isKnown(read(dense)) ? `instead of ${formatMetric(metric, read(dense))}` : ""];
}

function formatBytes(bytes) {
  let count = bytes;
  for (const unit of ["B", "kB", "MB"]) {
    if (count < 999.5) return `${unit === "B" || (count >= 10 && unit === "kB") ? count.toFixed(0) : Number(count.toPrecision(3))} ${unit}`;
    count /= 1000;
  }
  return `${Number(count.toPrecision(3))} GB`;
}
