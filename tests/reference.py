"""Every sampler again: NumPy, float64, a Python loop, the coordinates and closed forms of its paper.

    reference(denoise, x, sigmas, draws) -> [n + 1, batch, ...] the path; draws [k, batch, ...] the noises, in order.

Nothing here comes from the library. On Gaussian data a path is affine in its start and its noises, so the same
functions give the exact law of a sampler's output: see `law`.
"""

import numpy as np


def posterior_mean(data, x, sigma):
    """E[x0 | x = x0 + sigma·eps] in NumPy float64, for x [n, d] and sigma [n]: the reference of every comparison."""
    x, sigma = np.asarray(x, np.float64), np.asarray(sigma, np.float64)
    total = data.stds**2 + sigma[:, None] ** 2  # [n, k], the variance of x about each mean
    apart = x[:, None, :] - data.means
    log_p = np.log(data.weights) - 0.5 * np.sum(apart**2, -1) / total - 0.5 * x.shape[1] * np.log(total)
    p = np.exp(log_p - log_p.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.sum(p[..., None] * (data.means + (data.stds**2 / total)[..., None] * apart), axis=1)


def denoiser(data):
    """The exact denoiser of a mixture, of one level."""
    return lambda x, s: posterior_mean(data, x, np.full(len(x), s))


def euler(denoise, x, s, z, churn=0.0, s_min=0.0, s_max=np.inf, s_noise=1.0, second=None):
    """arXiv:2206.00364, Algorithm 2, line by line; `second` is the second-order correction of lines 9 to 11."""
    path, n = [x], len(s) - 1
    for i in range(n):
        gamma = min(churn / n, np.sqrt(2) - 1) if s_min <= s[i] <= s_max else 0.0
        up = s[i] + gamma * s[i]
        x = x + np.sqrt(up**2 - s[i] ** 2) * s_noise * z[i]
        d = (x - denoise(x, up)) / up
        x = second(denoise, x, d, up, s[i + 1]) if second and s[i + 1] else x + (s[i + 1] - up) * d
        path.append(x)
    return np.stack(path)


def heun(*args, **options):
    def second(denoise, x, d, s, r):
        end = x + (r - s) * d
        return x + (r - s) * 0.5 * (d + (end - denoise(end, r)) / r)

    return euler(*args, **options, second=second)


def dpm2(*args, **options):
    def second(denoise, x, d, s, r):  # arXiv:2206.00364, Eq. 14-15 with the middle in log(sigma)
        middle = np.exp(0.5 * (np.log(s) + np.log(r)))
        x_mid = x + (middle - s) * d
        return x + (r - s) * (x_mid - denoise(x_mid, middle)) / middle

    return euler(*args, **options, second=second)


def _vp(s):
    """alpha, sigma and lambda of the variance-preserving process at noise-to-signal ratio s."""
    alpha = 1 / np.sqrt(1 + s**2)
    with np.errstate(divide="ignore"):
        return alpha, s * alpha, -np.log(s)


def dpmpp_2s(denoise, x, s, z):
    """arXiv:2211.01095, Algorithm 1, r_1 = 1/2, in its x_t."""
    alpha, sigma, lam = _vp(s)
    path, x_t = [x], x * alpha[0]
    for i in range(len(s) - 1):
        x0 = denoise(x_t / alpha[i], s[i])
        if s[i + 1]:
            h = lam[i + 1] - lam[i]
            alpha_m, sigma_m, _ = _vp(np.exp(-(lam[i] + 0.5 * h)))
            u = sigma_m / sigma[i] * x_t - alpha_m * (np.exp(-0.5 * h) - 1) * x0
            x0 = denoise(u / alpha_m, sigma_m / alpha_m)
            x_t = sigma[i + 1] / sigma[i] * x_t - alpha[i + 1] * (np.exp(-h) - 1) * x0
        else:
            x_t = x0
        path.append(x_t / alpha[i + 1])
    return np.stack(path)


def dpmpp_sde(denoise, x, s, z, eta=1.0):
    """dx = -(1 + eta)(x - D) du + √(2 eta) sigma dW, u = -log sigma: exact for the D of the middle, one path of W."""
    path = [x]
    for i in range(len(s) - 1):
        x0 = denoise(x, s[i])
        if s[i + 1]:
            h, p = np.log(s[i] / s[i + 1]), 1 + eta
            middle = np.sqrt(s[i] * s[i + 1])
            # the integral ∫ √(2 eta) e^(eta u) dW up to the middle and from there on, times e^(-p u) at the end
            clock = np.array([s[i], middle, s[i + 1]]) ** (-2 * eta)
            first, then = np.sqrt(np.diff(clock))[:, None, None] * z[2 * i : 2 * i + 2]
            x_mid = np.exp(-p * h / 2) * x + (1 - np.exp(-p * h / 2)) * x0 + middle**p * first
            x = np.exp(-p * h) * x + (1 - np.exp(-p * h)) * denoise(x_mid, middle) + s[i + 1] ** p * (first + then)
        else:
            x = x0
        path.append(x)
    return np.stack(path)


def _phis(h):
    """∫ e^(-(h - u)) (u/h)^k du over 0 to h, k = 0, 1, 2, by parts."""
    i0 = 1 - np.exp(-h)
    i1 = 1 - i0 / h
    return i0, i1, 1 - 2 * i1 / h


def dpmpp_2m_sde(denoise, x, s, z, eta=1.0):
    """arXiv:2211.01095, Algorithm 2 and Eq. 18; with eta, h is (1 + eta)·h in the integral."""
    path, before = [x], None
    for i in range(len(s) - 1):
        x0 = denoise(x, s[i])
        if s[i + 1] == 0:
            x = x0
        else:
            h = np.log(s[i] / s[i + 1])
            d = x0 if before is None else x0 + (x0 - before) * h / (2 * np.log(s[i - 1] / s[i]))
            i0 = _phis((1 + eta) * h)[0]
            x = (1 - i0) * x + i0 * d + s[i + 1] * np.sqrt(1 - np.exp(-2 * eta * h)) * z[i]
        before = x0
        path.append(x)
    return np.stack(path)


def dpmpp_3m_sde(denoise, x, s, z, eta=1.0):
    """Newton's form of the parabola through three estimates, in theta = (u - u_i)/h, and the integrals by parts."""
    path, estimates = [x], []
    for i in range(len(s) - 1):
        estimates = [denoise(x, s[i]), *estimates[:2]]
        if s[i + 1] == 0:
            x = estimates[0]
        else:
            h = np.log(s[i] / s[i + 1])
            i0, i1, i2 = _phis((1 + eta) * h)
            x = (1 - i0) * x + i0 * estimates[0] + s[i + 1] * np.sqrt(1 - np.exp(-2 * eta * h)) * z[i]
            if len(estimates) > 1:
                a = np.log(s[i - 1] / s[i]) / h
                first = (estimates[0] - estimates[1]) / a
                x = x + i1 * first
            if len(estimates) > 2:
                b = np.log(s[i - 2] / s[i - 1]) / h
                second = (first - (estimates[1] - estimates[2]) / b) / (a + b)
                x = x + (i2 + a * i1) * second
        path.append(x)
    return np.stack(path)


def adams(denoise, x, s, z, order, of_log):
    """The polynomial through the last slopes, by np.polyfit, integrated: exactly in sigma, finely in log(sigma)."""
    path, slopes = [x], []
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for i in range(len(s) - 1):
        x0 = denoise(x, s[i])
        slopes = [(x - x0) / s[i], *slopes[: order - 1]]
        if s[i + 1] == 0:
            x = x0
        else:
            known = s[i - len(slopes) + 1 : i + 1][::-1]
            length = np.log(s[i + 1] / s[i]) if of_log else s[i + 1] - s[i]
            at = length * (nodes + 1) / 2
            place, rate = (np.log(known / s[i]), s[i] * np.exp(at)) if of_log else (known - s[i], 1.0)
            flat = np.stack(slopes).reshape(len(slopes), -1)
            fitted = np.vander(at, len(slopes)) @ np.linalg.solve(np.vander(place, len(slopes)), flat)
            x = x + (length / 2 * weights * rate @ fitted).reshape(x.shape)
        path.append(x)
    return np.stack(path)


def unipc(denoise, x, s, z, order=3, bh=2, corrector=True):
    """arXiv:2302.04867, Algorithms 5 and 6 (data prediction), in x/alpha: the systems R a = phi of Eq. 10, solved."""
    path, start, levels, estimates = [x], None, [], []
    for i in range(len(s) - 1):
        x0 = denoise(x, s[i])
        if corrector and i:
            x = _unipc_step(start, levels, estimates, s[i], bh, x0)
        levels, estimates = [s[i], *levels[: order - 1]], [x0, *estimates[: order - 1]]
        start = x
        x = _unipc_step(x, levels, estimates, s[i + 1], bh) if s[i + 1] else x0
        path.append(x)
    return np.stack(path)


def _unipc_step(x, levels, estimates, r, bh, new=None):
    s, m0 = levels[0], estimates[0]
    hh = -np.log(s / r)
    b_h = hh if bh == 1 else np.expm1(hh)
    rks = [np.log(s / level) / -hh for level in levels[1:]]
    d = [(m - m0) / rk for m, rk in zip(estimates[1:], rks)]
    if new is not None:
        rks, d = [*rks, 1.0], [*d, new - m0]
    x = (r / s) * x - np.expm1(hh) * m0
    if not d:
        return x
    system, b, phi, factorial = [], [], np.expm1(hh) / hh - 1, 1.0
    for k in range(1, len(rks) + 1):
        system.append(np.power(rks, k - 1))
        b.append(phi * factorial / b_h)
        factorial *= k + 1
        phi = phi / hh - 1 / factorial
    a = [0.5] if len(d) == 1 else np.linalg.solve(np.array(system), np.array(b))
    return x - b_h * sum(weight * part for weight, part in zip(a, d))


def ddim(denoise, x, s, z, eta=0.0):
    """arXiv:2010.02502, Eq. 12 and 16, in its x_t."""
    alpha, sigma, _ = _vp(s)
    path, x_t = [x], x * alpha[0]
    for i in range(len(s) - 1):
        x0 = denoise(x_t / alpha[i], s[i])
        eps = (x_t - alpha[i] * x0) / sigma[i]
        drawn = eta * np.sqrt(sigma[i + 1] ** 2 / sigma[i] ** 2 * (1 - alpha[i] ** 2 / alpha[i + 1] ** 2))
        x_t = alpha[i + 1] * x0 + np.sqrt(max(sigma[i + 1] ** 2 - drawn**2, 0.0)) * eps + drawn * z[i]
        path.append(x_t / alpha[i + 1])
    return np.stack(path)


def ancestral(denoise, x, s, z, variance=0.0):
    """arXiv:2006.11239, Eq. 7 with the betas of its chain; arXiv:2102.09672, Eq. 15 for the variance."""
    alpha_bar = 1 / (1 + s**2)
    path, x_t = [x], x * np.sqrt(alpha_bar[0])
    for i in range(len(s) - 1):
        now, before = alpha_bar[i], alpha_bar[i + 1]
        beta = 1 - now / before
        x0 = denoise(x_t / np.sqrt(now), s[i])
        mean = (np.sqrt(before) * beta * x0 + np.sqrt(1 - beta) * (1 - before) * x_t) / (1 - now)
        small = beta * (1 - before) / (1 - now)
        x_t = mean if before == 1 else mean + np.sqrt(beta**variance * small ** (1 - variance)) * z[i]
        path.append(x_t / np.sqrt(before))
    return np.stack(path)


def predictor_corrector(denoise, x, s, z, snr=0.16, corrections=1):
    """arXiv:2011.13456, Algorithms 2 and 4, by scores; the corrector's step by the level instead of the norms."""
    path, z = [x], iter(z)
    for i in range(len(s) - 1):
        variance = s[i] ** 2 - s[i + 1] ** 2
        x = x + variance * (denoise(x, s[i]) - x) / s[i] ** 2 + np.sqrt(variance) * next(z) * (s[i + 1] > 0)
        for _ in range(corrections):
            noise = next(z)
            if s[i + 1]:
                step = 2 * (snr * s[i + 1]) ** 2
                x = x + step * (denoise(x, s[i + 1]) - x) / s[i + 1] ** 2 + np.sqrt(2 * step) * noise
        path.append(x)
    return np.stack(path)


def restart(denoise, x, s, z, lo=0.05, hi=0.3, times=3, steps=3, rho=7.0):
    """arXiv:2306.14878, Algorithm 1; the noise of a way up is that of the step which follows it."""
    path, count, done = [x], 0, False
    for i in range(len(s) - 1):
        if s[i] <= lo and not done:
            done = True
            for _ in range(times):
                ramp = np.arange(steps + 1) / steps
                down = (hi ** (1 / rho) + ramp * (s[i] ** (1 / rho) - hi ** (1 / rho))) ** rho
                x = x + np.sqrt(hi**2 - s[i] ** 2) * z[count]
                ways = heun(denoise, x, down, np.zeros((steps, *x.shape)))
                x, count = ways[-1], count + steps
                path += list(ways[1:])
        x = heun(denoise, x, s[i : i + 2], np.zeros((1, *x.shape)))[-1]
        count += 1
        path.append(x)
    return np.stack(path)


def law(reference, denoise, sigmas, draws):
    """(mean, variance) of the last x of an affine sampler of 1-D data, from a start N(0, sigmas[0]²): exact.

    The start and each draw in turn are set to one, all else to zero.
    """
    units = np.eye(draws + 1)[..., None]  # [what is one, batch, 1]
    batch = np.concatenate([np.zeros((draws + 1, 1, 1)), units], axis=1)
    out = reference(denoise, sigmas[0] * batch[0], np.asarray(sigmas, np.float64), batch[1:])[-1][:, 0]
    return out[0], np.sum((out[1:] - out[0]) ** 2)
