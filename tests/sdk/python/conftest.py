"""One gateway in front of two scripted providers, one with the simulated provider, and clients for them."""

import os

import openai
import pytest

from gateway import Gateway
from upstream import Upstream

# An SDK reads its key and base URL from the environment too; here only what a test gives counts. Nor is loopback proxied.
for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
    del os.environ[name]


@pytest.fixture(scope="session")
def providers():
    """The scripted providers `first` and `second`."""
    both = Upstream(), Upstream()
    yield both
    for one in both:
        one.close()


@pytest.fixture(scope="session")
def scripted_gateway(providers, tmp_path_factory):
    first, second = providers
    limits = {"connect_timeout_ms": 2000, "first_byte_timeout_ms": 3000, "idle_timeout_ms": 3000}
    gateway = Gateway.configured(
        tmp_path_factory.mktemp("scripted"),
        {
            "providers": {
                "first": {"base_url": first.base_url, "credentials": ["plain:first-secret"], **limits},
                "second": {"base_url": second.base_url, "credentials": ["plain:second-secret"], **limits},
                "gone": {"base_url": "http://127.0.0.1:9/v1", **limits},
                "listed": {"base_url": second.base_url, "models": ["listed-a", "listed-b"]},
            },
            "default_provider": "first",
            "routes": [
                {"match": {"model": "spare-*"}, "to": "first", "fallback": ["second:spare-model"]},
                {"match": {"model": "gone"}, "to": "gone"},
                {"match": {"model": "listed-*"}, "to": "listed"},
            ],
        },
    )
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway(scripted_gateway, providers):
    """The gateway with fresh scripts; a test that leaves an answer unasked for has not done what it says."""
    for one in providers:
        one.reset()
    yield scripted_gateway
    left = [reply for one in providers for reply in one.reset()]
    assert not left, f"nobody asked for {left}"


@pytest.fixture
def upstream(gateway, providers):
    return providers[0]


@pytest.fixture
def second_upstream(gateway, providers):
    return providers[1]


@pytest.fixture
def client(gateway):
    with openai.OpenAI(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(gateway):
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """`marg demo`, as a user first meets it."""
    gateway = Gateway.demo(tmp_path_factory.mktemp("demo"))
    yield gateway
    gateway.stop()


@pytest.fixture
def sim(demo):
    with openai.OpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_sim(demo):
    async with openai.AsyncOpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0) as client:
        yield client
