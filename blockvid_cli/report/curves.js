// How metrics drift along the film: a small plot per metric, all over the same seconds, with the film's position.
// Runs after report.js, whose names it uses.

const WIDE = 320, HIGH = 104, EDGE = 6; // of a plot's coordinates
const DOTS = 60; // a longer line has no dots
const CALM = 0.1; // a plot spans at least this share of its first score, so that small changes look small

const many = chunks.length > 120;
const shown = chunks.slice(1).filter((chunk, place) => !many || chunk.shot !== chunks[place].shot);
const borders = shown.map((chunk) => chunk.start);
const across = (seconds) => EDGE + ((WIDE - 2 * EDGE) * seconds) / facts.seconds;
const number = (value) => (Math.abs(value) >= 100 ? value.toFixed(1) : value.toPrecision(4));

function change(value, first) {
  if (!first) return "";
  const percent = (100 * (value - first)) / Math.abs(first);
  const sign = Math.abs(percent) < 0.05 ? "±" : percent < 0 ? "−" : "+";
  return `${sign}${Math.abs(percent).toFixed(1)} %`;
}

function panel(curve) {
  const points = curve.scores.map((score, place) => ({ score, at: curve.seconds[place] }));
  const scored = points.filter((point) => point.score !== null);
  if (!scored.length) return null;
  const first = scored[0].score, last = scored.at(-1).score;
  const down = heights(scored.map((point) => point.score));
  const chosen = draw("circle", { class: "dot chosen", r: 5, visibility: "hidden" });
  const value = make("span", { className: "value" });
  const title = curve.name.replaceAll("_", " ");
  const whole = scored.length > 1 ? `${number(first)} → ${number(last)}  ${change(last, first)}` : number(first);
  const better = { true: "higher is better", false: "lower is better" }[curve.higher] || "";
  const plot = make("div", { className: "plot", tabIndex: 0 }, sketch(points, scored, down, chosen));
  const show = (place) => {
    const point = scored[place];
    chosen.setAttribute("visibility", point ? "visible" : "hidden");
    value.textContent = whole;
    if (!point) return;
    chosen.setAttribute("cx", across(point.at));
    chosen.setAttribute("cy", down(point.score));
    value.textContent = `${clock(point.at)}  ${number(point.score)}${place ? `  ${change(point.score, first)}` : ""}`;
    plot.setAttribute("aria-valuenow", place + 1);
    plot.setAttribute("aria-valuetext", value.textContent);
  };
  const about = {
    role: "slider", "aria-label": `${title}, along the film`,
    "aria-valuemin": 1, "aria-valuemax": scored.length, "aria-valuenow": 1, "aria-valuetext": whole,
  };
  for (const [name, value] of Object.entries(about)) plot.setAttribute(name, value);
  listen(plot, scored, show);
  show(-1);
  const small = make("small", { textContent: better });
  return make("figure", {}, make("figcaption", {}, make("span", {}, title, small), value), plot);
}

// Where a score stands: the first one's distance from the others is what the plot is about.
function heights(scores) {
  const least = Math.min(...scores), most = Math.max(...scores);
  const room = Math.max(most - least, CALM * Math.abs(scores[0]), 1e-9), middle = (most + least) / 2;
  return (score) => HIGH / 2 - ((score - middle) / room) * (HIGH - 24);
}

function sketch(points, scored, down, chosen) {
  const level = down(scored[0].score);
  const here = draw("line", { class: "here", y1: 0, y2: HIGH });
  tell.addEventListener("time", (event) => {
    for (const end of ["x1", "x2"]) here.setAttribute(end, across(event.detail));
  });
  const dots = scored.length > DOTS ? [] : scored.map((point) => {
    return draw("circle", { class: "dot", r: 2.5, cx: across(point.at), cy: down(point.score) });
  });
  return draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, "aria-hidden": "true" },
    ...borders.map((at) => draw("line", { class: "border", x1: across(at), x2: across(at), y1: 0, y2: HIGH })),
    draw("line", { class: "first", x1: EDGE, x2: WIDE - EDGE, y1: level, y2: level }),
    ...runs(points, down), ...dots, here, chosen);
}

// A pointer or the arrow keys choose a segment, a click or Enter brings the film there.
function listen(plot, scored, show) {
  let place = 0;
  const choose = (next) => { place = Math.min(Math.max(next, 0), scored.length - 1); show(place); };
  const nearest = (event) => {
    const box = plot.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * WIDE;
    const far = scored.map((point) => Math.abs(across(point.at) - at));
    return far.indexOf(Math.min(...far));
  };
  plot.addEventListener("pointermove", (event) => choose(nearest(event)));
  plot.addEventListener("pointerleave", () => show(document.activeElement === plot ? place : -1));
  plot.addEventListener("focus", () => show(place));
  plot.addEventListener("blur", () => show(-1));
  plot.addEventListener("click", (event) => { choose(nearest(event)); go(scored[place].at); });
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Enter") go(scored[place].at);
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
