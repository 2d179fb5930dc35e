// Puts the sections on the page, one after the other, so that the first can be read while the next is drawn.

async function main() {
  const content = document.getElementById("content"), contents = document.getElementById("contents"), lead = document.getElementById("lead");
  if (typeof DecompressionStream === "undefined") {
    lead.textContent = "This browser is too old to unpack the data of this page: it needs Chrome or Edge 103, Firefox 113, Safari 16.4 or later.";
    return;
  }
  const index = await readJson("index");
  const models = new Set(index.runs.map((run) => run.model)), sizes = new Set(index.runs.map((run) => run.vocab_size).filter(isNumber));
  lead.textContent = `${index.runs.length === 1 ? "One run" : `${index.runs.length} runs`} of ${[...models].join(", ")}${sizes.size === 1 ? `, a vocabulary of ${whole([...sizes][0])} tokens` : ""}. This page is one file and needs no network.`;
  const links = [];
  const add = (node, which = null) => {
    if (which) node.dataset.which ||= which;
    node.id = freshId("section");
    content.append(node);
    const title = node.querySelector("h2").firstChild.textContent, link = el("a", { href: `#${node.id}` }, title);
    contents.append(link);
    // Where a title recurs, its links say which run each is of.
    const same = links.filter((one) => one.title === title);
    links.push({ title, link, which: node.dataset.which });
    if (same.length) for (const one of links) if (one.title === title) one.link.textContent = `${title}: ${one.which}`;
  };
  for (const section of index.sections) {
    try {
      add(await (drawings.get(section.kind) || tableSection)(section, index.runs), index.runs[section.run].name);
    } catch (error) {
      // One figure that cannot be drawn must not take the others with it; the console says more.
      content.append(el("p", { class: "notice", role: "alert" }, `The section \u201c${section.kind}\u201d could not be drawn: ${error.message}`));
      console.error(error);
    }
    performance.mark(`drawn ${section.kind}`);
    await new Promise((resolve) => setTimeout(resolve));
  }
  add(runsSection(index.runs));
  document.documentElement.dataset.ready = "true";
  performance.mark("ready");
}

main();
