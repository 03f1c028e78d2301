// The card of a chunk: its caption, what it attended to, how it was rendered. And the buttons that copy a text.
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
  row("attends to", ...(chunk.retrieved.length ? chunk.retrieved.map(link) : ["nothing earlier"]));
  const by = chunks.filter((other) => other.retrieved.some((old) => old.chunk === chunk.number));
  const more = by.length > LINKS ? [` and ${by.length - LINKS} more`] : [];
  if (by.length) row("used by", ...by.slice(0, LINKS).map((other) => link({ chunk: other.number })), ...more);
  row("seed", make("code", { textContent: chunk.seed }));
  const among = chunk.takes.length > 1 ? `, chosen from ${chunk.takes.join(", ")}` : ", the only one";
  row("take", `${chunk.take}${among}`);
  if (chunk.cached_tokens !== null) row("tokens cached", ...tokensOf(chunk));
  const took = chunk.seconds === null ? "" : `${chunk.seconds.toFixed(1)} s`;
  row("rendered", chunk.resumed ? `by an earlier render${took && `, in ${took}`}` : `now${took && `, in ${took}`}`);
  card.replaceChildren(
    make("p", { className: "where", textContent: where }),
    make("p", { className: "caption", dir: "auto", textContent: chunk.caption }));
  if (chunk.prompt && chunk.prompt !== chunk.caption) {
    const prompt = make("q", { dir: "auto", textContent: chunk.prompt });
    card.append(make("p", { className: "prompt" }, "rendered as ", prompt));
  }
  card.append(list);
}

function link(old) {
  const alike = typeof old.cosine === "number" ? ` ${old.cosine.toFixed(2)}` : old.cosine === null ? " recent" : "";
  const made = make("button", { type: "button", className: "link" }, make("b", { textContent: old.chunk }), alike);
  const spoken = typeof old.cosine === "number" ? `, cosine${alike}` : alike && ", recent";
  made.setAttribute("aria-label", `Chunk ${old.chunk}${spoken}`);
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
