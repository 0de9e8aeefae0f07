// A picture on a canvas: axes, dots by the ten thousand, lines, marks; pointed at by mouse, finger or arrow keys.
import { el } from "./api.js";

const LEFT = 68, RIGHT = 14, TOP = 12, BOTTOM = 44;
const REACH = 18; // pixels from a dot within which it is meant

export class Plot {
  // `place` is an element; `height` its height in pixels; `chosen(id)` hears of a dot that was clicked.
  constructor(place, height, label, chosen) {
    this.place = place;
    this.height = height;
    this.chosen = chosen;
    this.canvas = el("canvas", { role: "img", "aria-label": label });
    this.tip = el("div", { class: "tip", hidden: true });
    this.live = el("div", { class: "skip", "aria-live": "polite" });
    place.append(this.canvas, this.tip, this.live);
    if (chosen) {
      place.tabIndex = 0;
      place.setAttribute("role", "group");
      place.setAttribute("aria-label", `${label}: arrow keys walk along it, Enter opens a network`);
      place.addEventListener("keydown", (event) => this.key(event));
      this.canvas.addEventListener("pointermove", (event) => this.point(event));
      this.canvas.addEventListener("pointerleave", () => this.mean(null));
      this.canvas.addEventListener("click", (event) => { this.point(event); if (this.meant) chosen(this.meant.id); });
      place.addEventListener("blur", () => this.mean(null));
    }
    this.meant = null;
    this.waiting = false;
    new ResizeObserver(() => this.soon()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.soon());
  }

  // `scene`: x and y axes {least, most, name, form}, `layers` from back to front, `targets` to point at {id, x, y, tip},
  // `walk` the targets that arrow keys go through, `ring` {x, y} round what is open.
  show(scene, label) {
    this.scene = scene;
    if (label && this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
    this.soon();
  }

  soon() {
    if (this.waiting || !this.scene) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw(); });
  }

  draw() {
    const width = this.place.clientWidth;
    if (!width) return;
    const dense = devicePixelRatio || 1;
    const sized = [Math.round(width * dense), Math.round(this.height * dense)];
    if (this.canvas.width !== sized[0] || this.canvas.height !== sized[1]) {
      [this.canvas.width, this.canvas.height] = sized;
      this.canvas.style.height = `${this.height}px`;
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, this.height);
    const { x, y, layers, ring } = this.scene;
    this.px = (value) => LEFT + (value - x.least) / (x.most - x.least || 1) * (width - LEFT - RIGHT);
    this.py = (value) => this.height - BOTTOM - (value - y.least) / (y.most - y.least || 1) * (this.height - TOP - BOTTOM);
    const colours = palette();
    this.axes(pen, colours, width);
    for (const layer of layers) paint(pen, layer, this.px, this.py, colours, y.most);
    for (const place of [ring, this.meant]) {
      if (place) mark(pen, "circle", this.px(place.x), this.py(Math.min(place.y, y.most)), 8, colours.ink, false);
    }
  }

  axes(pen, colours, width) {
    const { x, y } = this.scene;
    pen.font = "12px system-ui, sans-serif";
    pen.lineWidth = 1;
    const floor = this.height - BOTTOM;
    pen.textAlign = "right"; pen.textBaseline = "middle";
    for (const value of ticks(y.least, y.most, this.height < 300 ? 3 : 5)) {
      line(pen, [[LEFT, this.py(value)], [width - RIGHT, this.py(value)]], colours.faint);
      pen.fillStyle = colours.soft; pen.fillText(y.form(value), LEFT - 6, this.py(value));
    }
    pen.textAlign = "center"; pen.textBaseline = "top";
    for (const value of ticks(x.least, x.most, width < 500 ? 4 : 7)) {
      line(pen, [[this.px(value), TOP], [this.px(value), floor]], colours.faint);
      pen.fillStyle = colours.soft; pen.fillText(x.form(value), this.px(value), floor + 6);
    }
    line(pen, [[LEFT, TOP], [LEFT, floor], [width - RIGHT, floor]], colours.soft);
    pen.fillStyle = colours.soft;
    pen.fillText(x.name, (LEFT + width - RIGHT) / 2, floor + 25);
    pen.save();
    pen.translate(10, (TOP + floor) / 2); pen.rotate(-Math.PI / 2); pen.textBaseline = "middle";
    pen.fillText(y.name, 0, 0);
    pen.restore();
  }

  point(event) {
    if (!this.px) return;
    const box = this.canvas.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    let nearest = null, least = REACH * REACH;
    const most = this.scene.y.most;
    for (const target of this.scene.targets) {
      const distance = (this.px(target.x) - left) ** 2 + (this.py(Math.min(target.y, most)) - top) ** 2;
      if (distance <= least) { least = distance; nearest = target; }
    }
    this.mean(nearest);
  }

  key(event) {
    const walk = this.scene?.walk ?? [];
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step && walk.length) {
      event.preventDefault();
      const at = walk.findIndex((target) => target.id === this.meant?.id);
      const next = at < 0 ? (step > 0 ? 0 : walk.length - 1) : Math.min(walk.length - 1, Math.max(0, at + step));
      this.mean(walk[next]);
      this.live.textContent = walk[next].tip();
    } else if ((event.key === "Enter" || event.key === " ") && this.meant) {
      event.preventDefault();
      this.chosen(this.meant.id);
    } else if (event.key === "Escape") this.mean(null);
  }

  mean(target) {
    if (target === this.meant) return;
    this.meant = target;
    this.tip.hidden = !target;
    if (target) {
      this.tip.textContent = target.tip();
      const [left, top] = [this.px(target.x), this.py(Math.min(target.y, this.scene.y.most))];
      const right = left > this.place.clientWidth / 2;
      this.tip.style.transform = `translate(calc(${left}px ${right ? "- 100% - 12px" : "+ 12px"}), calc(${top}px + ${top < 60 ? "10px" : "-110%"}))`;
    }
    this.soon();
  }
}

// A legend's sample, drawn as in the picture.
export function sample(layer, words) {
  const canvas = el("canvas", { width: 52, height: 28, "aria-hidden": "true" });
  const draw = () => {
    const pen = canvas.getContext("2d");
    pen.setTransform(2, 0, 0, 2, 0, 0);
    pen.clearRect(0, 0, 26, 14);
    const flat = { ...layer, xs: [13], ys: [7], points: layer.kind === "line" ? [[0, 7], [26, 7]] : [[13, 7]], step: false };
    paint(pen, flat, (value) => value, (value) => value, palette(), Infinity);
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return el("li", {}, canvas, words);
}

export function ticks(least, most, about) {
  const rough = (most - least) / about;
  if (!(rough > 0)) return [];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const found = [];
  for (let value = Math.ceil(least / step - 1e-9) * step; value <= most + 1e-9 * step; value += step) found.push(Math.abs(value) < step / 1e6 ? 0 : value);
  return found;
}

function palette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ground", "ink", "soft", "rule", "faint", "blue", "vermillion", "orange", "green", "purple", "seen"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// Layers: dots {xs, ys, colour, alpha, size}, line {points, colour, dash, step}, marks {points, shape, colour, size, full}.
function paint(pen, layer, px, py, colours, most) {
  const colour = colours[layer.colour];
  if (layer.kind === "dots") {
    pen.save();
    pen.globalAlpha = layer.alpha ?? 1;
    pen.fillStyle = colour;
    pen.beginPath();
    const size = layer.size;
    for (let n = 0; n < layer.xs.length; n += 1) {
      const left = px(layer.xs[n]);
      if (layer.ys[n] <= most) {
        const top = py(layer.ys[n]);
        pen.moveTo(left + size, top);
        pen.arc(left, top, size, 0, 7);
      } else { // above the picture
        const top = py(most) - 3;
        pen.moveTo(left, top - 4); pen.lineTo(left + 4, top + 3); pen.lineTo(left - 4, top + 3); pen.closePath();
      }
    }
    pen.fill();
    pen.restore();
  } else if (layer.kind === "line") {
    const points = [];
    for (const [x, y] of layer.points) {
      const place = [px(x), py(Math.min(y, most))];
      if (layer.step && points.length) points.push([place[0], points.at(-1)[1]]);
      points.push(place);
    }
    line(pen, points, colour, layer.size ?? 2, layer.dash ?? []);
  } else {
    for (const [x, y] of layer.points) {
      if (y <= most || layer.clamp) mark(pen, layer.shape, px(x), py(Math.min(y, most)), layer.size, colour, layer.full, colours.ground);
    }
  }
}

function line(pen, points, colour, size = 1, dash = []) {
  pen.save();
  pen.strokeStyle = colour; pen.lineWidth = size; pen.setLineDash(dash);
  pen.beginPath();
  points.forEach(([x, y], n) => n ? pen.lineTo(x, y) : pen.moveTo(x, y));
  pen.stroke();
  pen.restore();
}

function mark(pen, shape, x, y, size, colour, full, ground) {
  pen.save();
  pen.beginPath();
  const corners = {
    diamond: [[0, -1], [1, 0], [0, 1], [-1, 0]], square: [[-.8, -.8], [.8, -.8], [.8, .8], [-.8, .8]], triangle: [[0, -1], [.95, .8], [-.95, .8]],
    star: Array.from({ length: 10 }, (_, n) => { const r = n % 2 ? .42 : 1, turn = Math.PI * n / 5; return [r * Math.sin(turn), -r * Math.cos(turn)]; }),
  }[shape];
  if (shape === "circle") pen.arc(x, y, size, 0, 7);
  else if (shape === "cross") { pen.moveTo(x - size, y - size); pen.lineTo(x + size, y + size); pen.moveTo(x + size, y - size); pen.lineTo(x - size, y + size); }
  else { corners.forEach(([a, b], n) => n ? pen.lineTo(x + a * size, y + b * size) : pen.moveTo(x + a * size, y + b * size)); pen.closePath(); }
  if (full) { pen.fillStyle = colour; pen.fill(); if (ground) { pen.strokeStyle = ground; pen.lineWidth = 1; pen.stroke(); } }
  else { pen.strokeStyle = colour; pen.lineWidth = 2; pen.stroke(); }
  pen.restore();
}
