// The page: a history is built by clicks, and every change asks the server anew.
import { ask, find, status } from "/page/server.js";
import { drawTree } from "/page/tree.js";

const SAYS = { model: "search", item_head: "item table", item_transition: "count", content: "text" };
const byId = (id) => document.getElementById(id);
const state = { history: [], excluded: [], beams: [], asked: 0 };

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children); // Strings become text: a title never becomes markup.
  return made;
}

function itemRow(item, action, label, sign) {
  return element("li", { "data-item": item.item_id },
    element("button", { type: "button", class: "pick", onclick: action, "aria-label": `${label} ${item.title}` },
      item.title, " ", element("span", { class: "id" }, item.item_id)),
    element("span", { class: "id", "aria-hidden": "true" }, sign));
}

function showHistory() {
  const rows = state.history.map((item, place) => itemRow(item, () => {
    state.history.splice(place, 1);
    changed();
  }, "Take back", "×"));
  byId("taken").replaceChildren(...rows);
  byId("empty").hidden = state.history.length > 0;
  const out = state.excluded.map((item, place) => itemRow(item, () => {
    state.excluded.splice(place, 1);
    changed();
  }, "Let in again", "+"));
  byId("excluded").replaceChildren(...out);
  byId("excluded-box").hidden = out.length === 0;
}

function rankedRow(item) {
  const score = item.score === null ? "0" : Math.exp(item.score).toPrecision(2);
  const chips = Object.entries(item.sources ?? {}).map(([name, share]) =>
    element("span", { class: `chip ${name}` }, `${SAYS[name] ?? name} ${share.toPrecision(2)}`));
  const why = (item.why ?? []).map((text) => element("li", {}, text));
  return element("li", { "data-item": item.item_id },
    element("span", { class: "rank" }, String(item.rank + 1)),
    element("button", { type: "button", class: "pick title", "aria-label": `Take ${item.title}`,
      onclick: () => take(item) }, item.title, " ", element("span", { class: "id" }, item.item_id)),
    element("span", {}, element("span", { class: "score", title: "probability" }, score), " ",
      element("button", { type: "button", class: "small", "aria-label": `Leave out ${item.title}`,
        onclick: () => { state.excluded.push(item); changed(); } }, "leave out")),
    element("div", { class: "detail" }, element("span", { class: "id" }, item.sid), ...chips),
    why.length ? element("details", { class: "why" }, element("summary", {}, "why"), element("ul", {}, ...why)) : "");
}

function take(item) {
  state.history.push({ item_id: item.item_id, title: item.title });
  changed();
}

function wanted() {
  const request = {
    history: state.history.map((item) => item.item_id),
    exclude: state.excluded.map((item) => item.item_id),
    num: Math.max(1, Number(byId("num").value) || 10),
    rank_by: byId("rank_by").value || null,
    exclude_seen: byId("exclude_seen").checked,
    sold_out: byId("sold_out").checked,
    explain: true,
    unknown: "skip",
  };
  const column = byId("column").value, value = byId("value").value.trim();
  if (column && value) {
    const compared = value.match(/^(<=|>=|<|>)\s*(-?[\d.]+)$/);
    request.allow = [compared
      ? { column, op: compared[1], value: Number(compared[2]) }
      : { column, op: "in", value: value.split(",").map((part) => part.trim()).filter(Boolean) }];
  }
  return request;
}

async function changed() {
  showHistory();
  const number = ++state.asked;
  byId("busy").textContent = "asking…";
  byId("ranked").classList.add("stale");
  const { answer, error, milliseconds } = await ask(wanted());
  if (number !== state.asked) return; // A newer question is under way.
  byId("busy").textContent = "";
  byId("ranked").classList.remove("stale");
  byId("error").hidden = !error;
  byId("error").textContent = error ?? "";
  if (error) return;
  byId("ranked").replaceChildren(...answer.items.map(rankedRow));
  const spent = answer.milliseconds ?? {};
  byId("latency").textContent = `${milliseconds.toFixed(0)} ms here; ${spent.queued?.toFixed(1)} ms queued, ${spent.searched?.toFixed(1)} ms searched`;
  showVersions(answer);
  state.beams = answer.beams ?? [];
  drawTree(byId("tree"), state.beams, Number(byId("beams").value));
}

function showVersions(answer) {
  byId("versions").textContent = `model ${answer.model_version}, catalogue ${answer.catalogue_version}`;
}

async function search() {
  const words = byId("words").value;
  const items = words.trim() ? await find(words) : [];
  if (words !== byId("words").value) return;
  byId("found").replaceChildren(...items.map((item) =>
    itemRow(item, () => take(item), "Take", item.in_stock && item.listed ? "+" : "sold out")));
}

async function begin() {
  const serves = await status();
  byId("rank_by").replaceChildren(...serves.rank_by.map((name) => element("option", { value: name }, name)));
  byId("num").max = serves.num_beams;
  byId("num").value = Math.min(10, serves.num_beams);
  byId("beams").max = serves.num_beams;
  byId("exclude_seen").checked = serves.exclude_seen;
  byId("column").append(...serves.columns.map((name) => element("option", { value: name }, name)));
  showVersions(serves);
  byId("find").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  byId("switches").addEventListener("submit", (event) => event.preventDefault());
  byId("words").addEventListener("input", search);
  byId("clear").addEventListener("click", () => { state.history = []; changed(); });
  for (const id of ["rank_by", "num", "exclude_seen", "sold_out", "value"]) byId(id).addEventListener("change", changed);
  byId("column").addEventListener("change", () => {
    byId("value").disabled = !byId("column").value;
    changed();
  });
  byId("beams").addEventListener("input", () => {
    byId("beams-value").textContent = byId("beams").value;
    drawTree(byId("tree"), state.beams, Number(byId("beams").value));
  });
  await changed();
  setInterval(async () => { // A catalogue that changes is seen without a click.
    if (document.hidden) return;
    const now = await status().catch(() => null);
    if (now && `model ${now.model_version}, catalogue ${now.catalogue_version}` !== byId("versions").textContent) changed();
  }, 2000);
}

begin().catch((error) => {
  byId("error").hidden = false;
  byId("error").textContent = `The server does not answer: ${error.message}`;
});
