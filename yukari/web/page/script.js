// Live bars, copy buttons and search while typing. Without it all is readable and every form works.
"use strict";

const UNITS = ["B", "KB", "MB", "GB", "TB", "PB"];

function size(count) {
  let unit = 0;
  while (count >= 999.5 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit === 0 || count >= 99.95 ? count.toFixed(0) : count.toFixed(1)} ${UNITS[unit]}`;
}

function duration(seconds) {
  for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * length) return `${Math.round(seconds / length)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

// Copy buttons

function copyText(pre) {
  const text = pre.textContent;
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages that came by plain HTTP have no clipboard of their own.
  const range = document.createRange();
  range.selectNodeContents(pre);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  return document.execCommand("copy") ? Promise.resolve() : Promise.reject(new Error());
}

for (const command of document.querySelectorAll(".command")) {
  const pre = command.querySelector("pre");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy: ${pre.getAttribute("aria-label")}`);
  button.addEventListener("click", async () => {
    try {
      await copyText(pre);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  command.append(button);
}

// What was done is said once

if (document.querySelector(".done")) {
  const url = new URL(location);
  url.searchParams.delete("done");
  history.replaceState(null, "", url);
}

// What is on its way

const live = document.querySelector("[data-live]");
const list = document.querySelector(".fills");

function made(tag, attributes, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

// As templates/fill.html makes them.
function newItem(fill) {
  const part = (tag, name, more) => made(tag, { "data-part": name, ...more });
  const item = made("li", { "data-fill": fill.digest },
    made("div", { class: "what" }, part("strong", "model"), " ", part("small", "digest")),
    part("progress", "bar", { max: 100 }),
    made("div", { class: "facts" }, part("span", "percent"), " ", part("span", "size"), " ",
      part("span", "rate"), " ", part("span", "note")));
  const token = list.dataset.token;
  if (token) {
    item.append(made("details", { class: "stop" },
      made("summary", { class: "button small" }, "Stop…"),
      made("form", { method: "post", action: "/page/stop" },
        made("input", { type: "hidden", name: "token", value: token }),
        made("input", { type: "hidden", name: "digest", value: fill.digest }),
        made("button", { class: "small bad" }, "Stop and delete what has arrived"))));
  }
  return item;
}

function show(item, fill) {
  const part = (name) => item.querySelector(`[data-part="${name}"]`);
  const short = fill.digest.slice(7, 19);
  const named = `${fill.model}, ${short}`;
  part("model").textContent = fill.model;
  part("digest").textContent = short;
  part("bar").value = fill.percent;
  part("bar").setAttribute("aria-label", named);
  part("percent").textContent = `${fill.percent} %`;
  part("size").textContent = `of ${size(fill.size)}`;
  part("rate").textContent = `${fill.rate} MB/s`;
  part("note").textContent = fill.note;
  const stop = item.querySelector("summary");
  if (stop) stop.setAttribute("aria-label", `Stop ${named}`);
}

// Of each blob that was seen on its way, how much has arrived; all of it once it is gone from there.
const arrived = new Map();

function showModels({ fills, count }) {
  const now = new Map();
  for (const fill of fills) now.set(fill.digest.slice(7, 19), fill);
  for (const [digest, covered] of arrived) {
    // Of many fills, some are not listed.
    if (now.has(digest) || covered === Infinity || count > fills.length) continue;
    arrived.set(digest, Infinity);
    offerNew();
  }
  for (const [digest, fill] of now) arrived.set(digest, fill.covered);
  for (const pill of document.querySelectorAll("[data-missing]")) {
    const whole = Number(pill.dataset.size);
    let lacking = 0;
    let rate = 0;
    for (const each of pill.dataset.missing.trim().split(" ")) {
      const [digest, size] = each.split(":");
      lacking += Math.max(0, size - (arrived.get(digest) || 0));
      rate += now.has(digest) ? now.get(digest).rate : 0;
    }
    const speed = pill.parentNode.querySelector('[data-part="speed"]');
    if (!lacking) {
      // It has arrived, or was stopped.
      pill.textContent = "Ended just now";
      pill.removeAttribute("data-missing");
      speed.textContent = "";
      continue;
    }
    const percent = Math.min(99.9, 100 * (whole - lacking) / whole);
    pill.querySelector('[data-part="so-far"]').textContent = percent.toFixed(1);
    const left = rate > 0 ? `, ${duration(lacking / (rate * 1e6))} left` : "";
    speed.textContent = `${Number(rate.toFixed(2))} MB/s${left}`;
  }
}

function showFills({ fills, count }) {
  const old = new Map([...list.children].map((item) => [item.dataset.fill, item]));
  for (const fill of fills) {
    let item = old.get(fill.digest);
    if (!item) {
      item = newItem(fill);
      list.append(item);
    }
    old.delete(fill.digest);
    show(item, fill);
  }
  for (const item of old.values()) {
    // Whoever has the keyboard on its button goes on from the heading.
    if (item.contains(document.activeElement)) document.getElementById("coming").focus();
    item.remove();
    offerNew();
  }
  document.querySelector('[data-part="count"]').textContent = count || "";
  let more = count > fills.length ? `And ${count - fills.length} more.` : "";
  if (!count) more = "Nothing is being fetched.";
  const shown = document.querySelector('[data-part="more"]');
  if (shown.textContent !== more) shown.textContent = more;
}

if (live) {
  if (list) document.getElementById("coming").tabIndex = -1;
  let events = null;
  const watch = () => {
    if (document.visibilityState === "hidden") {
      if (events) events.close();
      events = null;
    } else if (!events) {
      events = new EventSource(live.dataset.live);
      events.addEventListener("fills", (event) => {
        const found = JSON.parse(event.data);
        if (list) showFills(found);
        showModels(found);
      });
      events.addEventListener("error", () => {
        // A connection that breaks is opened again by the browser, one that is refused is not.
        if (!events || events.readyState !== EventSource.CLOSED) return;
        events = null;
        setTimeout(watch, 15000);
      });
    }
  };
  document.addEventListener("visibilitychange", watch);
  addEventListener("pagehide", () => { if (events) events.close(); events = null; });
  addEventListener("pageshow", watch);
  watch();
}

// Search while typing, and what is new

const search = document.querySelector("form.search");
let asked = 0;

async function showPage(url) {
  const turn = ++asked;
  const reply = await fetch(url, { headers: { Accept: "text/html" } });
  if (!reply.ok || turn !== asked) return;
  const page = new DOMParser().parseFromString(await reply.text(), "text/html");
  for (const id of ["found", "model-count"]) {
    document.getElementById(id).replaceWith(page.getElementById(id));
  }
}

if (search) {
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const url = `/?${new URLSearchParams(new FormData(search))}`;
      try {
        await showPage(url);
        history.replaceState(null, "", url);
      } catch {
        // The button still works.
      }
    }, 250);
  });
}

function offerNew() {
  const changed = document.querySelector(".changed");
  if (changed.firstChild) return;
  const link = made("a", { href: location.pathname + location.search },
    "Something new is here: show it");
  if (search) link.addEventListener("click", async (event) => {
    event.preventDefault();
    try {
      await showPage(location.pathname + location.search);
      link.remove();
      document.getElementById("models").scrollIntoView();
    } catch {
      location.reload();
    }
  });
  changed.append(link);
}
