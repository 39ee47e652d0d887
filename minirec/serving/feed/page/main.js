// The page: a user's feed; every click is an event, and every event changes the feed.
import { feed, history, send, status } from "/page/server.js";
import { element, place, stepRow } from "/page/places.js";

const byId = (id) => document.getElementById(id);
const state = { user: "", actions: [], weights: {}, asked: 0, newest: "" };
const BEHIND_MS = 1000; // How often events are looked for that others sent.

function showError(error) {
  byId("error").hidden = !error;
  byId("error").textContent = error ?? "";
}

function slider(name, value, most) {
  const output = element("output", { for: `weight-${name}` }, String(value));
  const input = element("input", {
    id: `weight-${name}`, type: "range", min: String(-most), max: String(most), step: "0.5", value: String(value), "data-action": name,
    oninput: () => { output.textContent = input.value; },
    onchange: () => { state.weights[name] = Number(input.value); ask(); },
  });
  return element("div", { class: "slider" }, element("label", { for: `weight-${name}` }, name), input, output);
}

function showWeights(weights) {
  state.weights = { ...weights };
  const most = Math.max(20, ...Object.values(weights).map(Math.abs));
  byId("weights").replaceChildren(...Object.entries(weights).map(([name, value]) => slider(name, value, most)));
}

async function ask() {
  const number = ++state.asked;
  byId("busy").textContent = "asking…";
  byId("feed").classList.add("stale");
  const { answer, error } = await feed({
    user: state.user, weights: state.weights, explain: true,
    diversify: byId("diversify").checked, leave_out_served: byId("leave_out_served").checked,
  });
  if (number !== state.asked) return; // A newer question is under way.
  byId("busy").textContent = "";
  byId("feed").classList.remove("stale");
  showError(error);
  if (error) return;
  byId("feed").replaceChildren(...answer.items.map((item) => place(item, state.actions, act)));
  byId("feed").dataset.answer = String(number);
  byId("latency").textContent = `${answer.milliseconds.toFixed(0)} ms, ranked by ${answer.ranked_by}`;
  byId("degraded").hidden = answer.degraded.length === 0;
  byId("degraded").textContent = `Without ${answer.degraded.join(", ")}: ${answer.ranked_by === "retrieval" ? "the sources' own order" : "the rest answers"}.`;
  byId("steps").replaceChildren(...answer.steps.map(stepRow));
  byId("removed").replaceChildren(...Object.entries(answer.removed).map(([name, items]) =>
    element("li", {}, `${name}: ${items.join(", ")}`)));
}

async function act(action, item) {
  const ofBrand = action === "follow" || action === "block";
  const event = { user: state.user, action, ...(ofBrand ? { brand: item.brand } : { item: item.item_id }) };
  const focus = document.activeElement?.getAttribute("aria-label");
  const { error } = await send(event);
  if (error) return showError(error);
  await events(true);
  // By keyboard one goes on from where one was, if that is still there.
  if (focus) document.querySelector(`[aria-label=${JSON.stringify(focus)}]`)?.focus();
}

async function events(always = false) {
  const user = state.user;
  const { answer, error } = await history(user);
  byId("live").textContent = error ? "away" : "live";
  if (error || user !== state.user) return;
  const newest = JSON.stringify([answer.events, answer.followed, answer.blocked]);
  const isNew = newest !== state.newest;
  state.newest = newest;
  if (isNew) {
    byId("events").replaceChildren(...answer.events.map((event) => element("li", {},
      element("span", { class: "chip" }, event.action), ` ${event.title} `,
      element("time", { datetime: new Date(event.time_ms).toISOString() }, new Date(event.time_ms).toLocaleString()))));
    const said = [["follows", answer.followed], ["blocks", answer.blocked]].filter(([, brands]) => brands.length);
    byId("relations").textContent = said.map(([what, brands]) => `${what} ${brands.join(", ")}`).join("; ");
  }
  if (isNew || always) await ask();
}

async function show(user) {
  state.user = user;
  state.newest = "";
  byId("user").value = user;
  window.location.hash = encodeURIComponent(user);
  await events(true);
}

async function begin() {
  const { answer, error } = await status();
  if (error) return showError(error);
  state.actions = answer.actions;
  byId("version").textContent = `model ${answer.version}`;
  byId("users").replaceChildren(...answer.users.map((user) => element("option", { value: user })));
  showWeights(answer.weights);
  byId("reset").addEventListener("click", () => { showWeights(answer.weights); ask(); });
  byId("weights").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["diversify", "leave_out_served"]) byId(id).addEventListener("change", ask);
  byId("who").addEventListener("submit", (event) => {
    event.preventDefault();
    show(byId("user").value.trim());
  });
  await show(userOfAddress() || answer.users[0] || "somebody");
  setInterval(() => { if (!document.hidden) events(); }, BEHIND_MS);
}

function userOfAddress() {
  try {
    return decodeURIComponent(window.location.hash.slice(1));
  } catch {
    return ""; // What is behind the hash spells nobody.
  }
}

begin();
