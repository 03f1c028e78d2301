// How metrics drift along the film: a small plot per metric, all over the same seconds, with the film's position.
// Runs after report.js, whose names it uses.

const WIDE = 320, HIGH = 136; // of a plot's coordinates, axes included
const LEFT = 36, RIGHT = 310, TOP = 12, BOTTOM = 112; // where the first and the last second, the most and the least are
const DOTS = 60; // a longer line has no dots
const CALM = 0.1; // an axis spans at least this share of the first score, so that small changes look small
const MANIFOLD = 3; // a larger ratio is given as a ratio, not in percent

const many = chunks.length > 120;
const shown = chunks.filter((chunk, place) => place && (!many || chunk.shot !== chunks[place - 1].shot));
const borders = [...shown.map((chunk) => chunk.start), ...facts.cards.map((card) => card.start || card.end)];
const across = (seconds) => LEFT + ((RIGHT - LEFT) * seconds) / facts.seconds;
const number = (value) => (Math.abs(value) >= 100 ? value.toFixed(1) : value.toPrecision(3));

function percent(change) {
  if (1 + change >= MANIFOLD) return `${(1 + change).toFixed(1)} times`;
  const size = (100 * Math.abs(change)).toFixed(1);
  return `${Number(size) === 0 ? "±" : change < 0 ? "−" : "+"}${size} %`;
}

function panel(curve) {
  const points = curve.scores.map((score, place) => ({ score, at: curve.seconds[place] }));
  const scored = points.filter((point) => point.score !== null);
  if (!scored.length) return null;
  const first = scored[0].score, axis = ticks(scored.map((point) => point.score));
  const down = (score) => BOTTOM - ((score - axis[0]) / (axis.at(-1) - axis[0])) * (BOTTOM - TOP);
  const chosen = draw("circle", { class: "dot chosen", r: 5, visibility: "hidden" });
  const value = make("span", { className: "value" });
  const plot = make("div", { className: "plot", tabIndex: 0 }, sketch(curve, points, axis, down, chosen));
  const show = (place) => {
    const point = scored[place];
    chosen.setAttribute("visibility", point ? "visible" : "hidden");
    value.textContent = curve.drift === null ? "" : `mean ${(100 * curve.drift).toFixed(1)} %`;
    if (!point) return;
    chosen.setAttribute("cx", across(point.at));
    chosen.setAttribute("cy", down(point.score));
    const change = place && first ? `  ${percent((point.score - first) / Math.abs(first))}` : "";
    value.textContent = `${clock(point.at)}  ${number(point.score)}${change}`;
    plot.setAttribute("aria-valuenow", place + 1);
    plot.setAttribute("aria-valuetext", value.textContent);
  };
  const about = {
    role: "slider", "aria-label": `${curve.name}, along the film`,
    "aria-valuemin": 1, "aria-valuemax": scored.length, "aria-valuenow": 1, "aria-valuetext": number(first),
  };
  for (const [name, text] of Object.entries(about)) plot.setAttribute(name, text);
  listen(plot, scored, show);
  show(-1);
  const title = make("span", {}, curve.name, make("small", { textContent: curve.description }));
  const figures = make("span", { className: "figures" }, ...largest(curve), value);
  return make("figure", {}, make("figcaption", {}, title, figures), plot);
}

// The largest change on the way; a click brings the film there.
function largest(curve) {
  if (!curve.largest || curve.scores.length < 2) return [];
  const at = curve.seconds[curve.largest.segment];
  const chunk = chunks.find((each) => each.start <= at && at < each.end);
  const where = chunk ? `, chunk ${chunk.number}` : "";
  const text = `largest ${percent(curve.largest.change)} at ${clock(at)}${where}`;
  const made = make("button", { type: "button", className: "link largest", textContent: text });
  made.setAttribute("aria-label", `${curve.name}: ${text}`);
  made.addEventListener("click", () => { following = true; go(at); });
  return [made];
}

// Round numbers from below the least score to above the most: the marks of an axis.
function ticks(scores) {
  const least = Math.min(...scores), most = Math.max(...scores);
  const room = Math.max(most - least, CALM * Math.abs(scores[0]), 1e-6), middle = (most + least) / 2;
  const rough = room / 3, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((each) => each * power >= rough * 0.999) * power;
  const low = Math.floor((middle - room / 2) / step + 1e-6), high = Math.ceil((middle + room / 2) / step - 1e-6);
  return Array.from({ length: high - low + 1 }, (_, place) => (low + place) * step);
}

function sketch(curve, points, axis, down, chosen) {
  const scored = points.filter((point) => point.score !== null), level = down(scored[0].score);
  const here = draw("line", { class: "here", y1: TOP, y2: BOTTOM });
  tell.addEventListener("time", (event) => {
    for (const end of ["x1", "x2"]) here.setAttribute(end, across(event.detail));
  });
  const dots = scored.length > DOTS ? [] : scored.map((point) => {
    return draw("circle", { class: "dot", r: 2.5, cx: across(point.at), cy: down(point.score) });
  });
  const far = curve.largest && curve.largest.change ? [points[curve.largest.segment]] : [];
  return draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, "aria-hidden": "true" },
    ...axis.flatMap((score) => gridLine(score, down(score), axis[1] - axis[0])),
    ...borders.map((at) => draw("line", { class: "border", x1: across(at), x2: across(at), y1: TOP, y2: BOTTOM })),
    ...moments().map((at) => draw("text", { class: "time", x: inside(at), y: HIGH - 8 }, clock(at))),
    draw("line", { class: "first", x1: LEFT, x2: RIGHT, y1: level, y2: level }),
    ...runs(points, down), ...dots,
    ...far.map((point) => draw("circle", { class: "dot far", r: 4, cx: across(point.at), cy: down(point.score) })),
    here, chosen);
}

function gridLine(score, y, step) {
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-6)));
  return [
    draw("line", { class: "grid", x1: LEFT, x2: RIGHT, y1: y, y2: y }),
    draw("text", { class: "score", x: LEFT - 5, y: y + 3.5 }, score.toFixed(digits).replace("-", "−")),
  ];
}

// Where the middle of a time's text is, so that no part of it lies beyond the plot.
const inside = (at) => Math.min(across(at), WIDE - 3 * clock(at).length);

// Seconds that the time axis names: round ones, about four.
function moments() {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  const step = steps.find((each) => each >= facts.seconds / 4.5) || 7200;
  return Array.from({ length: Math.floor(facts.seconds / step) + 1 }, (_, place) => place * step);
}

// A pointer or the arrow keys choose a point, a click or Enter brings the film there.
function listen(plot, scored, show) {
  let place = 0;
  const choose = (next) => { place = Math.min(Math.max(next, 0), scored.length - 1); show(place); };
  const visit = () => { following = true; go(scored[place].at); };
  const nearest = (event) => {
    const box = plot.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * WIDE;
    const far = scored.map((point) => Math.abs(across(point.at) - at));
    return far.indexOf(Math.min(...far));
  };
  plot.addEventListener("pointermove", (event) => choose(nearest(event)));
  plot.addEventListener("pointerleave", () => show(document.activeElement === plot ? place : -1));
  plot.addEventListener("focus", () => show(place));
  plot.addEventListener("blur", () => show(-1));
  plot.addEventListener("click", (event) => { choose(nearest(event)); visit(); });
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Enter") visit();
    if (!(event.key in STEPS) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    choose(place + STEPS[event.key]);
  });
}

// The line, broken where a segment has no score.
function runs(points, down) {
  const paths = [];
  let open = false;
  points.forEach(({ score, at }) => {
    if (score === null) { open = false; return; }
    const point = `${across(at)} ${down(score)}`;
    if (open) paths[paths.length - 1] += `L${point}`;
    else paths.push(`M${point}`);
    open = true;
  });
  return paths.map((path) => draw("path", { class: "run", d: path }));
}

const panels = facts.curves.map(panel).filter(Boolean);
if (panels.length) {
  document.getElementById("curves").append(...panels);
  document.getElementById("drift").hidden = false;
  document.querySelector(".key.border").textContent = many ? "shot borders" : "chunk borders";
  moved();
}
