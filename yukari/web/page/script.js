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

// What is on its way

const live = document.querySelector("[data-live]");

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
  let left = "";
  if (fill.state === "suspended") left = "waits to be tried again";
  else if (fill.seconds_left !== null) left = `${duration(fill.seconds_left)} left`;
  part("left").textContent = left;
  const form = item.querySelector("form");
  if (form) {
    form.elements.digest.value = fill.digest;
    form.querySelector("button").setAttribute("aria-label", `Stop ${named}`);
  }
}

function showPercents(fills) {
  const sums = new Map();
  for (const fill of fills) {
    const sum = sums.get(fill.model) || [0, 0];
    sums.set(fill.model, [sum[0] + fill.covered, sum[1] + fill.size]);
  }
  for (const shown of document.querySelectorAll("[data-percent-of]")) {
    const sum = sums.get(shown.dataset.percentOf);
    if (sum && sum[1]) shown.textContent = (100 * sum[0] / sum[1]).toFixed(1);
  }
}

function showFills({ fills, count }) {
  const list = live.querySelector(".fills");
  const old = new Map([...list.children].map((item) => [item.dataset.fill, item]));
  for (const fill of fills) {
    let item = old.get(fill.digest);
    if (!item) {
      item = live.querySelector("template").content.firstElementChild.cloneNode(true);
      item.dataset.fill = fill.digest;
      list.append(item);
    }
    old.delete(fill.digest);
    show(item, fill);
  }
  for (const item of old.values()) {
    // Whoever has the keyboard on its button goes on from the heading.
    if (item.contains(document.activeElement)) live.querySelector("h2").focus();
    item.remove();
    live.querySelector(".changed").hidden = false;
  }
  live.querySelector('[data-part="count"]').textContent = count || "";
  live.querySelector(".empty").hidden = count > 0;
  live.querySelector(".more").hidden = count <= fills.length;
  live.querySelector('[data-part="more"]').textContent = count - fills.length;
  showPercents(fills);
}

if (live) {
  live.querySelector("h2").tabIndex = -1;
  let events = null;
  const watch = () => {
    if (document.visibilityState === "hidden") {
      if (events) events.close();
      events = null;
    } else if (!events) {
      events = new EventSource(live.dataset.live);
      events.addEventListener("fills", (event) => showFills(JSON.parse(event.data)));
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

async function showModels(url) {
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
        await showModels(url);
        history.replaceState(null, "", url);
      } catch {
        // The button still works.
      }
    }, 250);
  });
  const changed = live.querySelector(".changed");
  changed.querySelector("a").addEventListener("click", async (event) => {
    event.preventDefault();
    try {
      await showModels(location.pathname + location.search);
      changed.hidden = true;
      document.getElementById("models").scrollIntoView();
    } catch {
      location.reload();
    }
  });
}
