// What pages do by themselves. Everything works without it; it makes live parts anew, shows times in the viewer's zone,
// and reads keys. Invariant: text that comes from the server gets into the page as text, or in a document that it wrote.

const ROOT = document.documentElement;
const LIVE_SECONDS_MIN = 2;
const LIVE_SECONDS_MAX = 60;
const TAIL_NODES_MAX = 20000;

// -- light and dark

function recall(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

function keep(name, value) {
  try { if (value) localStorage.setItem(name, value); else localStorage.removeItem(name); } catch { /* not allowed */ }
}

const THEMES = ["", "light", "dark"];

function showTheme(theme) {
  if (theme) ROOT.dataset.theme = theme; else delete ROOT.dataset.theme;
  const button = document.getElementById("theme-button");
  if (button) button.textContent = `Theme: ${theme || "auto"}`;
}

function startTheme() {
  const button = document.getElementById("theme-button");
  button.hidden = false;
  showTheme(recall("theme") || "");
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(ROOT.dataset.theme || "") + 1) % THEMES.length];
    keep("theme", next);
    showTheme(next);
  });
}

// -- times in the viewer's zone, beside those of the server

const LOCAL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) time.title = LOCAL.format(moment);
  }
  showLocalTimes(root);
}

// A time that says which zone it is in becomes that of the viewer.
const PLAIN = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[data-viewer]")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) time.textContent = PLAIN.format(moment);
  }
  for (const said of root.querySelectorAll("[data-viewer-zone]")) {
    said.textContent = PLAIN.resolvedOptions().timeZone || "here";
  }
}

function tellZone() {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  document.getElementById("zone").textContent = `; a time that is pointed at is told in ${zone} too`;
}

// -- live parts: the same page again, and of it what is marked

let failures = 0;

function isInUse(part) {
  const active = document.activeElement;
  return (active && active !== document.body && part.contains(active) && active.matches("input, select, textarea"))
    || part.querySelector("input[type=checkbox].pick:checked") !== null
    || !document.getSelection().isCollapsed;
}

// By what a link is found again in what was made anew: a cell by its row and time, for where it leads to changes.
function placeOf(link) {
  return link.querySelector("title")?.textContent.split(": ")[0] ?? link.getAttribute("href");
}

function focusOn(root, place) {
  [...root.querySelectorAll("a[href]")].find((one) => placeOf(one) === place)?.focus();
}

function renew(part, fresh) {
  const open = new Set([...part.querySelectorAll("details[open][id]")].map((one) => one.id));
  const active = document.activeElement;
  const focused = part.contains(active) && active.matches("a[href]") ? placeOf(active) : null;
  const places = new Map([...part.querySelectorAll(".scroll[id]")].map((one) => [one.id, one.scrollLeft]));
  part.replaceChildren(...fresh.childNodes);
  for (const details of part.querySelectorAll("details[id]")) if (open.has(details.id)) details.open = true;
  for (const box of part.querySelectorAll(".scroll[id]")) box.scrollLeft = places.get(box.id) ?? 0;
  if (focused) focusOn(part, focused);
  showTimes(part);
}

async function refresh() {
  const parts = [...document.querySelectorAll("[data-live][id]")].filter((part) => !isInUse(part));
  if (document.hidden || parts.length === 0) return;
  const address = new URL(location.href);
  address.hash = "";
  address.searchParams.append("live", "1");
  const answer = await fetch(address, { headers: { accept: "text/html" }, redirect: "error", signal: AbortSignal.timeout(20000) });
  if (!answer.ok) throw new Error(`${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const fresh = page.getElementById(part.id);
    if (fresh && !isInUse(part)) {
      renew(part, fresh);
      if (!("live" in fresh.dataset)) delete part.dataset.live; // it has come to its end
    }
  }
}

function startLive() {
  const part = document.querySelector("[data-live]");
  if (!part) return;
  const seconds = Math.max(LIVE_SECONDS_MIN, Number(part.dataset.live) || LIVE_SECONDS_MIN);
  const again = async () => {
    try {
      await refresh();
      failures = 0;
    } catch {
      failures += 1;
    }
    ROOT.classList.toggle("stale", failures > 1);
    if (document.querySelector("[data-live]")) {
      setTimeout(again, 1000 * Math.min(LIVE_SECONDS_MAX, seconds * 2 ** failures));
    }
  };
  setTimeout(again, seconds * 1000);
}

// -- the end of an output, as it is written

async function readTail(text) {
  const answer = await fetch(text.dataset.tail, { headers: { accept: "text/html" }, redirect: "error", signal: AbortSignal.timeout(20000) });
  if (!answer.ok) throw new Error(`${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("output-text");
  const isAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
  text.append(...fresh.childNodes);
  while (text.childNodes.length > TAIL_NODES_MAX) text.firstChild.remove();
  if (isAtEnd) text.scrollTop = text.scrollHeight;
  if (fresh.dataset.tail) text.dataset.tail = fresh.dataset.tail; else delete text.dataset.tail;
  const said = page.getElementById("tail-state");
  if (said) document.getElementById("tail-state")?.replaceChildren(...said.childNodes);
}

function startTail() {
  const text = document.querySelector("[data-tail]");
  if (!text) return;
  text.scrollTop = text.scrollHeight;
  const said = document.getElementById("tail-state");
  if (said) said.textContent = "Following.";
  let failed = 0;
  const again = async () => {
    try {
      if (!document.hidden) await readTail(text);
      failed = 0;
    } catch {
      failed += 1;
    }
    if (text.dataset.tail) setTimeout(again, 1000 * Math.min(LIVE_SECONDS_MAX, LIVE_SECONDS_MIN * 2 ** failed));
  };
  setTimeout(again, 1000);
}

// -- names that complete: the first of those that hold what is typed

function startCompletion() {
  for (const field of document.querySelectorAll("input[list][data-complete]")) {
    let asked = 0;
    const list = document.getElementById(field.getAttribute("list"));
    field.addEventListener("input", () => {
      const number = ++asked;
      setTimeout(async () => {
        if (number !== asked) return;
        const address = `${field.dataset.complete}?limit=20&search=${encodeURIComponent(field.value)}`;
        const answer = await fetch(address).catch(() => null);
        if (!answer?.ok || number !== asked) return;
        const names = (await answer.json()).items.map((item) => item[field.dataset.name]);
        list.replaceChildren(...names.map((name) => {
          const option = document.createElement("option");
          option.value = name;
          return option;
        }));
      }, 150);
    });
  }
}

// -- what a form would bring, while it is filled in: the same page with what stands in it, and of that the preview

function previewAddress(form) {
  const given = new FormData(form);
  const address = new URL(form.getAttribute("action"), location.href);
  for (const [name, value] of given) {
    const option = name.replace(/^(option|was)\./, "");
    if (option === name || given.get(`option.${option}`) !== given.get(`was.${option}`)) address.searchParams.append(name, value);
  }
  return address;
}

function startPreview() {
  const form = document.querySelector("form[data-preview]");
  const part = form && document.getElementById(form.dataset.preview);
  if (!part) return;
  let asked = 0;
  form.addEventListener("input", () => {
    const number = ++asked;
    setTimeout(async () => {
      if (number !== asked) return;
      const answer = await fetch(previewAddress(form), { headers: { accept: "text/html" } }).catch(() => null);
      if (!answer || number !== asked) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(part.id);
      if (!fresh || number !== asked) return;
      part.replaceChildren(...fresh.childNodes);
      showTimes(part);
    }, 300);
  });
}

// -- rows that are chosen

function startChoice() {
  for (const box of document.querySelectorAll("input[type=checkbox].pick-all")) {
    box.closest("label").hidden = false;
    box.addEventListener("change", () => {
      for (const one of box.form.querySelectorAll("input[type=checkbox].pick")) one.checked = box.checked;
    });
  }
}

// -- the board: arrows lead from cell to cell, and a panel says what a cell is made of

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function link(href, text) {
  const made = element("a", text);
  made.href = href;
  return made;
}

function sayRun(run) {
  const at = run.finished_at || run.started_at || run.run_at;
  return element("p", "", link(`/runs/${run.id}`, `Run ${run.id}`), ` ${run.state}: ${run.reason.text} (${LOCAL.format(new Date(at))})`);
}

async function showPanel(panel, cell) {
  const address = new URL(cell.href.baseVal, location.href);
  const title = cell.querySelector("title").textContent;
  const close = element("button", "Close");
  close.type = "button";
  close.addEventListener("click", () => {
    panel.hidden = true;
    focusOn(document.querySelector("[data-board]") ?? document, placeOf(cell));
  });
  panel.replaceChildren(close, element("strong", title), element("p", "", link(address.href, "Open")));
  panel.hidden = false;
  const query = new URLSearchParams(address.search);
  query.set("limit", "10");
  query.set("brief", "true");
  const where = address.pathname === "/runs" ? `/api/v1/runs?${query}` : `/api/v1${address.pathname}`;
  const answer = await fetch(where).catch(() => null);
  if (!answer?.ok) {
    panel.append(element("p", "It could not be read."));
    return;
  }
  const found = await answer.json();
  panel.append(...(found.items || [found]).map(sayRun));
}

function showNow() {
  const box = document.getElementById("board");
  const now = box?.querySelector("line.now");
  if (now) box.scrollLeft += now.getBoundingClientRect().left - box.getBoundingClientRect().left - 0.8 * box.clientWidth;
}

function startBoard() {
  const panel = document.getElementById("panel");
  if (!panel) return;
  showNow();
  document.addEventListener("click", (event) => {
    const cell = event.target.closest?.("[data-board] svg a");
    if (!cell || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    const { pathname, search } = new URL(cell.href.baseVal, location.href);
    if (!/^\/runs\/\d+$/.test(pathname) && !(pathname === "/runs" && search)) return;
    event.preventDefault();
    showPanel(panel, cell);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") panel.hidden = true;
    const cell = document.activeElement.closest?.("[data-board] svg a");
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!cell || !steps) return;
    event.preventDefault();
    const rows = [...document.querySelectorAll("[data-board] tbody tr")].map((row) => [...row.querySelectorAll("svg a")]);
    const y = rows.findIndex((row) => row.includes(cell));
    const x = (one) => Number(one.querySelector("rect").getAttribute("x"));
    if (steps[1]) {
      rows[y][rows[y].indexOf(cell) + steps[1]]?.focus();
    } else {
      for (let next = y + steps[0]; rows[next]; next += steps[0]) {
        const nearest = rows[next].toSorted((a, b) => Math.abs(x(a) - x(cell)) - Math.abs(x(b) - x(cell)))[0];
        if (nearest) { nearest.focus(); break; }
      }
    }
  });
}

// -- keys: g and a letter for a page, / to search, ? for what there is

let hasG = false;

function keysOf() {
  return [...document.querySelectorAll("nav a[data-key]")];
}

function showKeys() {
  let dialog = document.getElementById("keys");
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.id = "keys";
    dialog.setAttribute("aria-label", "Keys");
    const list = document.createElement("dl");
    list.className = "facts";
    const rows = [...keysOf().map((one) => [`g ${one.dataset.key}`, one.textContent]), ["/", "Search"], ["?", "This"]];
    for (const [key, text] of rows) {
      const term = document.createElement("dt");
      term.textContent = key;
      term.className = "mono";
      const said = document.createElement("dd");
      said.textContent = text;
      list.append(term, said);
    }
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    dialog.append(list, close);
    document.body.append(dialog);
  }
  dialog.showModal();
}

function startKeys() {
  const button = document.getElementById("keys-button");
  button.hidden = false;
  button.addEventListener("click", showKeys);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest?.("input, select, textarea, dialog")) return;
    const wanted = hasG ? keysOf().find((one) => one.dataset.key === event.key) : null;
    hasG = !hasG && event.key === "g";
    if (wanted) {
      wanted.click();
    } else if (event.key === "/") {
      const field = document.querySelector("input[type=search]");
      if (field) { event.preventDefault(); field.focus(); }
    } else if (event.key === "?") {
      event.preventDefault();
      showKeys();
    }
  });
}

startTheme();
startKeys();
showTimes(document);
tellZone();
startLive();
startTail();
startCompletion();
startChoice();
startBoard();
startPreview();
