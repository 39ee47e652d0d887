// The page's one view: what was asked, what was answered, and from where.

const element = (id) => document.getElementById(id);
let messages = [];
let busy = false;

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function entry(kind, text) {
  const item = document.createElement("li");
  item.className = kind;
  const said = document.createElement("p");
  said.textContent = text;
  item.append(said);
  element("said").append(item);
  return item;
}

function showSources(item, sources) {
  for (const source of sources) {
    const box = document.createElement("details");
    const head = document.createElement("summary");
    head.textContent = `[${source.number}] ${source.heading} (${source.url})`;
    const text = document.createElement("blockquote");
    text.textContent = source.text;
    box.append(head, text);
    item.append(box);
  }
}

function showError(message) {
  element("error").textContent = message;
  element("error").hidden = !message;
}

async function ask(question) {
  busy = true;
  element("send").disabled = true;
  showError("");
  const asked = entry("user", question);
  const item = entry("assistant", "…");
  try {
    const response = await fetch("/v1/chat", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ messages: [...messages.slice(-40), { role: "user", content: question }], stream: true }),
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    let text = "";
    let about = null;
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      text += event.choices[0].delta.content ?? "";
      about = event.minirec ?? about;
      item.firstChild.textContent = text.split("\n\nSources:\n")[0];
    }
    if (!about) throw new Error("the answer broke off");
    item.classList.add(about.kind);
    showSources(item, about.sources);
    if (about.kind !== "refusal") {
      messages.push({ role: "user", content: question }, { role: "assistant", content: text });
    }
  } catch (error) {
    asked.remove();
    item.remove();
    showError(error.message);
    element("question").value = question;
  }
  busy = false;
  element("send").disabled = false;
}

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = element("question").value.trim();
  if (!question || busy) return;
  element("question").value = "";
  ask(question);
});

element("reset").addEventListener("click", () => {
  if (busy) return;
  messages = [];
  element("said").replaceChildren();
  showError("");
});

fetch("/v1/models").then((response) => response.json()).then((list) => {
  element("name").textContent = list.data[0].id;
});
