// The card of a chunk: its caption and warnings, what it attended to, how it was rendered. And the buttons that copy a text.
"use strict";

const LINKS = 24; // chunks that are named in a row

function showCard(chunk) {
  const card = document.getElementById("card");
  const shot = labels.length ? ` · shot ${chunk.shot}` : "";
  const where = `Chunk ${chunk.number} of ${chunks.length}${shot} · ${clock(chunk.start)}–${clock(chunk.end)}`;
  const list = make("dl");
  const row = (name, ...values) => {
    list.append(make("div", {}, make("dt", { textContent: name }), make("dd", {}, ...values)));
  };
  if (chunk.first_image) row("begins with", `the picture ${chunk.first_image}`);
  if (chunk.last_image) row("ends with", `the picture ${chunk.last_image}`);
  const [alike, recent] = [true, false].map((with_) => chunk.retrieved.filter((old) => (old.cosine !== null) === with_));
  row("retrieves", ...(alike.length ? alike.map(link) : ["no earlier chunk"]));
  if (recent.length) row("recent", ...recent.map((old) => link({ chunk: old.chunk })));
  const by = chunks.filter((other) => other.retrieved.some((old) => old.chunk === chunk.number));
  const more = by.length > LINKS ? [` and ${by.length - LINKS} more`] : [];
  if (by.length) row("used by", ...by.slice(0, LINKS).map((other) => link({ chunk: other.number })), ...more);
  if (chunk.seed !== null) row("seed", make("code", { textContent: chunk.seed }));
  const among = chunk.takes.length > 1 ? `, chosen from ${chunk.takes.join(", ")}` : ", the only one";
  row("take", `${chunk.take}${among}`);
  if (chunk.cached_tokens !== null) row("tokens cached", ...tokensOf(chunk));
  const took = chunk.seconds === null ? "" : `${chunk.seconds.toFixed(1)} s`;
  row("rendered", chunk.resumed ? `by an earlier render${took && `, in ${took}`}` : `now${took && `, in ${took}`}`);
  card.replaceChildren(make("p", { className: "where", textContent: where }));
  if (chunk.caption) card.append(make("p", { className: "caption", dir: "auto", textContent: chunk.caption }));
  if (chunk.prompt && chunk.prompt !== chunk.caption) {
    const prompt = make("q", { dir: "auto", textContent: chunk.prompt });
    card.append(make("p", { className: "prompt" }, "rendered as ", prompt));
  }
  for (const text of chunk.warnings) card.append(make("p", { className: "warning", dir: "auto", textContent: text }));
  card.append(list);
}

function link(old) {
  const alike = old.cosine === undefined ? "" : ` ${old.cosine.toFixed(2)}`;
  const made = make("button", { type: "button", className: "link" }, make("b", { textContent: old.chunk }), alike);
  made.setAttribute("aria-label", `Chunk ${old.chunk}${alike && `, cosine${alike}`}`);
  const place = placeOf.get(old.chunk);
  made.disabled = place === undefined;
  made.addEventListener("click", () => { seek(place); buttons[place].focus({ preventScroll: true }); });
  return made;
}

function tokensOf(chunk) {
  if (!chunk.tokens) return [chunk.cached_tokens.toLocaleString("en")];
  const share = draw("rect", { width: `${(100 * chunk.cached_tokens) / chunk.tokens}%`, height: "100%", rx: 3 });
  const meter = draw("svg", { class: "bar", "aria-hidden": "true" }, share);
  return [`${chunk.cached_tokens.toLocaleString("en")} of ${chunk.tokens.toLocaleString("en")} `, meter];
}

function copies() {
  for (const made of document.querySelectorAll("button.copy")) {
    made.addEventListener("click", async () => {
      const text = document.getElementById(made.dataset.of);
      try {
        await navigator.clipboard.writeText(text.textContent);
      } catch {
        getSelection().selectAllChildren(text); // pages that may not write to the clipboard select at least
        made.textContent = document.execCommand("copy") ? "Copied" : "Selected";
        return;
      }
      made.textContent = "Copied";
      setTimeout(() => { made.textContent = "Copy"; }, 2000);
    });
  }
}
