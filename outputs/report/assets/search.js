// Search: a combobox over all tokens. #17 is token 17, before tokens with that text; exact matches, beginnings, anything.

const FOUND = 60;

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
    const needle = wanted.toLowerCase(), trimmed = needle.trim(), ranks = [numbered, [], [], [], []];
    if (!needle) return [];
    for (let token = 0; token < folded.length; token++) {
      const text = folded[token];
      if (!text.includes(trimmed || needle) || token === numbered[0]) continue;
      const bare = text.trim();
      const rank = texts[token] === wanted ? 1 : bare === trimmed ? 2 : bare.startsWith(trimmed) ? 3 : 4;
      if (ranks[rank].length < FOUND) ranks[rank].push(token);
    }
    return ranks.flat().slice(0, FOUND);
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
