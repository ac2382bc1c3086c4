// The verifier for Node on docs/permits.md, held against what a provider and a caller get from the real gateway.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { startGateway } from './support/gateway.mjs';
import { answer, startUpstream } from './support/upstream.mjs';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const completion = { id: '1', object: 'chat.completion', created: 1, model: 'm', choices: [] };

let folder, upstream, gateway, permits;

before(async () => {
  // Beside the packages, so that the script of the page finds jose.
  folder = await mkdtemp(path.join(HERE, 'node_modules', '.permit-'));
  const page = await readFile(path.join(HERE, '../../../docs/permits.md'), 'utf8');
  const script = path.join(folder, 'permit.mjs');
  await writeFile(script, page.match(/```js\n(.*?)```/s)[1]);
  ({ permits } = await import(pathToFileURL(script)));
  const policy = path.join(folder, 'policy.cedar');
  await writeFile(policy, '// begin\n@id("all") permit(principal, action, resource);\n// end\n');
  upstream = await startUpstream();
  gateway = await startGateway({
    providers: { first: { base_url: upstream.baseUrl } },
    default_provider: 'first',
    kavach: { mode: 'enforce', policy, permits: { send_to: 'both' } },
  });
});

after(async () => {
  await gateway?.stop();
  upstream?.close();
  if (folder) await rm(folder, { recursive: true });
});

beforeEach(() => upstream.reset());

async function call() {
  upstream.says(answer(completion));
  const response = await fetch(`${gateway.baseURL}/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${gateway.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'Hello' }] }),
  });
  assert.equal(response.status, 200, await response.text());
  const [asked] = upstream.asked;
  return { asked, token: asked.headers['x-marg-permit'], given: response.headers.get('x-marg-permit') };
}

test('what is changed, for somebody else, or not signed is refused', async () => {
  const { asked, token, given } = await call();
  const verify = permits(gateway.url, 'first');
  const [head, claims, signature] = token.split('.');
  const none = Buffer.from(JSON.stringify({ alg: 'none', typ: 'marg-permit+jwt' })).toString('base64url');
  const changed = Buffer.from(Buffer.from(claims, 'base64url').toString().replace('"model":"m"', '"model":"n"')).toString('base64url');
  for (const wrong of [`${none}.${claims}.`, `${head}.${changed}.${signature}`, given, `${token}${'A'.repeat(4096)}`, 'a.b.c']) {
    await assert.rejects(verify(wrong, asked.body));
  }
  await assert.rejects(verify(token, `${asked.body} `), /another body/);
  await assert.rejects(permits(gateway.url, 'second')(token, asked.body), /aud/);
});

test('what both sides get verifies with the keys that the gateway publishes', async () => {
  const { asked, token, given } = await call();
  const said = await permits(gateway.url, 'first')(token, asked.body);
  assert.deepEqual([said.provider, said.model, said.action, said.gate], ['first', 'm', 'chat', 'enforce']);
  const told = await permits(gateway.url, 'caller')(given, asked.body);
  assert.deepEqual([told.exchange, told.jti], [said.exchange, `${said.jti}-caller`]);
});
