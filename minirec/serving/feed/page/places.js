// A place of the feed, with the reasons for it.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children); // Strings become text: a title never becomes markup.
  return made;
}

const percent = (share) => `${(100 * share).toPrecision(2)}%`;

function bar(why) {
  // How much each action adds to the sum; what lowers it is drawn from the right.
  const parts = Object.entries(why.parts).filter(([, value]) => value !== 0);
  const all = parts.reduce((sum, [, value]) => sum + Math.abs(value), 0) || 1;
  const spans = parts.map(([name, value], place) => {
    const span = element("span", { class: `part part${place % 6} ${value < 0 ? "less" : ""}`, title: `${name} ${value.toPrecision(3)}` });
    span.style.flexGrow = Math.abs(value) / all;
    return span;
  });
  return element("span", { class: "bar", role: "img", "aria-label": parts.map(([name, value]) => `${name} ${value.toPrecision(2)}`).join(", ") }, ...spans);
}

function reasons(item) {
  const { why } = item, rows = [];
  rows.push(["named by", why.sources.join(", ") || "nobody"]);
  for (const [name, share] of Object.entries(why.probabilities)) {
    rows.push([name, `${percent(share)}, adds ${(why.parts[name] ?? 0).toPrecision(2)}`]);
  }
  for (const [name, factor] of Object.entries(why.factors)) {
    if (factor !== 1) rows.push([name.replaceAll("_", " "), `× ${factor.toPrecision(2)}`]);
  }
  if (why.marks.length) rows.push(["also", why.marks.join(", ").replaceAll("_", " ")]);
  rows.push(["score", item.score.toPrecision(4)]);
  return element("dl", {}, ...rows.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

// `act(action, item)` is called by the buttons; `actions` are the shop's, the first on the title.
export function place(item, actions, act) {
  const about = [item.brand, item.category, item.price === null ? "" : item.price.toFixed(2)].filter(Boolean).join(" · ");
  const buttons = actions.slice(1).map((action) => element("button",
    { type: "button", class: "small", "data-action": action, "aria-label": `${action} ${item.title}`, onclick: () => act(action, item) }, action));
  const ofBrand = item.brand ? [["follow", "follow"], ["block", "block"]].map(([action, said]) => element("button",
    { type: "button", class: "small quiet", "data-action": action, "aria-label": `${said} ${item.brand}`, onclick: () => act(action, item) }, `${said} brand`)) : [];
  return element("li", { "data-item": item.item_id },
    element("span", { class: "rank" }, String(item.rank + 1)),
    element("div", { class: "about" },
      element("button", { type: "button", class: "pick", "aria-label": `${actions[0]} ${item.title}`, onclick: () => act(actions[0], item) }, item.title),
      element("span", { class: "id" }, `${item.item_id} · ${about}`),
      bar(item.why),
      element("div", { class: "buttons" }, ...buttons, ...ofBrand),
      element("details", { class: "why" }, element("summary", {}, `why: ${item.why.sources.join(", ")}`), reasons(item))));
}

export function stepRow(step) {
  return element("tr", { class: step.outcome },
    element("td", {}, step.stage), element("td", {}, step.component), element("td", {}, step.ms.toFixed(1)),
    element("td", {}, String(step.given)), element("td", {}, String(step.left)),
    element("td", { title: step.error }, step.outcome));
}
