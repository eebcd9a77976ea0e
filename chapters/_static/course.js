// What pages of the book do in a browser: filter board and symptoms, copy a verdict as an answer,
// keep a number and its unit on one line.
// Works from file:// too; a page without a board or a card is left as it is.
"use strict";

function toggleButton(label, name, onChange) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.setAttribute("aria-label", name);
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!pressed));
    onChange();
  });
  return button;
}

// A group of toggle buttons, one per value of an attribute of the rows, in the order of the table.
function toggleGroup(rows, attribute, groupName, valueName, onChange) {
  const group = document.createElement("div");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", groupName);
  const values = new Set(rows.map((row) => row.getAttribute(attribute)).filter(Boolean));
  const buttons = new Map();
  for (const value of values) {
    const button = toggleButton(value, `${valueName} ${value}`, onChange);
    buttons.set(value, button);
    group.append(button);
  }
  const accepts = (row) => {
    const pressed = [...buttons].filter(([, b]) => b.getAttribute("aria-pressed") === "true");
    return pressed.length === 0 || pressed.some(([value]) => row.getAttribute(attribute) === value);
  };
  return { group, accepts };
}

// A search box over the rows of a table, with buttons for parts and verdicts where rows have them.
function addFilter(table, placeholder) {
  const rows = [...table.querySelectorAll("tbody tr")];
  if (rows.length === 0) return;
  const bar = document.createElement("div");
  bar.className = "board-filter";
  bar.setAttribute("role", "search");

  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = placeholder;
  search.setAttribute("aria-label", placeholder);
  const count = document.createElement("span");
  count.className = "count";
  count.setAttribute("aria-live", "polite");

  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const visible = words.every((word) => text.includes(word))
        && parts.accepts(row) && verdicts.accepts(row);
      row.hidden = !visible;
      shown += visible ? 1 : 0;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };
  const parts = toggleGroup(rows, "data-part", "Part", "Part", update);
  const verdicts = toggleGroup(rows, "data-verdict", "Verdict", "Verdict", update);
  search.addEventListener("input", update);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { search.value = ""; update(); }
  });

  const groups = [parts.group, verdicts.group].filter((group) => group.children.length > 0);
  bar.append(search, ...groups, count);
  (table.closest(".board-frame, .pst-scrollable-table-container") ?? table).before(bar);
  update();
}

// The clipboard interface is missing in some browsers on plain http and file:// pages.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    area.style.opacity = "0";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

function addCopyButton(card) {
  const label = "Copy as answer";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy-answer";
  button.textContent = label;
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    const url = location.href.split("#")[0];
    const copied = await copyText(card.dataset.answer.replaceAll("{url}", url));
    button.textContent = copied ? "Copied" : "Copying was refused by the browser";
    button.focus();
    setTimeout(() => { button.textContent = label; }, 2000);
  });
  card.append(button);
}

// "48.5 %", "n = 10" and "3 × 3" stay on one line; code, which is preformatted, is left alone.
function keepUnitsTogether(article) {
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.parentElement.closest("pre, script, style")) continue;
    const kept = node.data.replace(/(\d) (?=%|points?\b|×)|(×|± ?|\bn =) (?=\d)|\b(n) (?==)/g,
      (found) => found.replaceAll(" ", "\u00a0"));
    if (kept !== node.data) node.data = kept;
  }
}

function startCourse() {
  document.querySelectorAll("article.bd-article").forEach(keepUnitsTogether);
  document.querySelectorAll(".tag_symptoms table")
    .forEach((table) => addFilter(table, "Search the symptoms: NaN, flat, validation …"));
  document.querySelectorAll("table.board")
    .forEach((table) => addFilter(table, "Search the claims"));
  document.querySelectorAll(".tag_card [data-answer]").forEach(addCopyButton);
}

if (document.readyState === "loading") {
  document.addEventListener("DOMContentLoaded", startCourse);
} else {
  startCourse();
}
