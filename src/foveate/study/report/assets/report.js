"use strict";

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

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

const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false };

function axis(title, range, more) {
  return {
    title: { text: title, standoff: 8 }, range, zeroline: false, showline: true,
    linecolor: colour("--line"), gridcolor: colour("--line"), ticks: "", automargin: false,
    fixedrange: true, ...more,
  };
}

function layout(more) {
  return {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--muted") },
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", showlegend: false,
    hovermode: "closest", dragmode: false,
    hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--line"),
      font: { color: colour("--ink") }, align: "left" },
    ...more,
  };
}

// Score against a cost, labelled directly.

function span(values, share) {
  const low = Math.min(...values), high = Math.max(...values);
  const room = share * (high - low) || 0.1 * Math.abs(high) || 1;
  return [low - room, high + room];
}

const textWidth = (() => {
  const pen = document.createElement("canvas").getContext("2d");
  return (text) => {
    pen.font = "600 12px " + getComputedStyle(document.body).fontFamily;
    return pen.measureText(text).width;
  };
})();

const overlap = (a, b) =>
  Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
  Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));

// Each label takes the nearest free place around its point; in a crowd it moves out on a thin line.
function placeLabels(points, pixel, width, height) {
  const dots = points.map((point) => {
    const [x, y] = pixel(point);
    return { left: x - 7, right: x + 7, top: y - 7, bottom: y + 7, x, y };
  });
  const bars = points.flatMap((p) => {
    const [x, y] = pixel(p);
    const [left] = pixel({ ...p, x: p.p25 ?? p.x }), [right] = pixel({ ...p, x: p.p75 ?? p.x });
    const top = pixel({ ...p, y: p.high ?? p.y })[1], bottom = pixel({ ...p, y: p.low ?? p.y })[1];
    return [{ left: x - 2, right: x + 2, top, bottom }, { left, right, top: y - 2, bottom: y + 2 }];
  });
  const taken = [];
  return points.map((point, index) => {
    const { x, y } = dots[index];
    const w = textWidth(point.label) + 6, h = 16;
    let best = null;
    for (const reach of [13, 22, 34, 48, 64]) {
      for (let turn = 0; turn < 16; turn += 1) {
        const angle = (turn * Math.PI) / 8;
        const cx = x + Math.cos(angle) * (reach + w / 2 - 3), cy = y - Math.sin(angle) * reach;
        const box = { left: cx - w / 2, right: cx + w / 2, top: cy - h / 2, bottom: cy + h / 2 };
        const outside = Math.max(0, -box.left) + Math.max(0, box.right - width) +
          Math.max(0, -box.top) + Math.max(0, box.bottom - height);
        const hidden = dots.reduce((sum, dot) => sum + overlap(box, dot), 0) +
          taken.reduce((sum, other) => sum + 2 * overlap(box, other), 0) +
          bars.reduce((sum, bar) => sum + 0.1 * overlap(box, bar), 0);
        const cost = 50 * outside + 10 * hidden + reach + 2 * Math.abs(Math.sin(angle * 2));
        if (!best || cost < best.cost) best = { cost, box, cx, cy, reach };
      }
    }
    taken.push(best.box);
    return best;
  });
}

function drawCost(element, points, title, unit) {
  const ys = points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]);
  const xs = points.flatMap((p) => [p.x, p.p25 ?? p.x, p.p75 ?? p.x]);
  const log = Math.max(...xs) / Math.min(...xs) > 12;
  const scale = log ? Math.log10 : (x) => x;
  const xRange = span(xs.map(scale), 0.1);
  const yRange = span(ys, 0.08);
  const margin = { l: 52, r: 10, t: 10, b: 46 };
  const width = element.clientWidth - margin.l - margin.r;
  const height = element.clientHeight - margin.t - margin.b;
  const pixel = (p) => [
    ((scale(p.x) - xRange[0]) / (xRange[1] - xRange[0])) * width,
    (1 - (p.y - yRange[0]) / (yRange[1] - yRange[0])) * height,
  ];
  const labels = placeLabels(points, pixel, width, height);
  const front = points.filter((p) => p.front).sort((a, b) => a.x - b.x);
  const ink = (p) => colour(p.control ? "--control" : "--accent");
  const bars = (p) => ({
    error_y: p.low === null ? undefined : { type: "data", symmetric: false, array: [p.high - p.y],
      arrayminus: [p.y - p.low], color: ink(p), thickness: 1, width: 0 },
    error_x: p.p25 == null ? undefined : { type: "data", symmetric: false, array: [p.p75 - p.x],
      arrayminus: [p.x - p.p25], color: ink(p), thickness: 1, width: 0 },
  });
  const traces = [
    { x: front.map((p) => p.x), y: front.map((p) => p.y), mode: "lines", hoverinfo: "skip",
      line: { shape: "hv", dash: "4px,4px", width: 1.5, color: colour("--faint") } },
    ...points.map((p) => ({
      x: [p.x], y: [p.y], mode: "markers", ...bars(p),
      marker: { color: p.control ? colour("--surface") : ink(p), size: p.control ? 9 : 11,
        symbol: p.control ? "square" : "circle", line: { color: ink(p), width: 2 } },
      hovertemplate: `<b>%{text}</b><br>${shown(p.y)} ${escapeText(data.unit)}` +
        (p.low === null ? "" : ` (${shown(p.low)} to ${shown(p.high)})`) +
        `<br>${p.x.toFixed(1)} ${unit}<extra></extra>`,
      text: [escapeText(p.label)],
    })),
  ];
  const annotations = labels.map((place, index) => {
    const p = points[index], [x, y] = pixel(p);
    return {
      x: log ? Math.log10(p.x) : p.x, y: p.y, text: escapeText(p.label),
      font: { color: ink(p), size: 12, weight: 600 }, showarrow: true, arrowhead: 0,
      arrowwidth: place.reach > 13 ? 1 : 0.01, arrowcolor: colour("--faint"), standoff: 6,
      ax: place.cx - x, ay: place.cy - y, borderpad: 1, bgcolor: colour("--surface"),
      opacity: 0.92,
    };
  });
  Plotly.react(element, traces, layout({
    margin, annotations,
    xaxis: axis(title, xRange, log ? { type: "log", dtick: "D2" } : { nticks: 6 }),
    yaxis: axis(escapeText(data.axis), yRange, { nticks: 7 }),
  }), CONFIG);
}

// As the tables print it.
function shown(value) {
  return data.unit === "%" ? value.toFixed(1) : value.toPrecision(3);
}

// plotly.js reads a little HTML in texts.
function escapeText(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// Learning curves: small multiples on one scale.

function drawCurves(curves) {
  const last = Math.max(...curves.map((c) => c.epoch[c.epoch.length - 1]));
  const first = Math.min(...curves.map((c) => c.epoch[0]));
  const late = curves.flatMap((c) =>
    c.low.filter((_, i) => c.epoch[i] >= first + (last - first) / 4));
  const top = Math.max(...curves.flatMap((c) => c.high));
  const range = span([Math.min(...late), top], 0.06);
  if (data.greatest !== null) range[1] = Math.min(range[1], 1.005 * data.greatest);
  curves.forEach((curve, index) => {
    const ink = colour(curve.control ? "--control" : "--accent");
    const line = (c, width, tint) => ({ x: c.epoch, y: c.mean, mode: c.epoch.length > 1 ? "lines" :
      "markers", line: { width, color: tint }, marker: { color: tint }, hoverinfo: "skip" });
    const edge = (y, more) => ({ x: curve.epoch, y, mode: "lines", line: { width: 0 },
      hoverinfo: "skip", ...more });
    const traces = [
      ...curves.filter((c) => c !== curve).map((c) => line(c, 1, colour("--line"))),
      edge(curve.low), edge(curve.high, { fill: "tonexty", fillcolor: colour("--accent-soft") }),
      { ...line(curve, 2, ink), hoverinfo: "all",
        hovertemplate: `epoch %{x}: %{y:${data.unit === "%" ? ".1f" : ".3g"}} ` +
          `${escapeText(data.unit)}<extra></extra>` },
    ];
    const small = { tickfont: { size: 10 }, nticks: 6 };
    Plotly.react(byId(`curve-${index}`), traces, layout({
      margin: { l: 30, r: 6, t: 6, b: 32 },
      xaxis: axis("epoch", [first - 0.03 * (last - first) - 0.2, last + 0.03 * (last - first) + 0.2],
        { ...small, title: { text: "epoch", standoff: 3, font: { size: 10 } }, tickformat: "d" }),
      yaxis: axis("", range, small),
    }), CONFIG);
  });
}

function draw() {
  const latency = byId("cost-latency"), madds = byId("cost-madds");
  if (latency) drawCost(latency, data.latency, "latency (ms a batch)", "ms");
  if (madds) drawCost(madds, data.madds, "multiply-adds (million an image)", "M multiply-adds");
  if (data.curves.length) drawCurves(data.curves);
}

async function loadPlotly() {
  const packed = Uint8Array.from(atob(byId("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

loadPlotly().then(() => {
  let pending = 0;
  const later = () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(draw);
  };
  const sizes = new ResizeObserver(later);
  document.querySelectorAll(".plot").forEach((plot) => sizes.observe(plot));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
}).catch((error) => {
  document.querySelectorAll(".plot").forEach((plot) => {
    const note = document.createElement("p");
    note.className = "missing";
    note.textContent = `The chart cannot be drawn here (${error.message}); the table has its numbers.`;
    plot.append(note);
  });
});
