// Sorted tables, copied commands, values of figures. The page says everything without it.
"use strict";
const add = (parent, tag, text, options) =>
  parent.appendChild(Object.assign(document.createElement(tag), {textContent: text}, options));

// A number at the beginning of a cell, after signs such as ≥; cells without one come last.
const number = cell => {
  const found = cell.textContent.trim().replace(/−/g, "-").match(/^(?:≥ )?(-?(?:∞|[\d.]+(?:e[-+]?\d+)?))/);
  return found ? Number(found[1].replace("∞", "Infinity")) : NaN;
};
const word = cell => cell.textContent.trim().replace(/^[^\p{L}\d]+ /u, "");  // without a verdict's sign
const order = (a, b, sign) => {
  if (!a || !b) return !a - !b;
  const [x, y] = [number(a), number(b)];
  if (isNaN(x) !== isNaN(y)) return isNaN(x) - isNaN(y);
  return sign * (isNaN(x) ? word(a).localeCompare(word(b), "en", {numeric: true}) : x === y ? 0 : x < y ? -1 : 1);
};
// Rows to sort, each with the folded ones below it. A claim stays above its results.
const units = body => {
  const found = [];
  for (const row of body.rows) {
    if (row.matches(".claim, .fold")) found.at(-1)?.push(row); else found.push([row]);
  }
  return found;
};
for (const table of document.querySelectorAll("table:has(thead)")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => {
    const button = add(head, "button", head.textContent, {type: "button", title: "Sort"});
    head.firstChild.remove();
    // A claim sorts by its own word where it has one, or by its first result.
    const first = body => {
      const own = i === heads.length - 1 && body.querySelector(".claim td");
      return own && word(own) ? own : units(body)[0]?.[0].cells[i];
    };
    button.onclick = () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      for (const body of table.tBodies) {
        body.append(...units(body).sort((a, b) => order(a[0].cells[i], b[0].cells[i], sign)).flat());
      }
      table.append(...[...table.tBodies].sort((a, b) => order(first(a), first(b), sign)));
    };
  });
}

for (const command of document.querySelectorAll("code.command")) {
  const button = add(command.parentNode, "button", "Copy", {type: "button", className: "copy"});
  command.after(button);
  button.onclick = async () => {
    getSelection().selectAllChildren(command);
    try { await navigator.clipboard.writeText(command.textContent); } catch { document.execCommand("copy"); }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
}

// The nearest point of a line under the pointer, read from the scales of its figure.
const points = svg => [...svg.querySelectorAll("[data-axes]")].flatMap(line => {
  const path = line.querySelector(":scope > path"), {axes, name} = line.dataset;
  const pairs = path ? [...path.getAttribute("d").matchAll(/([-\d.]+) ([-\d.]+)/g)].map(m => [+m[1], +m[2]])
    : [...line.querySelectorAll("use")].map(u => [+u.getAttribute("x"), +u.getAttribute("y")]);
  return pairs.map(([x, y]) => ({x, y, axes, name}));
});
const value = (place, from, to, [low, high, isLog]) => {
  const at = low + (high - low) * (place - from) / (to - from);
  return String(+(isLog ? 10 ** at : at).toPrecision(3));
};
const tip = add(document.body, "div", "", {id: "tip", hidden: true});
for (const svg of document.querySelectorAll("svg[data-scales]")) {
  const scales = JSON.parse(svg.dataset.scales);
  let known;
  svg.onpointerleave = () => { tip.hidden = true; };
  svg.onpointermove = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    known ??= points(svg);
    const away = p => Math.hypot(p.x - at.x, p.y - at.y);
    const near = known.reduce((best, p) => away(p) < (best ? away(best) : 10) ? p : best, null);
    tip.hidden = !near;
    if (!near) return;
    const [left, bottom, right, top, across, up, isSteps] = scales[near.axes];
    const steps = isSteps ? `, step ${value(near.x, left, right, across)}` : "";
    tip.textContent = `${near.name}${steps}: ${value(near.y, bottom, top, up)}`;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  };
}
