"""The page on verifying without Marg: its script says yes to a receipt, of a kept log and of the running gateway, and no to every
changed one."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gateway import Gateway
from upstream import Upstream, answer
from wire import completion

ROOT = Path(__file__).resolve().parents[3]
RECEIPT = ROOT / "tests/golden/audit/receipt.json"
POLICY = ROOT / "tests/golden/audit/policy.txt"


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
