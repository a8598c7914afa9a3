"use strict";
// Tables sort by a click on a column and take a filter; without this script they stay as they are written.
const ORDER = new Intl.Collator("en", { numeric: true });
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
const FEW_ROWS = 4;

// A number, a text, or null for a hole.
function keyOf(cell) {
  if (!cell || cell.dataset.sort === "") return null;
  return cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
}

// Numbers before words; holes come last whatever the direction.
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * (typeof a === "number" ? a - b : ORDER.compare(a, b));
}

// The rows of each block, without its heading, in the order of the file.
function blocksOf(table) {
  return [...table.tBodies].map((body) => ({
    body,
    heading: body.querySelector("th[scope=rowgroup]")?.parentElement,
    rows: [...body.rows].filter((row) => !row.querySelector("th[scope=rowgroup]")),
  }));
}

function makeSortable(table, blocks) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.ariaSort = "none";
    button.addEventListener("click", () => {
      const state = NEXT[head.ariaSort];
      heads.forEach((other) => { other.ariaSort = "none"; });
      head.ariaSort = state;
      const sign = state === "descending" ? -1 : 1;
      for (const { body, rows } of blocks) {
        const keyed = rows.map((row) => [keyOf(row.cells[column]), row]);
        if (state !== "none") keyed.sort(([a], [b]) => compare(a, b, sign));
        body.append(...keyed.map(([, row]) => row));
      }
    });
  });
}

function makeFilter(table, blocks) {
  const total = blocks.reduce((sum, { rows }) => sum + rows.length, 0);
  if (total < FEW_ROWS) return;
  const box = document.createElement("div");
  const label = document.createElement("label");
  const input = document.createElement("input");
  const said = document.createElement("output");
  box.className = "filter";
  input.type = "search";
  label.append("Filter rows ", input);
  box.append(label, said);
  table.closest(".scroll").before(box);
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    for (const { heading, rows } of blocks) {
      const whole = heading && heading.textContent.toLowerCase().includes(wanted);
      for (const row of rows) row.hidden = !whole && !row.textContent.toLowerCase().includes(wanted);
      const left = rows.filter((row) => !row.hidden).length;
      if (heading) heading.hidden = left === 0;
      shown += left;
    }
    said.textContent = wanted ? `${shown} of ${total} rows` : "";
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const blocks = blocksOf(table);
  makeSortable(table, blocks);
  makeFilter(table, blocks);
}
// Paper cannot unfold anything.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
