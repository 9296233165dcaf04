// Talking to the server: OpenAI's interface, streamed. Addresses are relative, so that the page may stand under a path.

// The server said no: `status` is that of HTTP, the message is the server's own.
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Nobody answered, or the answer broke off; or, with the reason "loading", the model is still being loaded.
export class Gone extends Error {
  constructor(message, reason = "gone") {
    super(message);
    this.reason = reason;
  }
}

function headers(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function call(address, key, body, signal) {
  let response;
  try {
    const how = body === undefined ? { method: "GET" } : { method: "POST", body: JSON.stringify(body) };
    response = await fetch(address, { ...how, headers: headers(key), signal, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Gone(error.message);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  try {
    const told = JSON.parse(text);
    return fault(told.error ?? { message: told.status, code: told.status }, response.status); // the latter: of "health"
  } catch {
    // Not our server's words: a proxy's, whose server behind it is gone, or another site's.
    if ([502, 503, 504].includes(response.status)) return new Gone(response.statusText);
    return new Refused(response.status, `${response.status} ${response.statusText}`);
  }
}

// The error that OpenAI's form tells of.
function fault({ message, code }, status) {
  if (code === "loading" || code === "shutting_down") return new Gone(message, code === "loading" ? code : "gone");
  return new Refused(status, String(message));
}

// Whether the server can answer: throws if it cannot, as all here do.
export async function ready() {
  await call("health");
}

// The names of the models: the base and its adapters.
export async function models(key) {
  const response = await call("v1/models", key);
  return (await response.json()).data.map((model) => String(model.id));
}

// The picture at an address, fetched by the server under its rules.
export async function pictureAt(address, key) {
  return (await call("v1/pictures", key, { url: address })).blob();
}

// Asks, and calls onText with each new piece. Returns {finish, boxes, tokens}: boxes is null if the server sent none.
export async function ask(body, key, signal, onText) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await call("v1/chat/completions", key, asked, signal);
  const result = { finish: null, boxes: null, tokens: null };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return result;
    const chunk = JSON.parse(data);
    if (chunk.error) throw fault(chunk.error, response.status);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    if (choice?.finish_reason) result.finish = choice.finish_reason;
    if (choice?.boxes) result.boxes = choice.boxes;
    if (chunk.usage) result.tokens = chunk.usage.completion_tokens;
  }
  throw new Gone("the stream ended early");
}

// The data of each server-sent event.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Gone(error.message);
      });
      if (done) return;
      rest += value;
      const parts = rest.split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
