"use strict";

// Headings of tables become buttons that sort; without this script they are plain tables.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const before = heading.getAttribute("aria-sort");
      const falling = before ? before === "ascending" : heading.hasAttribute("data-falling");
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const direction = falling ? -1 : 1;
      const rows = [...body.rows].sort((a, b) => direction * compare(a.cells[column], b.cells[column]));
      body.append(...rows);
    });
  });

  function compare(a, b) {
    if (headings[a.cellIndex].classList.contains("number")) {
      return (Number(a.dataset.value ?? -Infinity) - Number(b.dataset.value ?? -Infinity)) || 0;
    }
    return a.textContent.localeCompare(b.textContent);
  }
}

// A filter shows the rows that hold its text, or the items that have its key.
for (const control of document.querySelectorAll("[data-filters]")) {
  const list = document.querySelector(`[data-filtered="${control.dataset.filters}"]`);
  const items = [...(list.tBodies ? list.tBodies[0].rows : list.children)];
  const line = control.closest(".filter");
  line.hidden = false;
  control.addEventListener("input", () => {
    const wanted = control.value.trim().toLowerCase();
    for (const item of items) {
      item.hidden = wanted !== "" && (control.tagName === "SELECT"
        ? item.dataset.key !== wanted
        : !item.textContent.toLowerCase().includes(wanted));
    }
    const shown = items.filter((item) => !item.hidden).length;
    line.querySelector("output").textContent = wanted === "" ? "" : `${shown} of ${items.length}`;
  });
}
