// The film and its timeline. Whatever a person typed is put in as text, never as HTML.

const facts = JSON.parse(document.getElementById("facts").textContent);
const chunks = facts.chunks;
const placeOf = new Map(chunks.map((chunk, place) => [chunk.number, place]));
const film = document.querySelector("video");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const LONG = facts.seconds >= 3600;
const NARROWEST = 24; // pixels of the shortest chunk, unless it is far shorter than the others
const ARCS = 76; // pixels above the chunks, as in report.css
const ALL_ARCS = 150; // a film of more chunks shows only the arcs of the one that is chosen
const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
const SVG = "http://www.w3.org/2000/svg";

const make = (tag, values = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
};

const draw = (tag, values = {}, ...children) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

const clock = (seconds) => {
  const tenths = Math.round(seconds * 10), minutes = Math.floor(tenths / 600), rest = tenths % 600;
  const shown = String(Math.floor(rest / 10)).padStart(2, "0") + (rest % 10 ? `.${rest % 10}` : "");
  if (minutes < 60) return `${minutes}:${shown}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${shown}`;
};

const tell = new EventTarget(); // "time": the film is somewhere else now
const scroller = document.getElementById("scroller"), timeline = document.getElementById("timeline");
const arcs = draw("svg", { class: "arcs", "aria-hidden": "true" });
const playhead = make("div", { className: "playhead" });
const buttons = chunks.map(button);
const labels = [];
const stills = facts.cards.map((card) => make("div", { className: "still", textContent: card.name }));
let scale = 1, chosen = 0, playing = -1;
let following = true; // the card shows the chunk that is playing

function button(chunk, place) {
  const image = chunk.image ? [make("img", { src: chunk.image, alt: "", decoding: "async" })] : [];
  const span = `${clock(chunk.start)} to ${clock(chunk.end)}`;
  const made = make("button", { type: "button", className: "chunk", title: chunk.caption, tabIndex: -1 },
    make("span", { className: "frame" }, ...image), make("span", { className: "badge" }),
    make("b", { textContent: chunk.warnings.length ? `${chunk.number} ⚠` : chunk.number }),
    make("small", { textContent: clock(LONG ? Math.round(chunk.start) : chunk.start) }));
  made.setAttribute("role", "option");
  const warned = chunk.warnings.length ? ", with a warning" : "";
  made.setAttribute("aria-label", `Chunk ${chunk.number}, ${span}, shot ${chunk.shot}${warned}: ${chunk.caption}`);
  made.addEventListener("click", () => seek(place));
  return made;
}

function fill() {
  const shots = grouped();
  timeline.append(arcs);
  timeline.classList.toggle("in-shots", shots.size > 1);
  for (const [shot, inside] of shots) {
    const group = make("div", { className: "shot" }, ...inside.map((chunk) => buttons[placeOf.get(chunk.number)]));
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `Shot ${shot}`);
    if (shots.size > 1) {
      const label = make("span", { className: "label", textContent: `shot ${shot}` });
      label.setAttribute("aria-hidden", "true");
      labels.push([label, inside[0].start, inside.at(-1).end]);
      group.append(label);
    }
    timeline.append(group);
  }
  timeline.append(...stills, playhead);
  const reasons = chunks.filter((chunk) => chunk.warnings.length).map((chunk) => make("p", { className: "warning", dir: "auto",
    textContent: `Chunk ${chunk.number}: ${chunk.warnings.join(" ")}` }));
  document.getElementById("reasons").append(...reasons);
}

function grouped() {
  const shots = new Map();
  for (const chunk of chunks) {
    if (!shots.has(chunk.shot)) shots.set(chunk.shot, []);
    shots.get(chunk.shot).push(chunk);
  }
  return shots;
}

// Widths are proportional to seconds; a film that does not fit scrolls inside its own box.
function layOut() {
  const lengths = chunks.map((chunk) => chunk.end - chunk.start).sort((a, b) => a - b);
  const shortest = Math.max(lengths[0], 0.05), usual = Math.max(lengths[lengths.length >> 1], 0.05);
  const wide = (LONG ? 92 : 68) / usual; // room for a number and a time
  scale = Math.max(scroller.clientWidth / facts.seconds, wide, Math.min(NARROWEST / shortest, 4 * wide));
  timeline.style.width = `${Math.floor(facts.seconds * scale)}px`;
  chunks.forEach((chunk, place) => {
    buttons[place].style.left = `${chunk.start * scale}px`;
    buttons[place].style.width = `${(chunk.end - chunk.start) * scale}px`;
  });
  facts.cards.forEach((card, place) => {
    stills[place].style.left = `${card.start * scale}px`;
    stills[place].style.width = `${(card.end - card.start) * scale - 2}px`;
  });
  for (const [label, start, end] of labels) {
    label.style.left = `${start * scale}px`;
    label.style.width = `${(end - start) * scale - 4}px`;
  }
  drawArcs();
  moved();
}

function drawArcs() {
  const from = chunks.length <= ALL_ARCS ? chunks : [chunks[chosen]];
  const middle = (chunk) => ((chunk.start + chunk.end) / 2) * scale;
  const paths = from.flatMap((chunk) => chunk.retrieved.filter((old) => placeOf.has(old.chunk)).map((old) => {
    const [a, b] = [middle(chunks[placeOf.get(old.chunk)]), middle(chunk)];
    const high = ARCS - Math.min(ARCS * 1.25, 24 + Math.abs(b - a) * 0.22);
    const kind = `${old.cosine === null ? "recent" : "alike"}${chunk === chunks[chosen] ? " chosen" : ""}`;
    return draw("path", { class: kind, d: `M${b} ${ARCS} C${b} ${high} ${a} ${high} ${a} ${ARCS}` });
  }));
  arcs.replaceChildren(...paths.sort((a, b) => a.classList.contains("chosen") - b.classList.contains("chosen")));
}

function choose(place, focus = false) {
  buttons[chosen].tabIndex = -1;
  buttons[chosen].setAttribute("aria-selected", "false");
  for (const old of chunks[chosen].retrieved) mark(old.chunk, "", "");
  chosen = place;
  buttons[chosen].tabIndex = 0;
  buttons[chosen].setAttribute("aria-selected", "true");
  for (const old of chunks[chosen].retrieved) {
    mark(old.chunk, old.cosine === null ? "recent" : "alike", old.cosine === null ? "" : old.cosine.toFixed(2));
  }
  drawArcs();
  showCard(chunks[chosen]);
  if (focus) buttons[chosen].focus({ preventScroll: true });
  bringIntoView(buttons[chosen]);
}

function mark(number, kind, text) {
  if (!placeOf.has(number)) return;
  const made = buttons[placeOf.get(number)];
  made.dataset.retrieved = kind;
  made.querySelector(".badge").textContent = text;
}

function bringIntoView(made) {
  const left = made.offsetLeft, right = left + made.offsetWidth, seen = scroller.scrollLeft;
  if (left >= seen && right <= seen + scroller.clientWidth) return;
  const middle = (left + right - scroller.clientWidth) / 2;
  scroller.scrollTo({ left: middle, behavior: still.matches ? "auto" : "smooth" });
}

function seek(place) {
  following = true;
  choose(place);
  go(chunks[place].start);
}

function go(seconds) {
  if (!film) return;
  film.currentTime = seconds + 0.5 / facts.fps; // the middle of the frame, so that rounding cannot show the one before
}

function keys(event) {
  const from = buttons.indexOf(document.activeElement);
  if (from < 0 || !(event.key in STEPS) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  choose(Math.min(Math.max(from + STEPS[event.key], 0), chunks.length - 1), true);
  following = chosen === playing;
}

// The card follows the film, unless another chunk than the one playing was chosen to be looked at. A title card or an
// end card plays no chunk.
function moved() {
  const now = film ? film.currentTime : 0;
  playhead.style.transform = `translateX(${now * scale}px)`;
  tell.dispatchEvent(new CustomEvent("time", { detail: now }));
  const place = film ? chunks.findLastIndex((chunk) => chunk.start <= now + 1e-3 && now < chunk.end) : -1;
  if (place === playing) return;
  if (playing >= 0) buttons[playing].removeAttribute("aria-current");
  playing = place;
  if (playing < 0) return;
  buttons[playing].setAttribute("aria-current", "true");
  if (following && playing !== chosen) choose(playing);
  following = chosen === playing;
}

// Pixels that are shown larger than they are stay square, so that they look as they were rendered.
function sharpen() {
  film.classList.toggle("enlarged", film.clientWidth * devicePixelRatio > film.width);
}

function everyFrame() {
  moved();
  if (!film.paused && !film.ended && !still.matches) requestAnimationFrame(everyFrame);
}

// The player's own switch for captions shows the storyboard's.
function subtitles() {
  const captioned = chunks.filter((chunk) => chunk.caption);
  if (!captioned.length) return;
  const track = film.addTextTrack("captions", "Storyboard");
  for (const chunk of captioned) {
    const plain = chunk.caption.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
    track.addCue(new VTTCue(chunk.start, chunk.end, plain));
  }
}

copies();
if (chunks.length) {
  document.getElementById("chunks").hidden = false;
  fill();
  timeline.addEventListener("keydown", keys);
  choose(0);
  new ResizeObserver(layOut).observe(scroller);
  if (film) {
    subtitles();
    new ResizeObserver(sharpen).observe(film);
    film.addEventListener("play", everyFrame);
    for (const name of ["timeupdate", "seeking", "seeked"]) film.addEventListener(name, moved);
  }
}
