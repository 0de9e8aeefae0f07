// A chart that the server draws: shown inline, so that it follows the theme and its points can be hovered and opened.
import { askDrawing, el } from "./api.js";

const REACH = 18; // pixels within which the nearest point is meant
const PAUSE = 1000; // least milliseconds between two drawings

// The tooltip of a shape, which the page shows in its own way.
function takeTitle(shape) {
  const title = shape.querySelector("title");
  title?.remove();
  return title?.textContent ?? null;
}

export class Chart {
  // `describe(id)` gives the text of a point, `open(id)` shows a network; without `open` the chart is a picture alone.
  constructor(place, label, describe, open) {
    Object.assign(this, { place, describe, open, path: null, waiting: false, busy: false, points: [], current: null, chosen: null });
    this.frame = el("div");
    this.tip = el("div", { class: "tip", hidden: true });
    this.live = el("div", { class: "skip", "aria-live": "polite" });
    place.append(this.frame, this.tip, this.live);
    place.tabIndex = 0;
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", open ? `${label}: the arrow keys walk along it, Enter opens a network` : label);
    if (!open) return;
    this.frame.addEventListener("pointermove", (event) => this.point(event));
    this.frame.addEventListener("pointerleave", () => this.select(null));
    this.frame.addEventListener("click", (event) => { this.point(event); if (this.current) open(this.current.id); });
    place.addEventListener("keydown", (event) => this.press(event));
    place.addEventListener("blur", () => this.select(null));
  }

  // Draw what is at `path` of the API; at most once a second, and less often where a drawing takes long.
  async refresh(path) {
    this.path = path;
    this.waiting = true;
    if (this.busy) return;
    this.busy = true;
    while (this.waiting) {
      this.waiting = false;
      const start = performance.now();
      try {
        this.show(await askDrawing(this.path));
        this.fail(null);
      } catch (error) { if (error.status === 401) throw error; else this.fail(error); }
      await new Promise((done) => setTimeout(done, Math.max(PAUSE, 2 * (performance.now() - start))));
    }
    this.busy = false;
  }

  // Say why there is no chart in the place of the old one.
  fail(error) {
    this.place.classList.toggle("failed", error !== null);
    if (error && error.status !== 503) this.frame.replaceChildren(el("p", { class: "soft" }, error.message));
  }

  show(drawing) {
    const svg = document.importNode(drawing.documentElement, true);
    const title = svg.querySelector(":scope > title"); // would be a tooltip over all of it
    svg.setAttribute("aria-label", title.textContent);
    svg.removeAttribute("aria-labelledby");
    title.remove();
    this.points = [...svg.querySelectorAll("[data-id]")].map((shape) => ({
      id: Number(shape.dataset.id), shape, x: Number(shape.getAttribute("x")), y: Number(shape.getAttribute("y")),
      words: this.open ? takeTitle(shape) : null,
    }));
    this.svg = svg;
    this.frame.replaceChildren(svg);
    this.select(null);
    this.mark(this.chosen);
  }

  // Emphasize the network that is open.
  mark(id) {
    this.chosen = id;
    for (const point of this.points) point.shape.classList.toggle("chosen", point.id === id);
  }

  point(event) {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg?.getScreenCTM()?.inverse());
    let nearest = null, least = REACH * REACH;
    for (const point of this.points) {
      const distance = (point.x - place.x) ** 2 + (point.y - place.y) ** 2;
      if (distance <= least) { least = distance; nearest = point; }
    }
    this.select(nearest);
  }

  press(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const walk = this.points.filter((point) => point.shape.closest(".walk")).sort((a, b) => a.x - b.x);
    if (step && walk.length) {
      event.preventDefault();
      const at = walk.indexOf(this.current);
      this.select(walk[at < 0 ? (step > 0 ? 0 : walk.length - 1) : Math.min(walk.length - 1, Math.max(0, at + step))]);
      this.live.textContent = this.tip.textContent;
    } else if ((event.key === "Enter" || event.key === " ") && this.current) {
      event.preventDefault();
      this.open(this.current.id);
    } else if (event.key === "Escape") this.select(null);
  }

  select(point) {
    if (point === this.current) return;
    this.current?.shape.classList.remove("current");
    this.current = point;
    this.tip.hidden = !point;
    if (!point) return;
    point.shape.classList.add("current");
    this.tip.textContent = point.words ?? this.describe(point.id);
    const [box, at] = [this.place.getBoundingClientRect(), point.shape.getBoundingClientRect()];
    const [left, top] = [at.left + at.width / 2 - box.left, at.top - box.top];
    const [right, scrolled] = [left > box.width / 2, left + this.place.scrollLeft];
    this.tip.style.maxWidth = `${Math.max(120, (right ? left : box.width - left) - 16)}px`;
    this.tip.style.transform = `translate(calc(${scrolled}px ${right ? "- 100% - 12px" : "+ 12px"}), calc(${top}px + ${top < 60 ? "14px" : "-110%"}))`;
  }
}
