"""The page on permits: its Python verifier says yes to what a provider and a caller get, and no to everything else."""

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import jwt
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

from gateway import ROOT, Gateway
from upstream import Upstream, answer, events

HEADER = "x-marg-permit"
HELLO = [{"role": "user", "content": "Hello"}]
GOLDEN = ROOT / "tests/permit"
POLICY = '// begin\n@id("all") permit(principal, action, resource);\n// end\n'


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def verify():
    """The function of the page."""
    page = (ROOT / "docs/permits.md").read_text()
    space = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S).group(1), space)
    return space["verify"]


class Kept:
    """Keys of a file, in the place of `jwt.PyJWKClient`."""

    def __init__(self, document):
        self.keys = jwt.PyJWKSet.from_dict(document)

    def get_signing_key(self, kid):
        try:
            return self.keys[kid]
        except KeyError as error:
            raise jwt.InvalidTokenError("unknown key") from error


def completion():
    message = {"role": "assistant", "content": "Hi"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def chunk():
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


@pytest.fixture(scope="module", params=["ed25519", "both"])
def permitted(request, tmp_path_factory):
    """A gateway that gives permits to both sides, and its provider."""
    folder = tmp_path_factory.mktemp("permits")
    (folder / "policy.cedar").write_text(POLICY)
    upstream = Upstream()
    permits = {"send_to": "both", "audience": "https://inference.internal", "caller_audience": "billing"}
    if request.param == "both":
        permits["algorithms"] = ["ed25519", "ml-dsa-65"]
    config = {
        "providers": {"first": {"base_url": upstream.base_url}},
        "routes": [{"to": "first:real-model"}],
        "kavach": {"mode": "enforce", "policy": str(folder / "policy.cedar"), "permits": permits},
    }
    gateway = Gateway.configured(folder, config)
    yield gateway, upstream
    gateway.stop()
    upstream.close()


def classic(value):
    """The compact JWS of a header's value: all of it, or the part that is signed with Ed25519."""
    if not value.startswith("{"):
        return value
    whole = json.loads(value)
    (part,) = [part for part in whole["signatures"] if json.loads(decode(part["protected"]))["alg"] == "EdDSA"]
    return f"{part['protected']}.{whole['payload']}.{part['signature']}"


def check_quantum(value, keys):
    """Verifies the other part by FIPS 204 and RFC 9964 alone."""
    whole = json.loads(value)
    (part,) = [part for part in whole["signatures"] if json.loads(decode(part["protected"]))["alg"] == "ML-DSA-65"]
    head = json.loads(decode(part["protected"]))
    (key,) = [key for key in keys if key["kid"] == head["kid"]]
    assert (key["kty"], key["alg"], key["use"]) == ("AKP", "ML-DSA-65", "sig")
    thumbprint = json.dumps({name: key[name] for name in ("alg", "kty", "pub")}, separators=(",", ":"))
    assert key["kid"] == encode(hashlib.sha256(thumbprint.encode()).digest())
    signed = f"{part['protected']}.{whole['payload']}".encode()
    MLDSA65PublicKey.from_public_bytes(decode(key["pub"])).verify(decode(part["signature"]), signed)


@pytest.mark.parametrize("stream", [False, True])
def test_what_both_sides_get_verifies_with_the_keys_that_the_gateway_publishes(permitted, verify, stream):
    gateway, upstream = permitted
    upstream.reset()
    upstream.says(events(chunk()) if stream else answer(completion()))
    with openai.OpenAI(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO, stream=stream)
        given = raw.headers[HEADER]
        if stream:
            list(raw.parse())
    (asked,) = upstream.asked
    address = f"{gateway.url}/.well-known/jwks.json"
    with urllib.request.urlopen(address, timeout=20) as response:
        published = json.loads(response.read())["keys"]
    keys = jwt.PyJWKClient(address)
    for value, audience in [(asked.headers[HEADER], "https://inference.internal"), (given, "billing")]:
        said = verify(classic(value), keys, audience, asked.body)
        assert said["exchange"] == raw.headers["x-marg-exchange"]
        assert (said["provider"], said["model"], said["action"]) == ("first", "real-model", "chat")
        assert said["exp"] - said["iat"] == 300 and abs(said["iat"] - time.time()) < 60
        if value.startswith("{"):
            check_quantum(value, published)
        with pytest.raises(jwt.InvalidAudienceError):
            verify(classic(value), keys, "somebody-else", asked.body)
        with pytest.raises(jwt.InvalidTokenError, match="another body"):
            verify(classic(value), keys, audience, asked.body + b" ")


def test_the_golden_permits_verify_and_none_of_the_tricks_does(verify):
    document = json.loads((GOLDEN / "jwks.json").read_text())
    token = (GOLDEN / "token.txt").read_text().strip()
    check_quantum((GOLDEN / "token-both.json").read_text(), document["keys"])
    keys = Kept(document)
    head, claims, signature = token.split(".")

    def refused(text, why=jwt.InvalidTokenError):
        with pytest.raises(why):
            verify(text, keys, "openai", b'{"model":"gpt-4.1-mini"}')

    # It is of the year 2027, so that a good one is only known by what it is refused for.
    refused(token, jwt.ImmatureSignatureError if time.time() < 1_800_000_000 - 60 else jwt.ExpiredSignatureError)
    other = encode(decode(claims).replace(b"key_01", b"key_02"))
    refused(f"{head}.{other}.{signature}", jwt.InvalidSignatureError)

    def headed(**more):
        return encode(json.dumps({**json.loads(decode(head)), **more}).encode())

    refused(f"{headed(alg='none')}.{claims}.")
    public = decode(document["keys"][0]["x"])
    confused = headed(alg="HS256")
    mac = hmac.digest(public, f"{confused}.{claims}".encode(), "sha256")
    refused(f"{confused}.{claims}.{encode(mac)}", jwt.InvalidAlgorithmError)
    refused(f"{headed(typ='JWT')}.{claims}.{signature}")
    refused(f"{headed(jku='https://evil.example')}.{claims}.{signature}")
    refused(f"{headed(kid='other')}.{claims}.{signature}")
    refused(token + "A" * 4096)


GO_MAIN = """
func main() {
	var asked struct {
		URL   string
		Cases []struct {
			Token, Audience string
			Body            []byte
			Later           int64
		}
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	keys, err := Keys(asked.URL)
	if err != nil {
		panic(err)
	}
	for _, one := range asked.Cases {
		claims, err := Verify(one.Token, keys, one.Audience, one.Body, time.Now().Add(time.Duration(one.Later)*time.Second))
		if err != nil {
			fmt.Println("no:", err)
			continue
		}
		text, _ := json.Marshal(claims)
		fmt.Println("yes:", string(text))
	}
}
"""


@pytest.fixture(scope="module")
def go_verifier(tmp_path_factory):
    """A program around the functions of the page; where there is no Go, nobody needs it for anything else."""
    if shutil.which("go") is None:
        pytest.skip("there is no Go here")
    folder = tmp_path_factory.mktemp("go")
    page = (ROOT / "docs/permits.md").read_text()
    code = re.search(r"```go\n(.*?)```", page, re.S).group(1)
    assert not re.search(r'^\t"[^"]*\.', code, re.M), "it imports more than the standard library"
    code = code.replace('\t"net/http"\n', '\t"net/http"\n\t"os"\n', 1)
    (folder / "main.go").write_text(f"package main\n\n{code}{GO_MAIN}")
    environment = {**os.environ, "GOFLAGS": "", "GO111MODULE": "off", "GOTOOLCHAIN": "local", "GOPROXY": "off"}
    for line in (["go", "vet", "main.go"], ["go", "build", "-o", "verifier", "main.go"]):
        subprocess.run(line, cwd=folder, env=environment, check=True, timeout=300)
    formatted = subprocess.run(["gofmt", "-l", "main.go"], cwd=folder, env=environment, capture_output=True, text=True)
    assert formatted.stdout == ""

    def verify(url, cases):
        asked = json.dumps({"url": url, "cases": cases})
        done = subprocess.run([folder / "verifier"], input=asked, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [line.split(": ", 1) for line in done.stdout.splitlines()]

    return verify


def test_the_go_verifier_says_yes_to_a_permit_and_no_to_every_trick(permitted, go_verifier):
    gateway, upstream = permitted
    upstream.reset()
    upstream.says(answer(completion()))
    with openai.OpenAI(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
        client.chat.completions.create(model="m", messages=HELLO)
    (asked,) = upstream.asked
    address = f"{gateway.url}/.well-known/jwks.json"
    with urllib.request.urlopen(address, timeout=20) as response:
        (public,) = [decode(key["x"]) for key in json.loads(response.read())["keys"] if key["alg"] == "EdDSA"]
    token = classic(asked.headers[HEADER])
    head, claims, signature = token.split(".")

    def headed(**more):
        return encode(json.dumps({**json.loads(decode(head)), **more}).encode())

    confused = headed(alg="HS256")
    mac = hmac.digest(public, f"{confused}.{claims}".encode(), "sha256")
    observing = encode(decode(claims).replace(b"enforce", b"observe"))
    for_all = {"audience": "https://inference.internal", "body": base64.b64encode(asked.body).decode()}
    tricks = [
        ({"audience": "somebody-else"}, "somebody else"),
        ({"body": base64.b64encode(asked.body + b" ").decode()}, "another body"),
        ({"later": 361}, "good from"),
        ({"later": -120}, "good from"),
        ({"token": f"{head}.{observing}.{signature}"}, "not signed"),
        ({"token": f"{headed(alg='none')}.{claims}."}, "not signed"),
        ({"token": f"{confused}.{claims}.{encode(mac)}"}, "not signed"),
        ({"token": f"{headed(typ='JWT')}.{claims}.{signature}"}, "not signed"),
        ({"token": f"{headed(kid='other')}.{claims}.{signature}"}, "not signed"),
        ({"token": f"{headed(jku='https://evil.example')}.{claims}.{signature}"}, "not signed"),
        ({"token": f"{head}.{claims}.{signature[:-2]}"}, "not signed"),
        ({"token": f"{head}.{claims}.{signature[:8]}\n{signature[8:]}"}, "not a compact"),
        ({"token": token + "A" * 4096}, "not a compact"),
        ({"token": "..", "audience": ""}, "not a compact"),
        ({"token": asked.headers[HEADER] if asked.headers[HEADER].startswith("{") else "{}"}, "not a compact"),
    ]
    cases = [{"token": token, **for_all}] + [{"token": token, **for_all, **trick} for trick, _ in tricks]
    first, *others = go_verifier(address, cases)
    assert first[0] == "yes", first
    said = json.loads(first[1])
    assert (said["Provider"], said["Model"], said["Action"], said["Gate"]) == ("first", "real-model", "chat", "enforce")
    assert len(others) == len(tricks)
    for (verdict, why), (trick, expected) in zip(others, tricks):
        assert verdict == "no" and expected in why, (trick, why)
