"use strict";
// A head of a column becomes a button that sorts; what has no value stays last. Without this the tables are in order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const sortBy = (head) => {
    const kind = head.dataset.kind;
    const before = head.getAttribute("aria-sort");
    // Numbers begin with the largest, words and verdicts with the first.
    const falling = before === null ? kind === "number" : before === "ascending";
    const key = (row) => row.cells[head.cellIndex].dataset.sort;
    const by = (one, other) => (kind === "text" ? one.localeCompare(other) : Number(one) - Number(other));
    const rows = [...body.rows].sort((one, other) => {
      const [left, right] = [key(one), key(other)];
      if (left === "" || right === "") return (left === "") - (right === "");
      return falling ? by(right, left) : by(left, right);
    });
    body.append(...rows);
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  };
  for (const head of heads.filter((one) => one.dataset.kind)) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(head.textContent);
    button.addEventListener("click", () => sortBy(head));
    head.replaceChildren(button);
  }
}
