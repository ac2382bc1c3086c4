"""The page on verifying without Marg: its script says yes to a receipt, of a kept log and of the running gateway, and no to every
changed one. And what a gateway really writes keeps to the published schemas."""

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import jsonschema_rs
import pytest
from blake3 import blake3

from gateway import BINARY, Gateway
from upstream import Upstream, answer
from wire import completion

ROOT = Path(__file__).resolve().parents[3]
RECEIPT = ROOT / "tests/golden/audit/receipt.json"
POLICY = ROOT / "tests/golden/audit/policy.txt"
SCHEMAS = {
    path.name.split(".")[0]: jsonschema_rs.validator_for(json.loads(path.read_text()))
    for path in (ROOT / "docs/schemas/audit").glob("*.v1.json")
}


def verify(tmp_path, text, policy=POLICY):
    page = (ROOT / "docs/verify-audit.md").read_text()
    script = tmp_path / "verify.py"
    script.write_text(re.search(r"```python\n(.*?)```", page, re.S).group(1))
    receipt = tmp_path / "receipt.json"
    receipt.write_text(text)
    return subprocess.run([sys.executable, script, receipt, policy], capture_output=True, text=True, timeout=60)


def test_a_receipt_verifies_with_standard_tools(tmp_path):
    done = verify(tmp_path, RECEIPT.read_text())
    assert done.returncode == 0, done.stderr
    assert "entry 123 of marg.example/node-1 is proved" in done.stdout


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [("entry", "openai", "0penai"), ("proof", "index 123", "index 122"), ("proof", "\n300\n", "\n301\n")],
)
def test_a_changed_receipt_does_not(tmp_path, field, old, new):
    receipt = json.loads(RECEIPT.read_text())
    assert old in receipt[field]
    receipt[field] = receipt[field].replace(old, new, 1)
    assert verify(tmp_path, json.dumps(receipt)).returncode != 0


def test_a_receipt_with_one_signature_does_not(tmp_path):
    receipt = json.loads(RECEIPT.read_text())
    receipt["proof"] = receipt["proof"].rsplit("\n", 2)[0] + "\n"
    done = verify(tmp_path, json.dumps(receipt))
    assert done.returncode != 0 and "only" in done.stderr


def test_a_commitment_is_made_again_with_standard_tools():
    receipt = json.loads(RECEIPT.read_text())
    entry, salt = json.loads(receipt["entry"]), base64.b64decode(receipt["salt"])
    assert base64.b64encode(blake3(b"prompt", key=salt).digest()).decode() == entry["prompt"]
    assert base64.b64encode(blake3(b"answer", key=salt).digest()).decode() == entry["answer"]
    assert base64.b64encode(blake3(b"prompt", key=bytes(32)).digest()).decode() != entry["prompt"]


def test_every_entry_that_is_written_keeps_to_its_published_schema(tmp_path):
    upstream = Upstream()
    config = {
        "providers": {"one": {"base_url": upstream.base_url, "credentials": ["plain:x"]}},
        "default_provider": "one",
        "audit": {"retention_days": 1},
    }
    gateway = Gateway.configured(tmp_path, config)
    try:
        entries = drive(gateway, upstream, config)
    finally:
        upstream.close()
    seen = {name: 0 for name in SCHEMAS}
    for entry in entries:
        entry.pop("index")
        name = {"refusal": "exchange"}.get(entry["kind"], entry["kind"])
        name = name if name in SCHEMAS else "event"
        faults = [error.message for error in SCHEMAS[name].iter_errors(entry)]
        assert not faults, f"{entry}: {faults}"
        seen[name] += 1
    assert all(seen.values()), seen
    kinds = {entry["kind"] for entry in entries}
    assert kinds >= {
        "key", "limit", "route", "provider", "price", "policy", "config", "admin_token", "session", "start", "stop", "mode",
        "org", "team", "user", "erasure", "exchange", "refusal", "amendment", "rotation", "gap",
    }, sorted(kinds)
    for entry in entries:
        if entry["kind"] not in ("exchange", "refusal", "amendment", "rotation", "gap"):
            assert entry["actor"]["kind"] in ("admin_token", "command_line", "configuration", "system"), entry


def drive(gateway, upstream, config):
    """Does one of everything, stops the gateway and gives what its log says."""
    admin, headers = gateway.admin, {"authorization": f"Bearer {gateway.key}", "x-marg-session": "s-1"}
    upstream.says(answer(completion("Hello")), answer(completion("Hello", usage=None)))
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    for _ in range(2):
        exchange = call(gateway, headers, body)
    for wrong in ({"authorization": "Bearer wrong"}, headers):
        assert call(gateway, wrong, None) is None
    key = admin("POST", "/admin/keys", {"name": "k"})["key"]["id"]
    admin("POST", f"/admin/keys/{key}/disable")
    for noun in ("orgs", "teams", "users"):
        admin("POST", f"/admin/{noun}", {"name": "x"})
    limit = {"scope": "team", "subject": "x", "unit": "requests", "window": "day", "amount": 5}
    admin("DELETE", f"/admin/limits/{admin('POST', '/admin/limits', limit)['id']}")
    admin("POST", "/admin/routes", {"route": {"to": "one"}})
    row = {"provider": "one", "model": "m", "usd_per_million_tokens": {"input": 1, "output": 1}}
    admin("PUT", "/admin/prices", {"prices": [row]})
    admin("POST", "/admin/tokens", {"label": "l", "role": "auditor"})
    with pytest.raises(AssertionError):
        admin("POST", "/admin/sessions/end", {"key_id": key, "id": "none"})
    # The receipt waits until the entry is there.
    admin("GET", f"/admin/audit/receipts/{exchange}")
    admin("POST", "/admin/audit/erase", {"exchange": exchange})
    policy = gateway.folder / "p.cedar"
    policy.write_text('@id("all") permit(principal, action, resource);\n')
    changed = {
        **config, "audit": {"mode": "enforce"}, "kavach": {"mode": "observe", "policy": str(policy)},
        "providers": {**config["providers"], "two": {"base_url": upstream.base_url}},
    }
    written = json.loads((gateway.folder / "marg.yaml").read_text())
    (gateway.folder / "marg.yaml").write_text(json.dumps({**written, **changed}))
    report = admin("POST", "/admin/reload")
    assert report["applied"], report
    gateway.stop()
    log = ["audit", "key", "rotate", "--file", "data/audit.key"]
    subprocess.run([BINARY, *log], cwd=gateway.folder, check=True, capture_output=True, timeout=60)
    (gateway.folder / "data/journal").mkdir(exist_ok=True)
    (gateway.folder / "data/journal/0000000000000001-00000007-00000000.journal").write_text("\nhalf a line\n")
    gateway.start_again()
    gateway.stop()
    done = subprocess.run([BINARY, "audit", "export"], cwd=gateway.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def call(gateway, headers, body):
    """Asks for a completion; the id of the exchange if it was answered."""
    data = b"{" if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{gateway.base_url}/chat/completions", data, method="POST")
    for name, value in {**headers, "content-type": "application/json"}.items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            response.read()
            return response.headers["x-marg-exchange"]
    except urllib.error.HTTPError:
        return None
def test_a_receipt_of_the_running_gateway_verifies(tmp_path):
    upstream = Upstream()
    gateway = Gateway.configured(
        tmp_path,
        {
            "providers": {"first": {"base_url": upstream.base_url, "credentials": ["plain:first-secret"]}},
            "default_provider": "first",
        },
    )
    try:
        upstream.says(answer(completion()))
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}).encode()
        headers = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
        request = urllib.request.Request(f"{gateway.base_url}/chat/completions", data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            identity = response.headers["x-marg-receipt"]
            response.read()
        receipt = gateway.admin("GET", f"/admin/audit/receipts/{identity}")
        policy = tmp_path / "log.policy"
        policy.write_text(gateway.admin("GET", "/admin/audit")["policy"])
    finally:
        gateway.stop()
        upstream.close()
    done = verify(tmp_path, json.dumps(receipt), policy)
    assert done.returncode == 0, done.stderr
    assert identity in done.stdout
    receipt["entry"] = receipt["entry"].replace('"status":200', '"status":201')
    assert verify(tmp_path, json.dumps(receipt), policy).returncode != 0
