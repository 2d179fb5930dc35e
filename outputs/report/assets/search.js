// Search: a combobox over all tokens. #17 is token 17, before tokens with that text; exact matches, beginnings, anything.
// A leading space may be written as itself, as the middle dot that shows it, as _, or as tokenizers mark it.

const FOUND = 60;
const LEADING_SPACE = /^(?:\u00b7+|_+|\u0120+|\u2581+)/;

// The texts that may be meant, the likeliest first: what was written, but a middle dot is a space before it is itself.
function readings(wanted) {
  const plain = wanted.replaceAll(ESCAPED_SPACE, SPACE), found = [plain];
  const spaced = wanted.replace(LEADING_SPACE, (run) => " ".repeat(run.length)).replaceAll(SPACE, " ").replaceAll(ESCAPED_SPACE, SPACE);
  if (wanted.startsWith(SPACE)) found.unshift(spaced); else found.push(spaced);
  if (/^(['"]).+\1$/.test(wanted)) found.push(wanted.slice(1, -1));
  return [...new Set(found)];
}

function searchBox(texts, { onPick, name }) {
  const folded = texts.map((text) => text.toLowerCase());
  const listId = freshId("found"), inputId = freshId("search");
  const input = el("input", { id: inputId, type: "search", role: "combobox", autocomplete: "off", spellcheck: "false", "aria-autocomplete": "list",
    "aria-expanded": "false", "aria-controls": listId, placeholder: "Search a token, or #id" });
  const list = el("ul", { id: listId, role: "listbox", "aria-label": name, hidden: true });
  const status = el("span", { class: "visually-hidden", "aria-live": "polite" });
  let found = [], active = -1;

  function matches(wanted) {
    const byId = /^#(\d+)$/.exec(wanted);
    const numbered = byId && Number(byId[1]) < texts.length ? [Number(byId[1])] : [];
    if (!wanted) return [];
    const meant = readings(wanted), exact = meant.map(() => []), ranks = [[], [], []];
    const needles = [...new Set(meant.map((reading) => reading.toLowerCase().trim() || reading.toLowerCase()))];
    for (let token = 0; token < folded.length; token++) {
      if (token === numbered[0] || !needles.some((needle) => folded[token].includes(needle))) continue;
      const reading = meant.indexOf(texts[token]), bare = folded[token].trim();
      const place = needles.includes(bare) ? 0 : needles.some((needle) => bare.startsWith(needle)) ? 1 : 2;
      const rank = reading >= 0 ? exact[reading] : ranks[place];
      if (rank.length < FOUND) rank.push(token);
    }
    return [numbered, ...exact, ...ranks].flat().slice(0, FOUND);
  }

  function close() { list.hidden = true; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); active = -1; }

  function show() {
    found = matches(input.value);
    list.replaceChildren(...found.map((token, place) => el("li", { role: "option", id: `${listId}-${place}`, "aria-selected": "false", "data-token": token },
      tokenNode(texts[token]), el("small", null, `#${token}`))));
    if (!found.length && input.value) list.append(el("li", { class: "none" }, "no token has this text"));
    list.hidden = !input.value;
    input.setAttribute("aria-expanded", String(!list.hidden));
    status.textContent = input.value ? `${found.length === FOUND ? `first ${FOUND}` : found.length} tokens` : "";
    move(found.length ? 0 : -1);
  }

  function move(place) {
    if (active >= 0 && list.children[active]) list.children[active].setAttribute("aria-selected", "false");
    active = place;
    if (place < 0) { input.removeAttribute("aria-activedescendant"); return; }
    const option = list.children[place];
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", option.id);
  }

  function pick(token) { close(); onPick(token); }

  input.addEventListener("input", show);
  input.addEventListener("focus", () => { if (input.value && list.hidden && document.activeElement === input) show(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { close(); return; }
    if (event.key === "Enter" && !list.hidden && active >= 0) { event.preventDefault(); pick(found[active]); return; }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !found.length) return;
    event.preventDefault();
    if (list.hidden) show(); else move((active + step + found.length) % found.length);
  });
  // Not on click: the input would lose the focus, and the list close, before it.
  list.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    const option = event.target.closest("li[data-token]");
    if (option) pick(Number(option.dataset.token));
  });
  input.addEventListener("blur", close);
  return el("div", { class: "search", role: "search" }, el("label", { class: "visually-hidden", for: inputId }, name), input, list, status);
}
