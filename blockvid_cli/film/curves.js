// How measures drift along the film: a small picture a measure, all over the same seconds, with the film's position.
// Runs after report.js, whose names it uses.

const WIDE = 320, HIGH = 104, EDGE = 6; // of a picture's coordinates
const CALM = 0.1; // a picture spans at least this share of its first score, so that small changes look small

const many = chunks.length > 120;
const borders = chunks.slice(1).filter((chunk, place) => !many || chunk.shot !== chunks[place].shot).map((chunk) => chunk.start);
const across = (seconds) => EDGE + ((WIDE - 2 * EDGE) * seconds) / facts.seconds;
const number = (value) => (Math.abs(value) >= 100 ? value.toFixed(1) : value.toPrecision(4));

function change(value, first) {
  if (!first) return "";
  const percent = (100 * (value - first)) / Math.abs(first);
  return `${percent < 0 ? "−" : "+"}${Math.abs(percent).toFixed(1)} %`;
}

function panel(curve) {
  const points = curve.scores.map((score, place) => ({ score, at: curve.seconds[place] })).filter((point) => point.score !== null);
  if (!points.length) return null;
  const first = points[0].score, scores = points.map((point) => point.score);
  const least = Math.min(...scores), most = Math.max(...scores);
  const room = Math.max(most - least, CALM * Math.abs(first), 1e-9), middle = (most + least) / 2;
  const down = (score) => HIGH / 2 - ((score - middle) / room) * (HIGH - 24);

  const lines = borders.map((at) => draw("line", { class: "border", x1: across(at), x2: across(at), y1: 0, y2: HIGH }));
  const level = draw("line", { class: "first", x1: EDGE, x2: WIDE - EDGE, y1: down(first), y2: down(first) });
  const dots = points.map((point) => draw("circle", { class: "dot", r: 2.5, cx: across(point.at), cy: down(point.score) }));
  const here = draw("line", { class: "here", y1: 0, y2: HIGH });
  const chosenDot = draw("circle", { class: "dot chosen", r: 5, visibility: "hidden" });
  const picture = draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, "aria-hidden": "true" },
    ...lines, level, ...runs(curve, down), ...(points.length > 60 ? [] : dots), here, chosenDot);
  const told = make("output");
  const better = { true: "higher is better", false: "lower is better" }[curve.higher] || "";
  const whole = points.length > 1 ? `${number(first)} → ${number(points.at(-1).score)}  ${change(points.at(-1).score, first)}` : number(first);
  const title = curve.name.replaceAll("_", " ");
  const slider = make("div", { className: "plot", tabIndex: 0 }, picture);
  let place = -1;

  const show = (next) => {
    place = next;
    chosenDot.setAttribute("visibility", place < 0 ? "hidden" : "visible");
    if (place < 0) { told.textContent = whole; return; }
    const point = points[place];
    chosenDot.setAttribute("cx", across(point.at));
    chosenDot.setAttribute("cy", down(point.score));
    told.textContent = `${clock(point.at)}  ${number(point.score)}${place ? `  ${change(point.score, first)}` : ""}`;
    slider.setAttribute("aria-valuenow", place + 1);
    slider.setAttribute("aria-valuetext", told.textContent);
  };
  const nearest = (event) => {
    const box = picture.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * WIDE;
    return points.reduce((best, point, index) => (Math.abs(across(point.at) - at) < Math.abs(across(points[best].at) - at) ? index : best), 0);
  };
  const keyed = (event) => {
    const to = { ArrowLeft: place - 1, ArrowDown: place - 1, ArrowRight: place + 1, ArrowUp: place + 1, Home: 0, End: points.length - 1 }[event.key];
    if (to !== undefined) { event.preventDefault(); show(Math.min(Math.max(to, 0), points.length - 1)); }
    if (event.key === "Enter") go(points[place].at);
  };
  for (const [name, value] of Object.entries({ role: "slider", "aria-label": `${title}, along the film`, "aria-valuemin": 1, "aria-valuemax": points.length, "aria-valuenow": 1, "aria-valuetext": whole })) slider.setAttribute(name, value);
  slider.addEventListener("pointermove", (event) => show(nearest(event)));
  slider.addEventListener("pointerleave", () => show(document.activeElement === slider ? place : -1));
  slider.addEventListener("focus", () => show(Math.max(place, 0)));
  slider.addEventListener("blur", () => show(-1));
  slider.addEventListener("keydown", keyed);
  slider.addEventListener("click", (event) => go(points[nearest(event)].at));
  tell.addEventListener("time", (event) => { for (const end of ["x1", "x2"]) here.setAttribute(end, across(event.detail)); });
  show(-1);
  return make("figure", {}, make("figcaption", {}, make("span", {}, title, make("small", { textContent: better })), told), slider);
}

// The line, broken where a segment has no score.
function runs(curve, down) {
  const paths = [];
  let open = false;
  curve.scores.forEach((score, place) => {
    if (score === null) { open = false; return; }
    const point = `${across(curve.seconds[place])} ${down(score)}`;
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
  moved();
}
