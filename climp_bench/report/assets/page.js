"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const live = document.getElementById("live");
  const make = (tag, text, attributes) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    return element;
  };

  // Theme: as the system has it, until the reader chooses.
  const keep = {
    get: () => { try { return localStorage.getItem("climp-bench-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("climp-bench-theme", value); } catch { /* private */ } },
  };
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const toggle = document.getElementById("theme");
  const name = () => { toggle.textContent = isDark() ? "Light theme" : "Dark theme"; };
  const kept = keep.get();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  toggle.hidden = false;
  name();
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    keep.set(root.dataset.theme);
    name();
  });

  // Tables: a head sorts up, down, then back to the order of the report. What is missing stays last.
  const order = new Map();
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const number = parseFloat(cell.dataset.v);
    return Number.isNaN(number) ? null : number;
  };
  const compare = (a, b, column, numeric) => {
    if (!numeric) return a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", { numeric: true });
    const [x, y] = [keyOf(a, column), keyOf(b, column)];
    return x === y ? 0 : x === null ? Infinity : y === null ? -Infinity : x - y;
  };
  const sort = (button) => {
    const head = button.closest("th");
    const table = button.closest("table");
    const body = table.tBodies[0];
    if (!order.has(body)) order.set(body, [...body.rows]);
    const now = head.getAttribute("aria-sort");
    const next = now === "none" ? "descending" : now === "descending" ? "ascending" : "none";
    for (const other of table.tHead.rows[0].cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const column = head.cellIndex;
    const numeric = order.get(body).some((row) => keyOf(row, column) !== null);
    const sign = next === "ascending" ? 1 : -1;
    const rows = [...order.get(body)];
    if (next !== "none") {
      rows.sort((a, b) => {
        const by = compare(a, b, column, numeric);
        return Number.isFinite(by) ? sign * by : Math.sign(by);
      });
    }
    body.append(...rows);
    live.textContent = next === "none" ? "Order of the report" : `Sorted by ${button.textContent}, ${next}`;
  };

  // Provenance: every number opens what it was made of.
  const dialog = document.getElementById("made");
  const title = dialog.querySelector("h2");
  const body = dialog.querySelector("div");
  const list = (facts) => {
    const all = make("dl");
    for (const [term, fact] of facts) all.append(make("dt", term), make("dd", fact));
    return all;
  };
  const show = (places) => {
    body.replaceChildren();
    if (places.length > 1) {
      title.textContent = `Made of ${places.length} scores`;
      const parts = make("ul");
      for (const place of places) {
        const item = make("li");
        const open = make("button", `${data.records[place].title}: ${data.records[place].value}`, { type: "button", class: "num" });
        open.addEventListener("click", () => show([place]));
        item.append(open);
        parts.append(item);
      }
      body.append(parts);
    } else {
      const record = data.records[places[0]];
      title.textContent = record.title;
      body.append(list(record.facts), make("h3", "How it was made"), list([...record.run, ...data.runs[record.made]]));
    }
    if (!dialog.open) dialog.showModal();
    body.scrollTop = 0;
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.classList.contains("sort")) sort(button);
    else if (button.dataset.r) show(button.dataset.r.split(" ").map(Number));
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
})();
