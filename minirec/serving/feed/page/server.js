// What the page asks of the server.

async function asked(route, body) {
  try {
    const response = await fetch(route, body === undefined ? {} : {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const answer = await response.json();
    return response.ok ? { answer } : { error: answer.error.message };
  } catch (error) {
    return { error: `The server does not answer: ${error.message}` };
  }
}

export const status = () => asked("/v1/status");
export const feed = (request) => asked("/v1/feed", request);
export const history = (user) => asked(`/v1/events?num=12&user=${encodeURIComponent(user)}`);

// An event that is sent again, since no answer came, has the same id: it counts once.
export async function send(event) {
  const told = { event_id: crypto.randomUUID?.() ?? String(Math.random()), time_ms: Date.now(), ...event };
  const first = await asked("/v1/events", { events: [told] });
  const found = first.error ? await asked("/v1/events", { events: [told] }) : first;
  const wrong = found.answer?.malformed?.[0];
  return wrong ? { error: wrong.reason } : found;
}
