// What the page asks of the server.

export async function ask(request) {
  const started = performance.now();
  try {
    const response = await fetch("/v1/recommend", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(request),
    });
    const body = await response.json();
    const milliseconds = performance.now() - started;
    return response.ok ? { answer: body, milliseconds } : { error: body.error.message, milliseconds };
  } catch (error) {
    return { error: `The server does not answer: ${error.message}`, milliseconds: performance.now() - started };
  }
}

export async function find(words) {
  const response = await fetch(`/v1/items?num=8&q=${encodeURIComponent(words)}`);
  return response.ok ? (await response.json()).items : [];
}

export async function status() {
  const response = await fetch("/v1/status");
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}
