"""Inverse problems: held to the exact posteriors of Gaussians, to the papers' loops in NumPy, and to identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import thinned
from oracle import (
    MIXTURE,
    exact_denoiser,
    gaussian,
    keys_of,
    noises,
    precision,
    strict,  # noqa: F401
)

from diffax import inverse, samplers
from diffax.samplers import init_noise, karras

MEAN, STD = 0.3, 0.7
SHAPE = (4, 4, 2)  # of an image
BOX = np.zeros((4, 4, 1))
BOX[1:3, :3] = 1
KERNEL = np.array([[0.1, 0.3, 0.0], [0.2, 0.5, -0.2], [0.0, 0.1, 0.05]])
OPERATORS = {
    "mask": lambda: inverse.mask(BOX),
    "downsample": lambda: inverse.downsample(2),
    "blur": lambda: inverse.blur(KERNEL),
    "random_projection": lambda: inverse.random_projection(jax.random.key(3), 5),
}


def data(dim=32):
    return exact_denoiser(gaussian(MEAN, STD, dim))


def images(n, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(jnp.result_type(float))


def matrix_of(observe, shape=SHAPE):
    """[measurements, numbers of an image]."""
    columns = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
    return observe(columns).reshape(len(columns), -1).T


@functools.cache
def measurement(name):
    """Jitted (x0, x, sigma, noise_std, scale) -> A, y = A·x0 and the estimates of `pigdm` and `dps` from x and y."""

    @jax.jit
    def run(x0, x, sigma, noise_std, scale):
        observe = OPERATORS[name]()
        y = observe(x0)
        pigdm = inverse.pigdm(data(), observe, y, noise_std, sigma_data=STD, tol=1e-12)
        return matrix_of(observe), y, pigdm(x, sigma), inverse.dps(data(), observe, y, scale)(x, sigma)

    return lambda *args: [np.asarray(found) for found in run(*args)]


def exact_posterior(a, x, sigma, y, noise_std):
    """(mean, covariance) of x0 ~ N(MEAN, STD²·I) given x = x0 + sigma·eps and y = a·x0 + noise, as one measurement."""
    d = a.shape[1]
    both = np.concatenate([np.eye(d), a])
    noise = np.diag(np.concatenate([np.full(d, sigma**2), np.full(len(a), noise_std**2)]))
    gain = STD**2 * both.T @ np.linalg.pinv(STD**2 * both @ both.T + noise, rcond=1e-13)
    mean = MEAN + gain @ (np.concatenate([x, y]) - both @ np.full(d, MEAN))
    return mean, STD**2 * (np.eye(d) - gain @ both)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_pigdm_is_the_posterior_mean_of_gaussian_data(name, noise_std):
    with precision(64):
        x, sigma = images(6, 1), np.geomspace(0.01, 50.0, 6)
        a, y, found, _ = measurement(name)(images(6, 2), x, sigma, noise_std, np.ones(6))
        for i in range(6):
            mean, _ = exact_posterior(a, np.ravel(x[i]), sigma[i], np.ravel(y[i]), noise_std)
            np.testing.assert_allclose(np.ravel(found[i]), mean, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_pigdm_samples_the_posterior():
    n, noise_std, d = 20_000, 0.25, 3
    a = np.array([[1.0, -0.5, 0.3], [0.2, 0.4, 1.0]])
    y = np.array([0.9, -0.4])

    @jax.jit
    def run(keys):
        sigmas = karras(40, 0.002, 300.0)

        def observe(x):
            return jnp.matmul(x, jnp.asarray(a.T, x.dtype), precision="highest")

        measured = jnp.broadcast_to(jnp.asarray(y, jnp.float32), (n, 2))
        denoise = inverse.pigdm(data(d), observe, measured, noise_std, sigma_data=STD)
        return samplers.heun(denoise, init_noise(keys, (d,), sigmas[0]), sigmas, keys)

    with precision(32):
        found = np.asarray(run(keys_of(n)), np.float64)
    mean, cov = exact_posterior(a, np.zeros(d), 1e6, y, noise_std)  # x of infinite noise says nothing
    assert np.all(np.abs(found.mean(0) - mean) < 4.5 * np.sqrt(np.diag(cov) / n))
    spread = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    assert np.all(np.abs(np.cov(found.T) - cov) < 4.5 * spread)


@pytest.mark.parametrize("name", OPERATORS)
def test_dps_of_gaussian_data(name):
    # D = m + c·(x - m): the gradient of the norm is -c·Aᵀ residual/‖residual‖
    with precision(64):
        x, sigma, scale = images(6, 1), np.geomspace(0.01, 50.0, 6), np.linspace(0.0, 3.0, 6)
        a, y, _, found = measurement(name)(images(6, 2), x, sigma, 0.2, scale)
        c, flat = STD**2 / (STD**2 + sigma[:, None] ** 2), lambda v: v.reshape(6, -1)
        x0 = MEAN + c * (flat(x) - MEAN)
        residual = flat(y) - x0 @ a.T
        residual /= np.linalg.norm(residual, axis=1, keepdims=True)
        expected = x0 + (scale * sigma**2)[:, None] * c * (residual @ a)
        np.testing.assert_allclose(flat(found), expected, rtol=1e-10, atol=1e-10)


def test_dps_of_one_number_is_exact_at_its_scale():
    with precision(64):

        @jax.jit
        def both(x0, x, sigma, noise_std):
            observe = inverse.random_projection(jax.random.key(0), 1)
            y, a = observe(x0), matrix_of(observe)
            residual = y - observe(data()(x, sigma))
            variance = noise_std**2 + (a @ a.T)[0, 0] * sigma**2 * STD**2 / (sigma**2 + STD**2)
            exact = inverse.pigdm(data(), observe, y, noise_std, sigma_data=STD)(x, sigma)
            return inverse.dps(data(), observe, y, jnp.abs(residual[:, 0]) / variance)(x, sigma), exact

        found, exact = both(images(6, 2), images(6, 1), np.geomspace(0.05, 5.0, 6), 0.2)
        np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_dps_of_any_function():
    with precision(64):
        denoise, sigma = exact_denoiser(MIXTURE), jnp.asarray([0.3, 0.8])

        def observe(x):
            return jnp.stack([x[:, 0] ** 2, jnp.sin(3 * x[:, 1]) * x[:, 0]], 1)

        @jax.jit
        def norm(x):
            return jnp.linalg.norm(y - observe(denoise(x, sigma)), axis=1)

        x, y = images(2, 1, (2,)), observe(images(2, 2, (2,)))
        found = jax.jit(inverse.dps(denoise, observe, y, 0.7))(x, sigma)
        for j in range(2):
            h = 1e-6 * jnp.eye(2)[j]
            slope = (norm(x + h) - norm(x - h)) / 2e-6
            np.testing.assert_allclose(found[:, j], denoise(x, sigma)[:, j] - 0.7 * sigma**2 * slope, atol=1e-8)
        still = jax.jit(lambda x: inverse.dps(denoise, observe, observe(denoise(x, sigma)), 0.7)(x, sigma))
        np.testing.assert_allclose(still(x), denoise(x, sigma), rtol=1e-12)  # 0 has no derivative of the norm


def test_pigdm_takes_a_function_for_its_linearization():
    with precision(64):

        @jax.jit
        def both(x, sigma, y):
            affine = inverse.pigdm(data(), lambda x: 2 * x + 1, y, 0.1, sigma_data=STD)
            linear = inverse.pigdm(data(), lambda x: 2 * x, y - 1, 0.1, sigma_data=STD)
            return affine(x, sigma), linear(x, sigma)

        np.testing.assert_allclose(*both(images(3, 1), np.array([0.1, 0.5, 3.0]), images(3, 2)), rtol=1e-10)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_linear_and_transposed(name):
    with precision(64):
        observe, a, b = OPERATORS[name](), images(3, 1), images(3, 2)
        y = images(3, 5, jax.eval_shape(observe, a).shape[1:])
        run = jax.jit(lambda *args: [*map(observe, args[:-1]), *jax.linear_transpose(observe, a)(args[-1])])
        both, of_a, of_b, back = jax.device_get(run(2.5 * a - b, a, b, y))
        np.testing.assert_allclose(both, 2.5 * of_a - of_b, atol=1e-12)
        np.testing.assert_allclose(np.sum(of_a * y), np.sum(a * back), rtol=1e-12)


def test_operators_are_what_they_say():
    with precision(64):
        x = images(2, 4, (6, 9, 2))

        @jax.jit
        def every(x):
            few, many = (inverse.random_projection(jax.random.key(1), m) for m in (3, 500))
            observed = [observe(x) for observe in (inverse.downsample(3), inverse.blur(KERNEL), few, many)]
            return *observed, matrix_of(many, (6, 9, 2))

        small, blurred, few, many, rows = jax.device_get(every(x))
        np.testing.assert_allclose(small[1, 1, 2, 0], x[1, 3:6, 6:9, 0].mean(), rtol=1e-12)
        padded, expected = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 0.0
        for i in range(3):
            for j in range(3):
                expected = expected + KERNEL[i, j] * padded[:, 2 - i : 8 - i, 2 - j : 11 - j]
        np.testing.assert_allclose(blurred, expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(few, many[:, :3], rtol=1e-12)  # the same rows
        assert abs(np.var(rows) * 108 - 1) < 4.5 * np.sqrt(2 / rows.size)
        assert abs(np.mean(rows)) < 4.5 / np.sqrt(108 * rows.size)


def test_inpainting_gaussian_data_is_pigdm_without_noise():
    with precision(64):

        @jax.jit
        def both(x, sigma, known):
            observe = inverse.mask(BOX)
            measured = inverse.pigdm(data(), observe, observe(known), 0.0, sigma_data=STD, tol=1e-13)
            return inverse.inpaint(data(), known, BOX)(x, sigma), measured(x, sigma)

        found, measured = both(images(4, 1), np.array([0.05, 0.5, 2.0, 40.0]), images(4, 2))
        np.testing.assert_allclose(found, measured, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ddim", "ancestral", "dpmpp_2m"])
def test_what_is_known_comes_back_to_the_bit(name):
    with precision(32):
        known = images(5, 2)

        @jax.jit
        def sample(x, known):
            sampler, denoise = getattr(samplers, name), inverse.inpaint(data(), known, BOX)
            return sampler(denoise, x, karras(5, 0.01, 40.0), keys_of(5))

        found = np.asarray(sample(40.0 * images(5, 3), known))
        np.testing.assert_array_equal(np.where(BOX, found, 0), np.where(BOX, known, 0))
        assert np.all(np.where(BOX, 1, np.abs(found - known)) > 0)


@pytest.mark.slow
def test_with_nothing_known_sampling_is_free_to_the_bit():
    known, none, keys, sigmas = images(5, 2), np.zeros((4, 4, 1), bool), keys_of(5), karras(5, 0.01, 40.0)
    x = init_noise(keys, SHAPE, sigmas[0])
    np.testing.assert_array_equal(inverse.inpaint(data(), known, none)(x, 2.0), data()(x, 2.0))
    free = samplers.ancestral(data(), x, sigmas, keys)
    np.testing.assert_array_equal(inverse.repaint(data(), x, sigmas, keys, known, none, resamples=1), free)


def repaint_reference(denoise, x, sigmas, known, mask, draws, resamples, jump):
    """arXiv:2201.09865, Algorithm 1 in its x_t, with the betas of the variance-preserving chain; draws(kind) next."""
    alpha_bar = 1 / (1 + np.asarray(sigmas, np.float64) ** 2)
    path, x_t, n = [x], x * np.sqrt(alpha_bar[0]), len(sigmas) - 1
    start = 0
    while start < n:
        end = min(start + jump, n)
        for again in range(resamples if end < n else 1):
            if again:
                kept = alpha_bar[start] / alpha_bar[end]  # the product of 1 - beta on the way up
                x_t = np.sqrt(kept) * x_t + np.sqrt(1 - kept) * draws("up")
            for i in range(start, end):
                now, before = alpha_bar[i], alpha_bar[i + 1]
                beta = 1 - now / before
                x0 = denoise(x_t / np.sqrt(now), sigmas[i])
                mean = (np.sqrt(before) * beta * x0 + np.sqrt(1 - beta) * (1 - before) * x_t) / (1 - now)
                unknown = mean + np.sqrt((1 - before) / (1 - now) * beta) * draws("step")
                noisy = np.sqrt(before) * known + np.sqrt(1 - before) * draws("known")
                x_t = mask * noisy + (1 - mask) * unknown
                draws.done()
                path.append(x_t / np.sqrt(before))
        start = end
    return np.stack(path)


class Draws:
    """The noises of `repaint`: three a network call, numbered as its docstring's order of calls."""

    def __init__(self, noises, calls):
        self.all, self.calls, self.i = noises, calls, 0

    def __call__(self, kind):
        return self.all[{"step": 0, "up": 1, "known": 2}[kind] * self.calls + self.i]

    def done(self):
        self.i += 1


@functools.cache
def every_noise():
    return noises(keys_of(3), 3 * 19, (2,))  # of the case with the most calls; the others' are the first of them


@pytest.mark.parametrize("resamples, jump", thinned(((1, 1), (3, 1), (2, 3), (4, 9)), (3, 1), (4, 9)))
def test_repaint_is_its_algorithm(resamples, jump):
    from reference import denoiser

    with precision(64):
        mask, n, x, known = np.array([1, 0]), 7, 20.0 * images(3, 1, (2,)), images(3, 2, (2,))
        options = dict(resamples=resamples, jump=jump, trajectory=True)

        @jax.jit
        def run(x, known):
            sigmas, denoise = karras(n, 0.05, 20.0), exact_denoiser(MIXTURE)
            return sigmas, inverse.repaint(denoise, x, sigmas, keys_of(3), known, mask, **options)

        sigmas, (found, path) = jax.device_get(run(x, known))
        calls = n + (resamples - 1) * jump * ((n - 1) // jump)
        assert len(path.x0) == calls
        draws = Draws(every_noise(), calls)
        expected = repaint_reference(denoiser(MIXTURE), x, sigmas, known, mask, draws, resamples, jump)
        np.testing.assert_allclose(path.x, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(found[:, 0], known[:, 0])


@pytest.mark.slow
def test_resampling_brings_both_parts_together():
    # N(0, [[1, 0.9], [0.9, 1]]) given its first number, 1: the second is N(0.9, 0.19)
    cov, n = np.array([[1.0, 0.9], [0.9, 1.0]]), 2000
    w, u = np.linalg.eigh(cov)

    def denoise(x, s):
        turned = jnp.matmul(x, jnp.asarray(u, x.dtype), precision="highest")
        return jnp.matmul(turned * (w / (w + s**2)).astype(x.dtype), jnp.asarray(u.T, x.dtype), precision="highest")

    def run(resamples):
        sigmas, known = karras(30, 0.02, 20.0), jnp.ones((n, 2), jnp.float32)
        x, mask = init_noise(keys_of(n, 1), (2,), sigmas[0]), np.array([True, False])
        return inverse.repaint(denoise, x, sigmas, keys_of(n), known, mask, resamples=resamples)[:, 1]

    with precision(32):
        once, often = (np.asarray(jax.jit(run, static_argnums=0)(u)) for u in (1, 20))
    assert abs(often.mean() - 0.9) < 0.05 < abs(once.mean() - 0.9)


@pytest.mark.slow
def test_image_to_image():
    with precision(64):
        denoise, x0, keys, sigmas = data(), images(3, 1), keys_of(3), karras(200, 0.002, 80.0)
        run = functools.partial(inverse.image_to_image, samplers.heun, denoise, x0, sigmas, keys)
        np.testing.assert_array_equal(run(0.0), x0)
        whole = samplers.heun(denoise, x0 + init_noise(keys, SHAPE, sigmas[0]), sigmas, keys)
        np.testing.assert_array_equal(run(1.0), whole)
        # the flow keeps (x - mean)/deviation
        for strength in (0.25, 0.5):
            start = sigmas[200 - int(200 * strength)]
            x = x0 + init_noise(keys, SHAPE, start)
            exact = MEAN + (x - MEAN) * STD / jnp.sqrt(STD**2 + start**2)
            np.testing.assert_allclose(run(strength), exact, rtol=2e-3, atol=2e-3)
        np.testing.assert_array_equal(
            inverse.noised(x0, keys, jnp.arange(3.0)),
            x0 + jnp.arange(3.0)[:, None, None, None] * init_noise(keys, SHAPE, 1.0),
        )


@pytest.mark.parametrize("n", thinned((10, 50), 10))
def test_ddim_inversion_returns_x0(n):
    with precision(32):
        x0 = MIXTURE.draw(500).astype(np.float32)

        @jax.jit
        def there_and_back(x0):
            denoise, sigmas, keys = exact_denoiser(MIXTURE), karras(n, 0.01, 40.0), keys_of(500)
            x, up = inverse.ddim_inversion(denoise, x0, sigmas, trajectory=True)
            back, down = samplers.ddim(denoise, x, sigmas, keys, trajectory=True)
            return sigmas, back, up.x, down.x

        sigmas, back, up, down = jax.device_get(there_and_back(x0))
        np.testing.assert_allclose(back, x0, rtol=0, atol=1e-5)
        deviation = np.maximum(1, sigmas)[:, None, None]
        np.testing.assert_allclose(up[::-1] / deviation, down / deviation, rtol=0, atol=1e-5)  # the same path


@pytest.mark.slow
def test_ddim_inversion_finds_the_noise():
    with precision(64):
        denoise, sigmas, keys = exact_denoiser(MIXTURE), karras(20, 0.01, 40.0), keys_of(100)
        x = init_noise(keys, (2,), sigmas[0])
        found = jax.jit(lambda x: inverse.ddim_inversion(denoise, samplers.ddim(denoise, x, sigmas, keys), sigmas))(x)
        np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_one_iteration_is_the_usual_inversion_of_first_order():
    with precision(64):
        denoise, x0 = data(1), jnp.asarray([[-1.0], [1.2]])
        s, r = 0.5, 0.3
        found = jax.jit(lambda levels: inverse.ddim_inversion(denoise, x0, levels, iterations=1))(jnp.asarray([s, r]))
        np.testing.assert_allclose(found, x0 + (s - r) * (x0 - denoise(x0, s)) / r, rtol=1e-12)
        errors = []
        for n in (40, 80, 160, 320):
            sigmas = samplers.uniform_logsnr(n + 1, 0.01, 40.0)[:-1]
            x = jax.jit(lambda s: inverse.ddim_inversion(denoise, x0, s, iterations=1))(sigmas)
            exact = MEAN + (x0 - MEAN) * jnp.sqrt((STD**2 + sigmas[0] ** 2) / (STD**2 + sigmas[-1] ** 2))
            errors.append(float(jnp.max(jnp.abs(x - exact))))
        assert -np.polyfit(np.log([40, 80, 160, 320]), np.log(errors), 1)[0] == pytest.approx(1, abs=0.15)


def measured(y, mask, x, scale, noise_std, sigma_data):
    observe, denoise = inverse.mask(mask), exact_denoiser(MIXTURE)
    return {
        "dps": inverse.dps(denoise, observe, y, scale)(x, 0.5),
        "pigdm": inverse.pigdm(denoise, observe, y, noise_std, sigma_data=sigma_data)(x, 0.5),
    }


@jax.jit
def every(y, known, mask, x, keys, scale, noise_std, sigma_data):
    """{name: result} of all that takes a batch, each row with a measurement, an image and a mask of its own."""
    sigmas, denoise = karras(6, 0.05, 20.0), exact_denoiser(MIXTURE)
    start = sigmas[0] * x
    return measured(y, mask, x, scale, noise_std, sigma_data) | {
        "inpaint": samplers.ddim(inverse.inpaint(denoise, known, mask), start, sigmas, keys, eta=0.5),
        "repaint": inverse.repaint(denoise, start, sigmas, keys, known, mask, resamples=2, jump=2),
        "noised": inverse.image_to_image(samplers.dpmpp_2m, denoise, known, sigmas, keys, 0.5),
        "inversion": inverse.ddim_inversion(denoise, known, sigmas, iterations=6),
    }


def rows(n):
    """Arguments of `every`; the first example measures nothing, and its conjugate gradients have nothing to do."""
    mask = jnp.asarray(np.arange(2 * n).reshape(n, 2) % 3 == 1).astype(float).at[0].set(0)
    known = jnp.asarray(MIXTURE.draw(n))
    values = jnp.linspace(0.2, 1.5, n)
    return mask * known, known, mask, images(n, 5, (2,)), keys_of(n), values, values[::-1], values


@pytest.mark.slow
def test_sample_i_depends_on_its_row_only():
    with precision(64):
        whole, some = every(*rows(8)), every(*jax.tree.map(lambda leaf: leaf[2:5], rows(8)))
        for name, found in whole.items():
            np.testing.assert_allclose(some[name], found[2:5], rtol=1e-12, atol=1e-12, err_msg=name)
            assert np.abs(found).max() < 100


@pytest.mark.slow
def test_what_is_swept_is_traced_mapped_and_differentiated():
    with precision(64):
        y, _, mask, x, *_ = rows(5)

        @jax.jit
        def run(v):
            return jnp.stack(list(measured(y, mask, x, v, v, v).values()))

        mapped = jax.jit(jax.vmap(run))(jnp.linspace(0.2, 1.0, 5))
        for i, v in enumerate(jnp.linspace(0.2, 1.0, 5)):
            np.testing.assert_allclose(run(v), mapped[i], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(run(jnp.linspace(0.2, 1.0, 5))[:, 3], mapped[3][:, 3], rtol=1e-10, atol=1e-12)
        at = jnp.linspace(0.2, 1.0, 5)[1]
        slope, numeric = jax.jit(jax.jacrev(run))(at), (run(at + 1e-5) - run(at - 1e-5)) / 2e-5
        np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-7)
        assert run._cache_size() == 2  # a scalar, and one value an example


@pytest.mark.slow
def test_all_can_be_differentiated_by_the_image():
    with precision(64):
        y, known, *rest = rows(8)

        def total(known, y):
            return sum(jnp.sum(found) for found in every(y, known, *rest).values())

        slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(known, y)
        direction = images(8, 9, (2,))
        numeric = (total(known + 1e-6 * direction, y) - total(known - 1e-6 * direction, y)) / 2e-6
        np.testing.assert_allclose(jnp.sum(slopes[0] * direction), numeric, rtol=1e-4)
        numeric = (total(known, y + 1e-6 * direction) - total(known, y - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(jnp.sum(slopes[1] * direction), numeric, rtol=1e-6)


@pytest.mark.slow
def test_what_no_image_can_be_stays_near():
    # data on a line, x0 beside it: what the denoiser can return comes back, and nothing runs away
    with precision(32):
        sigmas, keys = karras(20, 0.01, 40.0), keys_of(64)
        along, x0 = jnp.asarray([0.6, 0.8]), images(64, 3, (2,))

        def on_the_line(x):
            return jnp.sum(x * along, axis=1, keepdims=True) * along

        def denoise(x, s):
            return on_the_line(x) / (1 + s**2)

        back = jax.jit(lambda x0: samplers.ddim(denoise, inverse.ddim_inversion(denoise, x0, sigmas), sigmas, keys))(x0)
        np.testing.assert_allclose(back, on_the_line(x0), atol=1e-3)


X, ONES = np.ones((3, 4, 4, 2), np.float32), np.ones((4, 4, 1))
DOWN = inverse.downsample(2)


def repaint(known=X, mask=ONES, **options):
    sigmas = np.float32([2.0, 1.0, 0.0])
    return jax.eval_shape(lambda x: inverse.repaint(data(), x, sigmas, keys_of(3), known, mask, **options), X)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: inverse.dps(data(), DOWN, X, jnp.nan), "scale=nan: every sample would be NaN; give a finite scale"),
        (
            lambda: jax.eval_shape(inverse.dps(data(), DOWN, X, 1.0), X, X[0, 0, 0, 0]),
            r"y of shape \(3, 4, 4, 2\), but observe gives \(3, 2, 2",
        ),
        (
            lambda: jax.eval_shape(inverse.pigdm(data(), DOWN, X[:1], 1.0), X, X[0, 0, 0, 0]),
            r"y of shape \(1, .*jnp.broadcast_to",
        ),
        (lambda: inverse.pigdm(data(), DOWN, X, -0.1), "noise_std=-0.1: .*not negative; give 0 for none"),
        (lambda: inverse.pigdm(data(), DOWN, X, jnp.nan), "noise_std=nan: .*not negative"),
        (lambda: inverse.pigdm(data(), DOWN, X, 0.1, sigma_data=0.0), "sigma_data=0.0: .*positive; give the data's"),
        (lambda: inverse.pigdm(data(), DOWN, X, 0.1, iterations=0), "iterations=0 is not allowed: give an integer, 1"),
        (lambda: inverse.pigdm(data(), DOWN, X, 0.1, tol=-1.0), "tol=-1.0: .*give a small positive"),
        (
            lambda: inverse.inpaint(data(), X, 0.5 * ONES),
            r"mask holds 0.5: a pixel is known or it is not; give 1 or True",
        ),
        (
            lambda: jax.eval_shape(inverse.inpaint(data(), X[:2], ONES), X, 1.0),
            r"known of shape \(2, 4, 4, 2\) does not fit images of",
        ),
        (
            lambda: jax.eval_shape(inverse.inpaint(data(), X, np.ones((5, 1))), X, 1.0),
            r"mask of shape \(5, 1\) does not fit",
        ),
        (lambda: repaint(resamples=0), "resamples=0 is not allowed: give an integer, 1 or more"),
        (lambda: repaint(jump=1.5), "jump=1.5 is not allowed"),
        (lambda: repaint(known=X[:2]), r"known of shape \(2, 4, 4, 2\) does not fit"),
        (lambda: repaint(mask=np.ones((1, 3, 4, 4, 2))), r"mask of shape \(1, 3, 4, 4, 2\) does not fit"),
        (lambda: inverse.mask(np.ones((5, 1)))(X), r"mask of shape \(5, 1\) does not fit"),
        (lambda: inverse.mask(np.ones((3, 3, 4, 4, 2)))(X), r"mask of shape \(3, 3, 4, 4, 2\) does not fit"),
        (lambda: inverse.downsample(3)(X), "factor=3 does not divide images of 4 by 4: crop or pad"),
        (lambda: inverse.downsample(0), "factor=0 is not allowed"),
        (lambda: inverse.downsample(2)(X[0]), r"x of shape \(4, 4, 2\) is not of images: give \[batch"),
        (lambda: inverse.blur(np.ones((2, 3))), r"kernel of shape \(2, 3\) has no middle: give \[odd, odd\]"),
        (lambda: inverse.random_projection(jax.random.key(0), 0), "m=0 is not allowed"),
        (lambda: inverse.sigmas_from(np.arange(3.0), 1.2), "strength=1.2: .*give a number in .0, 1."),
        (lambda: inverse.sigmas_from(np.arange(3.0), jnp.nan), "strength=nan: "),
        (lambda: jax.jit(inverse.sigmas_from)(np.arange(3.0), 0.5), "strength=.*traced, but it sets the number of"),
        (lambda: inverse.noised(X, keys_of(2), 1.0), r"keys of shape \(2,\) for a batch of 3: one key an example"),
        (lambda: inverse.noised(X, jax.random.key(0), 1.0), r"keys of shape \(\) for a batch of 3"),
        (lambda: inverse.ddim_inversion(data(), X, np.arange(3.0), iterations=True), "iterations=True is not allowed"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
