"""Guidance by name in the launcher: the samples are those of the library's call, and sweeping compiles nothing anew."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launcher import compiled, programs  # noqa: F401
from test_config import TOY

from diffax import build, cfg_pp, ddim, denoiser, init_noise
from diffax.config import complete
from diffax.loop import checks, modes, sampling

LABELS = np.arange(8, dtype=np.int32)


class Told:
    """A network of no parameters, told a class."""

    def apply(self, variables, x_in, c_noise, cond):
        return jnp.sin(2.0 * x_in + cond["label"][:, None]) + 0.5 * x_in


def constant(cond, uncond, scale, *, sigmas, bend: float = 0.0, how: str = "up", times: int = 2):
    """A user's own, with options that are not traced; all samples are the number that it makes of them."""
    number = scale + bend + {"up": 1, "down": -1}[how] * times + sigmas[0]
    return lambda x, sigma: jnp.broadcast_to(number, x.shape)


def single(cond, scale):
    """Not of the form of guidance."""


OWN = "test_guidance_runs:constant"
NAMED = {
    "cfg": dict(scale=3.0, sigma_lo=0.01, sigma_hi=5.0, rescale=0.7),
    "apg": dict(scale=3.0, eta=0.5, norm_threshold=0.9),
    "cfg_pp": dict(scale=0.6),
    OWN: dict(scale=3.0, bend=-0.5, how="down", times=3),
}


def experiment(**guidance):
    # ddim is what cfg_pp is for; the other draws no noise, and compiles sooner
    sampler = dict(name="ddim" if guidance.get("name") == "cfg_pp" else "dpmpp_2m")
    sample = dict(sampler=sampler, grid=dict(name="karras", n=5, lo=0.05, hi=20.0), guidance=guidance)
    built = build.experiment(complete(dict(TOY, loss=dict(conditional=True), sample=sample)))
    return built._replace(network=Told())


@pytest.fixture(scope="module", autouse=True)
def quickly(programs):  # noqa: F811
    """Sampling is compiled once a name, and what it is held against once."""


@cache
def generator(name):
    """(the complete section of a name, a function of it, or of one with other floats, to samples)."""
    built = experiment(name=name, **NAMED[name])
    generate = sampling.generator(built, 0)
    return built.config["sample"]["guidance"], lambda section: generate({}, 0, {"label": LABELS}, 8, 8, section)[0]


@pytest.mark.slow
def test_cfg_pp_draws_what_the_library_does():
    section, draw = generator("cfg_pp")
    built = experiment()
    told, untold = {"label": LABELS}, {"label": np.full(8, built.nulls["label"])}

    @jax.jit
    def by_hand(sigmas, told, untold):
        keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(jax.random.key(0), i)))(jnp.arange(8))
        x = init_noise(keys[:, 0], (2,), sigmas[0])
        networks = (partial(Told().apply, {}, cond=cond) for cond in (told, untold))
        cond, uncond = (denoiser(network, built.process, built.prediction) for network in networks)
        return ddim(cfg_pp(cond, uncond, 0.6, sigmas), x, sigmas, keys[:, 1])

    np.testing.assert_allclose(draw(section), by_hand(built.sigmas, told, untold), rtol=1e-4, atol=1e-4)


def test_a_function_of_ones_own_has_its_options_and_the_grid():
    section, draw = generator(OWN)
    np.testing.assert_allclose(draw(section), np.full((8, 2), 3.0 - 0.5 - 3 + 20.0), rtol=1e-6)


def test_apg_of_all_parts_draws_what_cfg_does():
    (of_apg, apg), (of_cfg, cfg) = generator("apg"), generator("cfg")
    found = apg({**of_apg, "eta": 1.0, "norm_threshold": float("inf")})
    plain = cfg({**of_cfg, "sigma_lo": 0.0, "sigma_hi": float("inf"), "rescale": 0.0})
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4)
    assert np.abs(found - apg(of_apg)).max() > 1e-2


def test_a_run_begun_before_guidance_had_a_name_draws_the_same_bits():
    draw = generator("cfg")[1]
    for scale, lo, hi in ((3.0, 0.0, float("inf")), (1.0, 0.0, float("inf")), (3.0, 0.1, 5.0)):
        before = dict(scale=scale, sigma_lo=lo, sigma_hi=hi)
        now = experiment(**before).config["sample"]["guidance"]
        assert now == {**before, "name": "cfg", "rescale": 0.0}
        np.testing.assert_array_equal(draw(now), draw(before))


@pytest.mark.parametrize("name", NAMED)
def test_sweeping_any_float_compiles_nothing(name):
    section, draw = generator(name)
    found = [draw(section)]
    for key in (key for key, value in section.items() if isinstance(value, float)):
        assert compiled(lambda key=key: found.append(draw({**section, key: 0.3}))) == []
    assert len({x.tobytes() for x in found}) == len(found) > 1  # and every one tells


def test_a_function_of_another_form_is_refused():
    config = complete(dict(TOY, sample=dict(guidance=dict(name="test_guidance_runs:single"))))
    with pytest.raises(ValueError, match=r"guidance.name: '.*single' does not take \(cond, uncond, scale\): "):
        checks.experiment(config)


def test_a_negative_prompt_that_changes_nothing_is_refused():
    for name in ("cfg", "apg", "cfg_pp"):  # at scale 1 the last is not the conditional denoiser
        built = experiment(name=name)
        built.config["sample"]["negative_prompt"] = "blue"
        if name == "cfg_pp":
            modes._check_negative(built)
            continue
        with pytest.raises(ValueError, match="'blue' changes nothing with guidance of scale 1"):
            modes._check_negative(built)
