// What makes tables handy: heads that sort, a field that filters, buttons that copy. All of it is made here, so that
// without script nothing is shown that would do nothing; the rows are in the page, in the order of the document.
const LONG = 7;
const collator = new Intl.Collator(undefined, { numeric: true });

function made(kind, words, known = {}) {
  const one = Object.assign(document.createElement(kind), known);
  one.append(...words);
  return one;
}

// A cell's number, where it has one; its words else; null where nothing is computed.
function worth(cell) {
  if (!cell) return null;
  const held = cell.querySelector("data");
  const words = held ? held.value.replace("inf", "Infinity") : cell.textContent.trim().replace(/^−/, "-");
  const parts = words.replace(/(?<=\d),(?=\d{3})/g, "").split("/");
  const number = parts.length <= 2 && parts.every((part) => part.trim() !== "") ? parts.map(Number) : [NaN];
  const value = number.length === 2 ? number[0] / number[1] : number[0];
  if (!Number.isNaN(value)) return value;
  return words === "" || words === "–" || (cell.querySelector(".none") && !held) ? null : words;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(String(a), String(b));
}

// What is not computed stays last, whichever way the others go.
function sorted(rows, column, way) {
  const known = new Map(rows.map((row) => [row, worth(row.cells[column])]));
  return [...rows].sort((a, b) => {
    const [x, y] = [known.get(a), known.get(b)];
    return x === null || y === null ? (x === null) - (y === null) : way * compare(x, y);
  });
}

const rowsOf = (body) => [...body.rows].filter((row) => !row.classList.contains("group"));

function sortable(table) {
  const first = [...table.tBodies].map(rowsOf);
  if (!first.some((rows) => rows.length > 1)) return;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!first.flat().some((row) => worth(row.cells[column]) !== null)) return; // a column of drawings
    const button = made("button", head.childNodes, { type: "button", className: "sort" });
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      for (const other of heads) other.removeAttribute("aria-sort");
      const way = now === "ascending" ? -1 : 1;
      if (now !== "descending") head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      [...table.tBodies].forEach((body, i) => {
        body.append(...(now === "descending" ? first[i] : sorted(first[i], column, way)));
      });
    });
  });
}

function filterable(place, items, name, groups) {
  if (items.length <= LONG) return;
  const field = made("input", [], { type: "search", autocomplete: "off" });
  const told = made("output", []);
  const words = made("span", [name]);
  place.before(made("div", [made("label", [words, field]), told], { className: "filter" }));
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const one of items) {
      const text = one.textContent.toLowerCase();
      one.hidden = !wanted.every((word) => text.includes(word));
    }
    for (const group of groups) group.hidden = rowsOf(group).every((row) => row.hidden);
    const left = items.filter((one) => !one.hidden).length;
    told.value = wanted.length ? `${left} of ${items.length}` : "";
  });
}

async function copy(area) {
  try {
    await navigator.clipboard.writeText(area.value);
    return true;
  } catch {
    area.select();
    return document.execCommand("copy");
  }
}

function takeable(area) {
  const format = area.getAttribute("aria-label").split(":")[0];
  const told = made("output", []);
  const button = made("button", [`Copy ${format}`], { type: "button" });
  button.setAttribute("aria-label", `Copy ${area.getAttribute("aria-label")}`);
  button.addEventListener("click", async () => {
    told.value = (await copy(area)) ? "copied" : "select the text and copy it";
  });
  area.previousElementSibling.append(button, told);
}

for (const table of document.querySelectorAll("table")) {
  sortable(table);
  const rows = [...table.tBodies].flatMap(rowsOf);
  filterable(table.parentElement, rows, "Filter rows", [...table.tBodies]);
}
for (const list of document.querySelectorAll("ul.checks")) filterable(list, [...list.children], "Filter checks", []);
for (const area of document.querySelectorAll(".take textarea")) takeable(area);
