// Starts the real binary in front of scripted providers.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
const BINARY = process.env.MARG_BIN ?? path.join(ROOT, 'target', 'debug', 'marg');
// How long a start or a stop may take on a busy machine.
const PATIENCE_MS = 60_000;

// Neither Marg nor the SDK may find keys, addresses or proxies in the environment: here only what a test gives counts.
for (const name of Object.keys(process.env)) {
  if (/_API_KEY$|_TOKEN$|^MARG_|^OPENAI_|_proxy$/i.test(name)) delete process.env[name];
}

/** A port of loopback on which nothing listens now. */
async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

async function isReady(url) {
  try {
    return (await fetch(`${url}/ready`)).ok;
  } catch {
    return false;
  }
}

/** Runs `marg start` with these providers and routes; gives its URL, an application key and a way to stop it. */
export async function startGateway(config) {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'marg-node-'));
  const file = path.join(folder, 'marg.yaml');
  const url = `http://127.0.0.1:${await freePort()}`;
  const admin = `127.0.0.1:${await freePort()}`;
  const whole = {
    data_dir: path.join(folder, 'data'),
    server: { listen: url.slice('http://'.length) },
    admin: { listen: admin },
    ...config,
  };
  // JSON is YAML.
  await writeFile(file, JSON.stringify(whole, null, 2));
  const made = await promisify(execFile)(
    BINARY, ['keys', 'create', '--config', file, '--name', 'node', '--output', 'json'], { cwd: folder });
  const { token } = JSON.parse(made.stdout);
  const granted = await promisify(execFile)(
    BINARY, ['admin', 'token', 'create', '--config', file, '--label', 'node', '--role', 'admin', '--output', 'json'],
    { cwd: folder });
  const adminToken = JSON.parse(granted.stdout).token;

  const logPath = path.join(folder, 'marg.log');
  const log = await open(logPath, 'w');
  const child = spawn(BINARY, ['start', '--config', file], { cwd: folder, stdio: ['ignore', log.fd, log.fd] });
  const ended = once(child, 'exit');
  const tail = async () => (await readFile(logPath, 'utf8')).slice(-4000);
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await isReady(url))) {
    if (child.exitCode !== null || Date.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`marg did not start:\n${await tail()}`);
    }
    await pause(20);
  }
  return {
    url,
    baseURL: `${url}/v1`,
    apiKey: token,
    /** Asks the admin API and reads its JSON. */
    admin: async (path) => {
      const response = await fetch(`http://${admin}${path}`, { headers: { authorization: `Bearer ${adminToken}` } });
      if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
      return response.json();
    },
    stop: async () => {
      child.kill('SIGTERM');
      const forced = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS);
      const [code] = await ended;
      clearTimeout(forced);
      await log.close();
      if (code !== 0) throw new Error(`marg ended with ${code}:\n${await tail()}`);
      await rm(folder, { recursive: true });
    },
  };
}
