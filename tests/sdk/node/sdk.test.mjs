// The official Node SDK against the real gateway: what every application does, its failing side first.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';

import { startGateway } from './support/gateway.mjs';
import { answer, endless, events, failure, silence, startUpstream } from './support/upstream.mjs';

// After the harness has emptied the environment.
const { default: OpenAI, toFile } = await import('openai');

const HELLO = [{ role: 'user', content: 'Hello' }];
const EXCHANGE = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

const usage = { prompt_tokens: 9, completion_tokens: 3, total_tokens: 12 };

const completion = (message, finish = 'stop') => ({
  id: 'chatcmpl-1',
  object: 'chat.completion',
  created: 1,
  model: 'm-2025-01-01',
  choices: [{ index: 0, message: { role: 'assistant', refusal: null, ...message }, logprobs: null, finish_reason: finish }],
  usage,
});

const chunk = (delta, finish = null) => ({
  id: 'chatcmpl-1',
  object: 'chat.completion.chunk',
  created: 1,
  model: 'm-2025-01-01',
  choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
});

const usageChunk = { ...chunk({}), choices: [], usage };

const textChunks = (...texts) => [
  chunk({ role: 'assistant', content: '' }),
  ...texts.map((content) => chunk({ content })),
  chunk({}, 'stop'),
];

const call = (id, name, args) => ({ id, type: 'function', function: { name, arguments: args } });

let first, second, gateway, client;

before(async () => {
  [first, second] = [await startUpstream(), await startUpstream()];
  const limits = { first_byte_timeout_ms: 3000, idle_timeout_ms: 3000 };
  gateway = await startGateway({
    providers: {
      first: { base_url: first.baseUrl, credentials: ['plain:first-secret'], ...limits },
      second: { base_url: second.baseUrl, credentials: ['plain:second-secret'], ...limits },
      listed: { base_url: second.baseUrl, models: ['listed-b', 'listed-a/with-a-slash'] },
    },
    default_provider: 'first',
    routes: [
      { match: { model: 'spare-*' }, to: 'first', fallback: ['second:spare-model'] },
      { match: { model: 'listed-*' }, to: 'listed' },
    ],
  });
  client = new OpenAI({ baseURL: gateway.baseURL, apiKey: gateway.apiKey, maxRetries: 0 });
});

after(async () => {
  await gateway?.stop();
  first?.close();
  second?.close();
});

beforeEach(() => {
  first.reset();
  second.reset();
});

afterEach(() => assert.equal(first.reset() + second.reset(), 0, 'nobody asked for some scripted answers'));

const ask = (more = {}, options = {}) => client.chat.completions.create({ model: 'm', messages: HELLO, ...more }, options);

const sent = (one = 0) => JSON.parse(first.asked[one].body);

describe('errors', () => {
  test('a wrong key is an AuthenticationError', async () => {
    await assert.rejects(client.withOptions({ apiKey: 'marg_live_wrong' }).models.list(), (error) => {
      assert.ok(error instanceof OpenAI.AuthenticationError);
      assert.equal(error.status, 401);
      assert.equal(error.code, 'invalid_api_key');
      return true;
    });
    assert.equal(first.asked.length, 0);
  });

  test('a malformed request is a BadRequestError that names the field', async () => {
    await assert.rejects(ask({ model: '' }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.deepEqual([error.code, error.param], ['invalid_request', 'model']);
      return true;
    });
    assert.equal(first.asked.length, 0);
  });

  for (const [status, name] of [
    [400, 'BadRequestError'],
    [401, 'AuthenticationError'],
    [403, 'PermissionDeniedError'],
    [404, 'NotFoundError'],
    [409, 'ConflictError'],
    [422, 'UnprocessableEntityError'],
    [429, 'RateLimitError'],
    [500, 'InternalServerError'],
    [503, 'InternalServerError'],
  ]) {
    test(`a provider's ${status} is a ${name} with its message and code`, async () => {
      first.says(failure(status, 'Exactly this.'));
      await assert.rejects(ask({ model: `fails-${status}` }), (error) => {
        assert.ok(error instanceof OpenAI[name]);
        assert.equal(error.status, status);
        assert.match(error.message, /Exactly this\./);
        assert.equal(error.code, 'their_code');
        assert.match(error.requestID, EXCHANGE);
        return true;
      });
    });
  }

  test('a rate limit says when to come back', async () => {
    first.says(failure(429, 'Slow down.', { 'retry-after': '17' }));
    await assert.rejects(ask({ model: 'rate-limited' }), (error) => error.headers.get('retry-after') === '17');
  });

  test('a provider that does not answer is an InternalServerError with 504', async () => {
    first.says(silence);
    await assert.rejects(ask(), (error) => error instanceof OpenAI.InternalServerError && error.status === 504);
  });

  test("the SDK's own time-out is an APIConnectionTimeoutError", async () => {
    first.says(silence);
    await assert.rejects(ask({}, { timeout: 300 }), OpenAI.APIConnectionTimeoutError);
  });

  test('a stream that breaks off is an APIError after what came', async () => {
    first.says(events(textChunks('Hel', 'lo').slice(0, -1), { cut: true }));
    let text = '';
    await assert.rejects(async () => {
      for await (const part of await ask({ stream: true })) text += part.choices[0].delta.content;
    }, (error) => error instanceof OpenAI.APIError && /broke off/.test(error.message));
    assert.equal(text, 'Hello');
  });

  test('the SDK retries what may be retried', async () => {
    first.says(failure(503, 'No.', { 'retry-after-ms': '1' }), answer(completion({ content: 'At last.' })));
    const answered = await ask({}, { maxRetries: 2 });
    assert.equal(answered.choices[0].message.content, 'At last.');
    assert.equal(first.asked.length, 2);
  });
});

describe('chat', () => {
  test('a request and its answer pass unchanged', async () => {
    const body = { ...completion({ content: 'Grüße, 世界 👋🏽' }), their_own: [1, { a: null }] };
    first.says(answer(body));
    const answered = await ask({ temperature: 0.25, their_own_field: { deep: [1, null] } });
    assert.deepEqual(JSON.parse(JSON.stringify(answered)), body);
    assert.deepEqual(sent(), { model: 'm', messages: HELLO, temperature: 0.25, their_own_field: { deep: [1, null] } });
    assert.equal(first.asked[0].headers.authorization, 'Bearer first-secret');
  });

  test('a route asks the next provider for its own model', async () => {
    first.says(failure(503));
    second.says(answer(completion({ content: 'From the second.' })));
    const { data, response } = await ask({ model: 'spare-1' }).withResponse();
    assert.equal(data.choices[0].message.content, 'From the second.');
    assert.equal(response.headers.get('x-marg-provider'), 'second');
    assert.equal(response.headers.get('x-marg-attempts'), '2');
    assert.equal(JSON.parse(second.asked[0].body).model, 'spare-model');
  });

  test('a stream arrives whole and hides the usage that nobody asked for', async () => {
    first.says(events([...textChunks('Grü', 'ße 👋🏽'), usageChunk]));
    let text = '';
    for await (const part of await ask({ stream: true })) {
      assert.equal(part.choices.length, 1);
      text += part.choices[0].delta.content ?? '';
    }
    assert.equal(text, 'Grüße 👋🏽');
  });

  test('a stream shows the usage that was asked for', async () => {
    first.says(events([...textChunks('Hi'), usageChunk]));
    const parts = [];
    for await (const part of await ask({ stream: true, stream_options: { include_usage: true } })) parts.push(part);
    assert.deepEqual(parts.at(-1).usage, usage);
  });

  test('the stream helper accumulates the answer', async () => {
    first.says(events(textChunks('Hel', 'lo')));
    const runner = client.chat.completions.stream({ model: 'm', messages: HELLO });
    let text = '';
    runner.on('content', (delta) => (text += delta));
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices[0].message.content, 'Hello');
    assert.equal(text, 'Hello');
  });

  test('a stream that the application aborts is cancelled at the provider', async () => {
    const left = new Promise((resolve) => first.says(endless(chunk({ content: 'more ' }), resolve)));
    const stream = await ask({ stream: true });
    for await (const _part of stream) {
      stream.controller.abort();
      break;
    }
    await left;
  });

  test('a call that an AbortSignal ends is an APIUserAbortError', async () => {
    const aborting = new AbortController();
    first.says((_asked, _response) => aborting.abort());
    await assert.rejects(ask({}, { signal: aborting.signal }), OpenAI.APIUserAbortError);
  });

  for (const stream of [false, true]) {
    test(`the tool runner calls parallel tools and goes on, ${stream ? 'streamed' : 'plain'}`, async () => {
      const calls = [call('call_1', 'weather', '{"city":"Bern"}'), call('call_2', 'weather', '{"city":"Zürich"}')];
      const streamed = calls.map((one, index) => chunk({ tool_calls: [{ index, ...one }] }));
      first.says(
        stream
          ? events([chunk({ role: 'assistant', content: null }), ...streamed, chunk({}, 'tool_calls')])
          : answer(completion({ content: null, tool_calls: calls }, 'tool_calls')),
        stream ? events(textChunks('Both ', 'sunny.')) : answer(completion({ content: 'Both sunny.' })),
      );
      const cities = [];
      const runner = client.chat.completions.runTools({
        model: 'm',
        messages: HELLO,
        stream,
        tools: [{
          type: 'function',
          function: {
            name: 'weather',
            description: 'The weather in a city.',
            parameters: { type: 'object', properties: { city: { type: 'string' } } },
            parse: JSON.parse,
            function: ({ city }) => {
              cities.push(city);
              return 'sunny';
            },
          },
        }],
      });
      assert.equal(await runner.finalContent(), 'Both sunny.');
      assert.deepEqual(cities, ['Bern', 'Zürich']);
      assert.deepEqual(sent(1).messages.map((message) => message.role), ['user', 'assistant', 'tool', 'tool']);
    });
  }

  test('a hundred calls at once each get their own answer', async () => {
    const echo = (asked, response) => answer(completion({ content: JSON.parse(asked.body).messages[0].content }))(asked, response);
    first.says(...Array(100).fill(echo));
    const texts = await Promise.all(
      Array.from({ length: 100 }, async (_, number) => {
        const answered = await ask({ messages: [{ role: 'user', content: `number ${number}` }] });
        return answered.choices[0].message.content;
      }),
    );
    assert.deepEqual(texts, Array.from({ length: 100 }, (_, number) => `number ${number}`));
  });

  test('a prompt of five megabytes arrives whole', async () => {
    const content = 'Käse 🧀 '.repeat(500_000);
    first.says(answer(completion({ content: 'Yes.' })));
    await ask({ messages: [{ role: 'user', content }] });
    assert.equal(sent().messages[0].content, content);
  });
});

describe('other endpoints', () => {
  test('a model that nobody serves is a NotFoundError, whatever is in its name', async () => {
    await assert.rejects(client.models.retrieve('listed-c/such model?'), OpenAI.NotFoundError);
  });

  test('models are listed, and one is retrieved by a name with a slash', async () => {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert.deepEqual(names, ['listed-a/with-a-slash', 'listed-b']);
    assert.equal((await client.models.retrieve('listed-a/with-a-slash')).owned_by, 'listed');
  });

  test('embeddings are decoded from base64', async () => {
    const packed = Buffer.from(new Float32Array([0.25, -0.5]).buffer).toString('base64');
    first.says(answer({ object: 'list', model: 'e', data: [{ object: 'embedding', index: 0, embedding: packed }], usage }));
    const answered = await client.embeddings.create({ model: 'e', input: ['one'] });
    assert.deepEqual([...answered.data[0].embedding], [0.25, -0.5]);
    assert.equal(sent().encoding_format, 'base64');
  });

  test('a file is uploaded', async () => {
    first.says(answer({ id: 'file-1', object: 'file', bytes: 3, created_at: 1, filename: 'a.txt', purpose: 'batch' }));
    const file = await client.files.create({ file: await toFile(Buffer.from('abc'), 'a.txt'), purpose: 'batch' });
    assert.equal(file.id, 'file-1');
    assert.match(first.asked[0].headers['content-type'], /^multipart\/form-data; boundary=/);
    assert.ok(first.asked[0].body.includes('abc'));
  });

  test("the raw response has the exchange's id and the provider's own", async () => {
    first.says(answer(completion({ content: 'Hi' }), 200, { 'x-request-id': 'their-id' }));
    const { data, response, request_id: id } = await ask().withResponse();
    assert.match(id, EXCHANGE);
    assert.equal(data._request_id, id);
    assert.equal(response.headers.get('x-marg-upstream-request-id'), 'their-id');
  });
});
