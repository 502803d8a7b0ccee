"use strict";
// Data from a pool is set as text, never as HTML.

const EVERY = 1000;
const LONGEST = 300;
const ROWS = 200;

const state = { pools: [], history: [], began: null, selected: 0, reached: 0 };
const byId = (id) => document.getElementById(id);

// ---- elements ----

const make = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(key, "");
    else if (value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== undefined));
  return node;
};

const setText = (node, text) => {
  const value = String(text);
  if (node.textContent !== value) node.textContent = value;
};

const setClass = (node, name) => {
  if (node.className !== name) node.className = name;
};

// Creates one child per item. Existing children are reused, so that text selected in them
// stays selected.
const setChildren = (parent, items, create, update) => {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, at) => {
    const child = parent.children[at] ?? parent.appendChild(create(item));
    update(child, item, at);
  });
};

// ---- words ----

const span = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.00005) return "0 ms";
  if (seconds < 0.01) return (seconds * 1000).toFixed(1) + " ms";
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 10) return seconds.toFixed(1) + " s";
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  return Math.round(seconds / 3600) + " h";
};

const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

const health = (snapshot) => {
  const { waiting, mean_wait, oldest_wait, lasted } = snapshot.health;
  const queue = waiting === 0 ? "no caller waits"
    : `${count(waiting, "caller waits", "callers wait")}, for ${span(mean_wait)} on average and ${span(oldest_wait)} at most`;
  return `for ${span(lasted)}: ${queue}`;
};

// Shown above everything else.
const notes = (pool) => {
  const { snapshot, findings } = pool;
  const all = findings.map(({ severity, summary, evidence, advice }) =>
    ({ level: severity, head: summary, text: evidence.join("\n"), advice }));
  const error = snapshot.last_error;
  if (error && !all.some(({ text }) => text.includes(error.text))) {
    all.push({ level: "info", head: `Last error, ${span(error.age)} ago`, text: error.text });
  }
  return all;
};

// ---- plots ----

const SVG = "http://www.w3.org/2000/svg";

const line = (points) => {
  let path = "";
  let drawing = false;
  for (const [x, y] of points) {
    if (y === null) { drawing = false; continue; }
    path += `${drawing ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`;
    drawing = true;
  }
  return path;
};

const plot = (title, ...keys) => {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const path = (name) => {
    const node = svg.appendChild(document.createElementNS(SVG, "path"));
    node.setAttribute("class", name);
    return node;
  };
  const [base, area, edge, second, first] = ["base", "area", "edge", "second", "first"].map(path);
  base.setAttribute("d", "M0 100H100");
  const figure = make("p", { class: "figure" });
  const top = make("span", { class: "top" });
  const from = make("span");
  const card = make("section", { class: "card" },
    make("div", { class: "head" }, make("h3", {}, title), top), figure,
    make("div", { class: "plot" }, svg),
    make("p", { class: "span" }, from, ...keys, make("span", {}, "now")));
  // `series` are functions of a sample; `most` is the value at the top.
  const draw = (samples, series, most, label, limit) => {
    const seen = Math.max(60, samples.length);
    const points = (value) => samples.map((sample, at) => {
      const y = value(sample);
      const x = 100 * (1 - (samples.length - 1 - at) / (seen - 1));
      return [x, y === null ? null : 100 * (1 - Math.min(1, y / most))];
    });
    const firsts = points(series[0]);
    first.setAttribute("d", line(firsts));
    second.setAttribute("d", series[1] ? line(points(series[1])) : "");
    edge.setAttribute("d", limit === undefined ? "" : line(points(limit)));
    const filled = !series[1] && firsts.length > 0;
    area.setAttribute("d", filled ? `${line(firsts)}L100 100L${firsts[0][0].toFixed(2)} 100Z` : "");
    setText(top, label);
    setText(from, `${seen < 120 ? seen + " s" : Math.round(seen / 60) + " min"} ago`);
  };
  return { card, figure, draw };
};

const setFigure = (node, value, unit) => {
  const text = `${value}\u0000${unit}`;
  if (node.dataset.shown === text) return;
  node.dataset.shown = text;
  node.replaceChildren(value, " ", make("small", {}, unit));
};

// ---- tables ----

const table = (title, none, columns) => {
  const body = make("tbody");
  const heads = columns.map((column) => make("th", { scope: "col" }, column.head));
  const number = make("small");
  const whole = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body);
  const nothing = make("p", { class: "none" }, none);
  const card = make("section", { class: "card part" }, make("h3", {}, title, number), whole, nothing);
  const row = () => make("tr", {}, ...columns.map((column) =>
    make("td", { class: column.kind, "data-name": column.name })));
  const show = (items) => {
    whole.hidden = items.length === 0;
    nothing.hidden = items.length > 0;
    const more = items.length > ROWS ? `, the first ${ROWS} of them here` : "";
    setText(number, items.length > 0 ? items.length + more : "");
    setChildren(body, items.slice(0, ROWS), row, (node, item) => {
      setClass(node, item.long ? "long" : "");
      columns.forEach((column, at) => setText(node.children[at], column.value(item) ?? ""));
    });
  };
  return { card, show };
};

// ---- the page ----

const parts = (() => {
  const name = make("h2");
  const badge = make("span", { class: "badge" });
  const status = make("span", { class: "soft" });
  const list = make("ul", { class: "notes", "aria-label": "What is wrong" });
  const connections = plot("Connections in use");
  const waiting = plot("Callers waiting");
  const waits = plot("Time to get a connection",
    make("span", { class: "key" }, "p50"), make("span", { class: "key second" }, "p99"));
  const ask = make("button", { type: "button", class: "ask" }, "ask the server");
  const said = make("pre", { class: "card said", "aria-label": "What the server says" });
  const holders = table("Holders", "No connection is held.", [
    { head: "held for", kind: "span-of", value: (one) => span(one.held_for) },
    { head: "where", kind: "place", value: (one) => one.location },
    { head: "label", value: (one) => one.label },
    { head: "thread", value: (one) => one.thread },
    { head: "connection", name: "connection", value: (one) => one.connection_id },
    { head: "backend", name: "backend", value: (one) => one.backend_id },
  ]);
  const waiters = table("Waiters", "No caller waits.", [
    { head: "waits for", kind: "span-of", value: (one) => span(one.waited) },
    { head: "where", kind: "place", value: (one) => one.location },
    { head: "label", value: (one) => one.label },
    { head: "thread", value: (one) => one.thread },
    { head: "priority", name: "priority", value: (one) => one.priority },
  ]);
  const calls = table("Driver calls", "No driver call is under way.", [
    { head: "runs for", kind: "span-of", value: (one) => span(one.running_for) },
    { head: "call", value: (one) => one.kind },
    { head: "connection", name: "connection", value: (one) => one.connection_id ?? "new" },
    { head: "", value: (one) => one.abandoned ? "abandoned" : one.queued ? "waits for a closer" : "" },
  ]);
  const counters = make("dl");
  const body = make("div", {}, list, said,
    make("div", { class: "cards" }, connections.card, waiting.card, waits.card),
    holders.card, waiters.card, calls.card,
    make("details", {}, make("summary", {}, "All counters"), counters));
  const title = make("div", { class: "title" }, name, badge, status, ask);
  return { name, badge, status, ask, said, list, connections, waiting, waits, holders, waiters, calls, counters, body, title };
})();

const showNotes = (pool) => {
  const all = notes(pool);
  parts.list.hidden = all.length === 0;
  setChildren(parts.list, all, () => make("li", {}, make("b"), make("p"), make("p", { class: "advice" })), (node, note) => {
    setClass(node, note.level);
    setText(node.children[0], note.head);
    setText(node.children[1], note.text);
    setText(node.children[2], note.advice ?? "");
    node.children[2].hidden = !note.advice;
  });
};

const showPlots = (stats, samples) => {
  const last = samples[samples.length - 1];
  const most = Math.max(1, stats.max_size, ...samples.map((sample) => sample.in_use));
  const others = [
    stats.idle > 0 && `${stats.idle} idle`,
    stats.opening > 0 && `${stats.opening} opening`,
    stats.closing > 0 && `${stats.closing} closing`,
    stats.abandoned > 0 && `${stats.abandoned} abandoned`,
  ].filter(Boolean);
  setFigure(parts.connections.figure, stats.in_use, [`of ${stats.max_size}`, ...others].join(", "));
  parts.connections.draw(samples, [(sample) => sample.in_use], most * 1.08, "", (sample) => sample.max_size);

  const queue = Math.max(1, ...samples.map((sample) => sample.waiting));
  const gets = last ? `${count(last.gets, "get", "gets")} a second` : "";
  const failed = last && last.timeouts + last.refused > 0 ? `, ${last.timeouts + last.refused} failed` : "";
  setFigure(parts.waiting.figure, stats.waiting, gets + failed);
  parts.waiting.draw(samples, [(sample) => sample.waiting], queue, `highest ${queue}`);

  const longest = Math.max(0.001, ...samples.map((sample) => sample.p99 ?? 0));
  setFigure(parts.waits.figure, span(last?.p99), `p99, p50 ${span(last?.p50)}`);
  parts.waits.draw(samples, [(sample) => sample.p50, (sample) => sample.p99], longest, `highest ${span(longest)}`);
};

const showCounters = (stats) => {
  const plain = Object.entries(stats).filter(([, value]) => typeof value === "number");
  const closed = Object.entries(stats.closed).map(([key, value]) => [`closed: ${key}`, value]);
  setChildren(parts.counters, [...plain, ...closed],
    () => make("div", {}, make("dt"), make("dd")),
    (node, [key, value]) => {
      setText(node.children[0], key.replaceAll("_", " "));
      setText(node.children[1], key === "time_waited" ? span(value) : value.toLocaleString("en"));
    });
};

const showNav = () => setChildren(byId("pools"), state.pools,
  () => make("button", { type: "button" }, make("i", { class: "dot" }), make("span")),
  (node, pool, at) => {
    node.onclick = () => select(at);
    node.setAttribute("aria-pressed", at === state.selected);
    const level = pool.gone ? "gone" : pool.snapshot.health.level;
    setClass(node.children[0], `dot ${level}`);
    const now = pool.gone ? "gone" : `${pool.snapshot.stats.in_use}/${pool.snapshot.stats.max_size}`;
    setText(node.children[1], `${pool.name} ${now}`);
    node.title = `${pool.name}: ${level}`;
  });

const show = () => {
  const pool = state.pools[state.selected];
  if (!pool) return;
  const main = byId("main");
  if (parts.title.parentNode !== main) main.replaceChildren(parts.title, parts.body);
  showNav();
  setText(parts.name, pool.name);
  const level = pool.gone ? "gone" : pool.snapshot.health.level;
  setClass(parts.badge, `badge ${level}`);
  setText(parts.badge, level);
  parts.body.hidden = pool.gone;
  parts.ask.hidden = pool.gone || !pool.asks;
  parts.said.hidden = state.said?.at !== state.selected;
  setText(parts.said, state.said?.text ?? "");
  if (pool.gone) {
    setText(parts.status, "The pool does not exist any more.");
    return;
  }
  const { snapshot } = pool;
  setText(parts.status, health(snapshot));
  showNotes(pool);
  showPlots(snapshot.stats, state.history[state.selected] ?? []);
  const leak = snapshot.settings?.leak_threshold ?? null;
  parts.holders.show(snapshot.holders.map((one) => ({ ...one, long: leak !== null && one.held_for > leak })));
  parts.waiters.show(snapshot.waiters);
  parts.calls.show(snapshot.calls);
  showCounters(snapshot.stats);
};

const select = (at) => {
  state.selected = at;
  history.replaceState(null, "", `#${at}`);
  show();
};

// ---- updates ----

const fetched = async (path) => {
  const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
};

// A new server at the same address numbers its samples from 1: discard the old history, and
// fetch everything the next time.
const addHistory = ({ began, pools }, after) => {
  const whole = began === state.began || after === 0;
  if (began !== state.began) state.history = [];
  state.began = began;
  if (!whole) return;
  pools.forEach((pool, at) => {
    const samples = state.history[at] ?? [];
    const newest = samples[samples.length - 1]?.number ?? 0;
    const news = pool.samples.filter((sample) => sample.number > newest);
    state.history[at] = samples.concat(news).slice(-LONGEST);
  });
};

const poll = async () => {
  try {
    const newest = state.history.map((samples) => samples[samples.length - 1]?.number ?? 0);
    const after = newest.length > 0 ? Math.min(...newest) : 0;
    const [now, past] = await Promise.all([fetched("/snapshot.json"), fetched(`/history.json?after=${after}`)]);
    state.pools = now.pools;
    const { memory } = now;
    setText(byId("memory"), memory ? `process: ${Math.round(memory.resident / 1e6)} MB in memory` : "");
    if (state.selected >= state.pools.length) state.selected = 0;
    addHistory(past, after);
    state.reached = Date.now();
    setText(byId("link"), "live");
    setClass(byId("link"), "");
    show();
  } catch (error) {
    const lost = state.reached === 0 ? "no connection" : `no connection for ${span((Date.now() - state.reached) / 1000)}`;
    setText(byId("link"), lost);
    setClass(byId("link"), "bad");
    if (!(error instanceof TypeError) && error.name !== "TimeoutError") console.error(error);
  }
};

const follow = async () => {
  if (!document.hidden) await poll();
  setTimeout(follow, EVERY);
};

// With PUT, which no other website can send.
const ask = async () => {
  const at = state.selected;
  parts.ask.disabled = true;
  setText(parts.ask, "asking …");
  try {
    const answer = await fetch(`/ask?pool=${at}`, { method: "PUT" });
    state.said = { at, text: (await answer.text()).trimEnd() };
  } catch (error) {
    state.said = { at, text: `no answer: ${error.message}` };
  }
  setText(parts.ask, "ask the server");
  parts.ask.disabled = false;
  show();
};

parts.ask.addEventListener("click", ask);

const record = async ({ target }) => {
  target.disabled = true;
  setText(target, "recording …");
  let words = "record 5 s for Perfetto";
  try {
    const answer = await fetch("/trace?seconds=5", { method: "PUT" });
    if (!answer.ok) throw new Error(await answer.text());
    const file = URL.createObjectURL(await answer.blob());
    make("a", { href: file, download: "pools.trace.json" }).click();
    // The browser has opened it by then.
    setTimeout(() => URL.revokeObjectURL(file), 60000);
  } catch (error) {
    words = `no recording: ${error.message.trim()}; try again`;
  }
  setText(target, words);
  target.disabled = false;
};

byId("record").addEventListener("click", record);
const wanted = Number.parseInt(location.hash.slice(1), 10);
state.selected = Number.isInteger(wanted) && wanted >= 0 ? wanted : 0;
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
follow();
