// A receipt of the running gateway, verified by libraries of another language that share no code with Marg: the script of
// docs/verify-audit.md, as it stands there.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { startGateway } from './support/gateway.mjs';
import { answer, startUpstream } from './support/upstream.mjs';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const PAGE = readFileSync(path.join(HERE, '../../../docs/verify-audit.md'), 'utf8');

let upstream, gateway, folder, receipt, policy;

before(async () => {
  upstream = await startUpstream();
  gateway = await startGateway({
    providers: { first: { base_url: upstream.baseUrl, credentials: ['plain:first-secret'] } },
    default_provider: 'first',
  });
  folder = mkdtempSync(path.join(os.tmpdir(), 'marg-verify-'));
  writeFileSync(path.join(folder, 'verify.mjs'), PAGE.match(/```javascript\n(.*?)```/s)[1]);
  symlinkSync(path.join(HERE, 'node_modules'), path.join(folder, 'node_modules'));
  upstream.says(answer({ id: 'c', object: 'chat.completion', created: 1, model: 'm', choices: [] }));
  const response = await fetch(`${gateway.baseURL}/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${gateway.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'Hello' }] }),
  });
  assert.equal(response.status, 200);
  await response.text();
  const id = response.headers.get('x-marg-receipt');
  receipt = await gateway.admin(`/admin/audit/receipts/${id}`);
  assert.equal(JSON.parse(receipt.entry).id, id);
  ({ policy } = await gateway.admin('/admin/audit'));
});

after(async () => {
  await gateway?.stop();
  upstream?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** What the script of the page prints about a receipt; it throws when the script fails. */
function verify(changed) {
  writeFileSync(path.join(folder, 'receipt.json'), JSON.stringify(changed));
  writeFileSync(path.join(folder, 'log.policy'), policy);
  const options = { cwd: folder, encoding: 'utf8', stdio: 'pipe' };
  return execFileSync(process.execPath, ['verify.mjs', 'receipt.json', 'log.policy'], options);
}

describe('a receipt of the running gateway', () => {
  for (const [name, change] of [
    ['another status', (one) => ({ ...one, entry: one.entry.replace('"status":200', '"status":201') })],
    ['another place', (one) => ({ ...one, proof: one.proof.replace(/index (\d+)/, (_, at) => `index ${Number(at) + 1}`) })],
    ['one signature less', (one) => ({ ...one, proof: `${one.proof.trimEnd().split('\n').slice(0, -1).join('\n')}\n` })],
    ['another origin', (one) => ({ ...one, proof: one.proof.replace('\nmarg/', '\nmarg-/') })],
  ]) {
    test(`with ${name} does not verify`, () => {
      assert.notDeepEqual(change(receipt), receipt);
      assert.throws(() => verify(change(receipt)));
    });
  }

  test('verifies with @noble/curves and @noble/post-quantum', () => {
    assert.match(verify(receipt), /is proved under size \d+ by Ed25519 and ML-DSA-65/);
  });
});
