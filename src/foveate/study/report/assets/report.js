"use strict";

// Sorting: rows without a value stay last, whichever way.
function sortBy(index, descending) {
  const body = document.querySelector(".results tbody");
  const key = (row) => row.children[index].dataset.sort;
  const sign = descending ? -1 : 1;
  [...body.rows]
    .sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (index === 0 ? x.localeCompare(y) : Number(x) - Number(y));
    })
    .forEach((row) => body.append(row));
}

document.querySelectorAll(".results thead button").forEach((button, index) => {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const now = head.getAttribute("aria-sort");
    const descending = now ? now === "ascending" : button.dataset.order === "descending";
    head.parentElement.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(index, descending);
  });
});
