"""The models that a key can reach."""

import openai
import pytest


def test_a_model_that_nobody_serves_is_not_found(client, second_upstream):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("listed-c/with a slash")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="listed-c", messages=[{"role": "user", "content": "Hello"}])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert second_upstream.asked == []


def test_the_models_of_providers_and_routes_are_listed(client):
    models = client.models.list().data
    assert [model.id for model in models] == ["gone", "listed-a", "listed-b"]
    assert client.models.retrieve("listed-a").owned_by == "listed"


def test_simulated_models_are_listed_and_each_can_be_retrieved(sim):
    models = sim.models.list().data
    names = [model.id for model in models]
    assert names == sorted(set(names))
    assert {"sim-small", "sim-large", "sim-reasoner", "sim-fast"} <= set(names)
    one = sim.models.retrieve("sim-small")
    assert (one.id, one.object, one.owned_by) == ("sim-small", "model", "simulated")


def test_a_key_sees_only_its_own_models(gateway, client):
    key = gateway.admin("POST", "/admin/keys", {"name": "nothing", "models": ["no-such-model"]})["token"]
    narrow = client.with_options(api_key=key)
    assert narrow.models.list().data == []
    with pytest.raises(openai.NotFoundError):
        narrow.models.retrieve("gone")


async def test_the_async_client_lists_models(async_sim):
    assert "sim-small" in [model.id async for model in async_sim.models.list()]
