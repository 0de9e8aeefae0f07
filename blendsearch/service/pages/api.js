// The server's JSON API, and what every page needs: the sign-in, elements from plain text, formatted numbers.

export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

export async function ask(path, body, method) {
  const options = { method: method ?? (body === undefined ? "GET" : "POST"), credentials: "same-origin", headers: {} };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try { answer = await fetch(`/api/${path}`, options); } catch { throw new Refused(0, "The server does not answer. Is it running?"); }
  const kind = answer.headers.get("content-type") ?? "";
  const content = kind.includes("json") ? await answer.json() : await answer.text();
  if (!answer.ok) throw new Refused(answer.status, content.error ?? String(content));
  return content;
}

// An SVG of the server, as a document. Trusted types forbid to parse text, so that the browser parses the answer.
export function askDrawing(path) {
  return new Promise((done, failed) => {
    const asked = new XMLHttpRequest();
    asked.open("GET", `/api/${path}`);
    asked.responseType = "document";
    asked.onload = () => asked.status === 200 && asked.responseXML ? done(asked.responseXML) : failed(new Refused(asked.status, "There is no chart yet."));
    asked.onerror = () => failed(new Refused(0, "The server does not answer. Is it running?"));
    asked.send();
  });
}

// Strings become text and never markup: names come from configs.
export function el(kind, facts = {}, ...inside) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(facts)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside.filter((part) => part !== undefined && part !== null).map((part) => part instanceof Node ? part : String(part)));
  return made;
}

export const find = (id) => document.getElementById(id);
export const percent = (value, digits = 2) => value === null || value === undefined ? "–" : `${(value * 100).toFixed(digits)} %`;
export const number = (value, digits = 4) => value === null || value === undefined ? "–" : value.toFixed(digits);

export const isKnown = (value) => value !== null && value !== undefined;

// The value of a metric that is stored as loss, or as 1 minus the loss where higher is better.
export const convertLoss = (metric, loss) => isKnown(loss) && metric.higher && !metric.share ? 1 - loss : loss;
export const formatMetric = (metric, value) => metric.share ? percent(value) : number(value);

// "accuracy" needs no direction.
export function describeMetric({ name, higher }) {
  return ["accuracy", "loss"].includes(name) ? "" : ` Networks are compared by ${name}: ${higher ? "higher" : "lower"} is better.`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const minutes = Math.round(seconds / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return minutes >= 2 ? `${minutes} min` : `${Math.round(seconds)} s`;
}

// Copy the text of an element; where the browser does not allow it, over plain HTTP, select it and return false.
export async function copyText(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return false;
  }
}

// A state is one word, or one word and a reason after a colon.
export function showState(place, state) {
  place.className = `state ${state.split(":")[0].split(" ")[0]}`;
  if (place.textContent !== state) place.textContent = state;
}

// Runs the page when the server accepts the session: by the cookie, by the token behind the #, or by one that is typed in.
export async function enter(page) {
  find("out").addEventListener("click", async () => {
    try { await ask("session", undefined, "DELETE"); } finally { location.assign("/"); }
  });
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  let refused = "";
  if (token) {
    history.replaceState(null, "", location.pathname + location.search);
    try { await ask("session", { token }); } catch (error) { refused = error.message; }
  }
  await opened(page, refused);
}

async function opened(page, refused = "") {
  try { await page(); } catch (error) {
    if (error.status === 401) signIn(page, refused); else showError(error);
  }
}

export function showError(error) {
  const place = find("alert");
  place.textContent = error ? error.message : "";
}

function signIn(page, refused) {
  find("out").hidden = true;
  const main = find("main");
  const held = [...main.childNodes];
  const token = el("input", { id: "token", type: "password", autocomplete: "off", required: true, size: 40 });
  const wrong = el("p", { class: "alert", role: "alert" }, refused);
  const form = el("form", { class: "actions", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await ask("session", { token: token.value.trim() });
      main.replaceChildren(...held);
      find("out").hidden = false;
      await opened(page);
    } catch (error) { wrong.textContent = error.message; token.select(); }
  } }, el("div", {}, el("label", { for: "token" }, "Token"), token), el("button", { class: "main" }, "Sign in"));
  main.replaceChildren(el("h1", {}, "Sign in"), el("p", {}, "The server printed a token when it started."), form, wrong);
  token.focus();
}

// Server-sent events, reconnected when they break; `path()` is where they continue. Returns the function that ends them.
export function listen(path, receive) {
  let source = null, over = false;
  const close = () => { over = true; source.close(); };
  const open = () => {
    if (over) return;
    source = new EventSource(`/api/${path()}`);
    source.onmessage = (event) => { showError(null); receive(JSON.parse(event.data)); };
    source.addEventListener("gone", (event) => { close(); showError(new Error(JSON.parse(event.data))); });
    source.onerror = async () => {
      showError(new Error("The connection to the server broke. Reconnecting."));
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again
      try { await ask("runs"); } catch (error) {
        if (error.status === 401) {
          close();
          showError(new Error("The server was restarted. Open the address that it printed."));
        }
      }
      setTimeout(open, 1000);
    };
  };
  open();
  addEventListener("pagehide", close);
  return close;
}
