// A provider that says what a test tells it to, and remembers what it was asked.

import { once } from 'node:events';
import http from 'node:http';

/** A whole answer: an object becomes JSON. */
export const answer = (body, status = 200, headers = {}) => (_asked, response) => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
};

/** An error as OpenAI words it. */
export const failure = (status, message = 'It failed.', headers = {}) =>
  answer({ error: { message, type: 'server_error', param: null, code: 'their_code' } }, status, headers);

/** An event stream with one event for each object; one that is `cut` ends in the middle. */
export const events = (chunks, { cut = false } = {}) => (_asked, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const text = chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('');
  if (cut) response.write(text, () => response.socket.destroySoon());
  else response.end(`${text}data: [DONE]\n\n`);
};

/** A stream that ends only when nobody listens; then `left` is called. */
export const endless = (chunk, left) => (_asked, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const frame = `data: ${JSON.stringify(chunk)}\n\n`;
  const timer = setInterval(() => response.write(frame), 5);
  response.on('close', () => {
    clearInterval(timer);
    left();
  });
};

/** Takes the request and says nothing. */
export const silence = () => {};

export async function startUpstream() {
  const script = [];
  const asked = [];
  const server = http.createServer(async (request, response) => {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const body = Buffer.concat(pieces);
    if (request.method === 'GET' && request.url === '/v1/models') {
      // The gateway's own question, at a time of its choosing; no part of any test.
      failure(404)(undefined, response);
      return;
    }
    asked.push({ method: request.method, path: request.url, headers: request.headers, body });
    const reply = script.shift() ?? failure(599, 'The test scripted no answer.');
    reply(asked.at(-1), response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    asked,
    port: server.address().port,
    baseUrl: `http://127.0.0.1:${server.address().port}/v1`,
    /** Queues answers. */
    says: (...replies) => script.push(...replies),
    /** Forgets everything; gives how many answers nobody asked for. */
    reset: () => {
      asked.length = 0;
      return script.splice(0).length;
    },
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
