"""The admin API does what its OpenAPI document says: schemathesis reads the document and tries to prove otherwise.

Every check that schemathesis has is on but the one that sends a wrong token to every operation: there are more operations than an
address may send wrong tokens in a minute, so each is asked without a token instead. `schemathesis.toml` says with what bounds, and which operations are left out and why.
"""

import json
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from gateway import Gateway, environment
from upstream import Upstream, answer
from wire import completion

SETTINGS = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module")
def upstream():
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def gateway(upstream, tmp_path_factory):
    """A throw-away instance with a key, routes and a few records, so that lists are not empty."""
    gateway = Gateway.configured(
        tmp_path_factory.mktemp("openapi"),
        {
            "providers": {"first": {"base_url": upstream.base_url, "credentials": ["plain:first-secret"]}},
            "default_provider": "first",
            "routes": [{"name": "fixed", "match": {"model": "gpt-*"}, "to": "first"}],
        },
    )
    upstream.says(*[answer(completion()) for _ in range(3)])
    for number in range(3):
        ask(gateway, f"model-{number}")
    gateway.wait_for_record(lambda record: record["model_requested"] == "model-2")
    yield gateway
    gateway.stop()


def ask(gateway, model):
    """One chat completion, so that there is something in the request log."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    headers = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{gateway.base_url}/chat/completions", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.loads(response.read())


def test_every_operation_with_settings_of_its_own_exists(gateway):
    document = gateway.admin("GET", "/admin/openapi.json")
    known = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    for operation in tomllib.loads(SETTINGS.read_text())["operations"]:
        names = operation["include-operation-id"]
        assert {names} <= known if isinstance(names, str) else set(names) <= known


def test_the_live_api_does_what_its_document_says(gateway, tmp_path):
    document = f"{gateway.admin_url}/admin/openapi.json"
    tool = [sys.executable, "-m", "schemathesis.cli", "--config-file", SETTINGS]
    done = subprocess.run(
        [*tool, "run", document, "--checks", "all", "--exclude-checks", "ignored_auth", "--no-color"],
        cwd=tmp_path,
        env=environment({"MARG_ADMIN_TOKEN": gateway.admin_token}),
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    # The run must have been let in; else it would only have proved that strangers are kept out.
    assert gateway.admin("GET", "/admin/keys")["keys"]


def test_no_operation_lets_in_a_stranger(gateway):
    document = gateway.admin("GET", "/admin/openapi.json")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if not operation.get("security"):
                continue
            url = f"{gateway.admin_url}{path.replace('{', '').replace('}', '')}"
            request = urllib.request.Request(url, method=method.upper())
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=20)
            assert refused.value.code == 401, operation["operationId"]


def test_live_events_arrive(gateway, upstream):
    request = urllib.request.Request(f"{gateway.admin_url}/admin/requests/tail")
    request.add_header("authorization", f"Bearer {gateway.admin_token}")
    with urllib.request.urlopen(request, timeout=20) as tail:
        assert tail.headers["content-type"].startswith("text/event-stream")
        upstream.says(answer(completion()))
        ask(gateway, "seen-live")
        for line in tail:
            if line.startswith(b"data:") and json.loads(line[5:]).get("model_requested") == "seen-live":
                return
    raise AssertionError("the stream ended without the record")


def test_a_revoked_admin_token_is_refused(gateway):
    made = gateway.admin("POST", "/admin/tokens", {"label": "short-lived", "role": "read-only"})

    def status_code():
        request = urllib.request.Request(f"{gateway.admin_url}/admin/status")
        request.add_header("authorization", f"Bearer {made['token']}")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    assert status_code() == 200
    gateway.admin("POST", f"/admin/tokens/{made['admin_token']['id']}/revoke")
    assert status_code() == 401
