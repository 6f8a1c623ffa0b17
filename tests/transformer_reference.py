"""Diffusion transformers once more, in NumPy and float64, layer by layer from the papers' formulas.

Parameters are those of diffax's modules. A text is (tokens, mask, pooled) as its reader gives it.
"""

import math

import numpy as np


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    """arXiv:1606.08415, Sec. 2, the approximation by tanh."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def rms_norm(p, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]


def sines(places, features, period):
    """arXiv:1706.03762, Sec. 3.5: feature i of the first half is sin(place / period^(i / (features/2)))."""
    half = features // 2
    return np.array([[f(p / period ** (i / half)) for f in (math.sin, math.cos) for i in range(half)] for p in places])


def grid_places(height, width, features):
    rows = [[*sines([x], features // 2, 1e4)[0], *sines([y], features // 2, 1e4)[0]] for y, x in grid(height, width)]
    return np.array(rows)


def grid(height, width):
    return [(y, x) for y in range(height) for x in range(width)]


def turned(a, cells):
    """Axial rotary embedding of a [n, heads, d], as products of complex numbers; the rest of the tokens stay."""
    d = a.shape[-1]
    pairs = a[..., : d // 2] + 1j * a[..., d // 2 :]
    rates = [100.0 ** (-i / (d // 4)) for i in range(d // 4)]
    for i, (y, x) in enumerate(cells):
        pairs[i] *= np.exp(1j * np.array([x * w for w in rates] + [y * w for w in rates]))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def attention(q, k, v, mask):
    """softmax(q k^T / sqrt(d)) v, head by head, of the keys where mask is True; [n, heads, d] each -> [n, width]."""
    out = np.zeros_like(q)
    for head in range(q.shape[1]):
        logits = np.where(mask, q[:, head] @ k[:, head].T / math.sqrt(q.shape[-1]), -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, head]
    return out.reshape(len(q), -1)


def patches(x, p):
    """[h, w, c] -> [n, p * p * c]."""
    h, w, _ = x.shape
    return np.stack([x[i : i + p, j : j + p].reshape(-1) for i in range(0, h, p) for j in range(0, w, p)])


def picture(tokens, p, h, w):
    x = np.zeros((h, w, tokens.shape[-1] // p**2))
    corners = [(i, j) for i in range(0, h, p) for j in range(0, w, p)]
    for token, (i, j) in zip(tokens, corners):
        x[i : i + p, j : j + p] = token.reshape(p, p, -1)
    return x


def condition(params, network, c_noise, label, pooled, vectors):
    p, half = params["conditioning"], network.frequencies // 2
    rates = [1e4 ** (-i / (half - 1)) for i in range(half)]
    waves = np.array([math.sin(c_noise * r) for r in rates] + [math.cos(c_noise * r) for r in rates])
    h = linear(p["dense_1"], silu(linear(p["dense_0"], waves)))
    h = h + p["classes"][label] if network.num_classes else h
    h = h + linear(p["text"], pooled) if pooled is not None else h
    return silu(h + sum(linear(p[name], vectors[name]) for name in network.vectors))


def perceptron(p, h):
    wide = linear(p["wide"], h)
    return linear(p["narrow"], silu(linear(p["gate"], h)) * wide if "gate" in p else gelu(wide))


def placed(p, name, network, a, cells):
    a = rms_norm(p[name], a) if network.qk_norm else a
    return turned(a, cells) if network.rotary else a


def split(p, h, parts, heads):
    return [a.reshape(len(h), heads, -1) for a in np.split(linear(p, h), parts, axis=-1)]


def block(p, network, h, skip, c, text, cells):
    heads = network.heads
    h = linear(p["skip"], np.concatenate([h, skip], axis=-1)) if skip is not None else h
    a1, b1, g1, a2, b2, g2 = np.split(linear(p["modulation"], c), 6)
    q, k, v = split(p["qkv"], layer_norm(h) * (1 + b1) + a1, 3, heads)
    q, k = placed(p, "query_norm", network, q, cells), placed(p, "key_norm", network, k, cells)
    h = h + g1 * linear(p["project"], attention(q, k, v, True))
    if text is not None:
        tokens, mask = text
        q, (k, v) = split(p["text_query"], h, 1, heads)[0], split(p["text_key_value"], tokens, 2, heads)
        q, k = placed(p, "text_query_norm", network, q, []), placed(p, "text_key_norm", network, k, [])
        h = h + linear(p["text_project"], attention(q, k, v, mask))
    return h + g2 * perceptron(p["perceptron"], layer_norm(h) * (1 + b2) + a2)


def joint_block(p, network, h, t, c, mask, cells, last):
    heads, n = network.heads, len(h)
    image, words = np.split(linear(p["modulation"], c), 6), np.split(linear(p["text_modulation"], c), 2 if last else 6)
    q, k, v = split(p["qkv"], layer_norm(h) * (1 + image[1]) + image[0], 3, heads)
    q, k = placed(p, "query_norm", network, q, cells), placed(p, "key_norm", network, k, cells)
    inner = layer_norm(t) * (1 + words[1]) + words[0]
    parts = split(p["text_key_value" if last else "text_qkv"], inner, 2 if last else 3, heads)
    tk, tv = placed(p, "text_key_norm", network, parts[-2], []), parts[-1]
    if not last:
        q = np.concatenate([q, placed(p, "text_query_norm", network, parts[0], [])])
    there = np.concatenate([np.ones(n, bool), mask])
    a = attention(q, np.concatenate([k, tk]), np.concatenate([v, tv]), there)
    out = []
    for name, s, own, m in (("", h, a[:n], image), ("text_", t, a[n:], words))[: 1 if last else 2]:
        s = s + m[2] * linear(p[f"{name}project"], own)
        out.append(s + m[5] * perceptron(p[f"{name}perceptron"], layer_norm(s) * (1 + m[4]) + m[3]))
    return out[0], None if last else out[1]


def of_layer(p, i):
    return {k: of_layer(v, i) if isinstance(v, dict) else v[i] for k, v in p.items()}


def layers(params, network, name, length):
    return [of_layer(params[name], i) for i in range(length)]


def dit(params, network, x, c_noise, label=None, text=None, vectors=None, joint=False):
    """One example: x [h, w, c], c_noise a number -> y; `joint` for MMDiT."""
    height, width, _ = x.shape
    cells = grid(height // network.patch, width // network.patch)
    c = condition(params, network, c_noise, label, None if text is None else text[2], vectors)
    h = linear(params["patches"], patches(x, network.patch))
    h = h if network.rotary else h + grid_places(height // network.patch, width // network.patch, network.width)
    h = np.concatenate([h, params["registers"]]) if network.registers else h
    if joint:
        t = linear(params["text_in"], text[0])
        for p in layers(params, network, "blocks", network.depth - 1):
            h, t = joint_block(p, network, h, t, c, text[1], cells, False)
        h, _ = joint_block(params["last"], network, h, t, c, text[1], cells, True)
    else:
        h = _through_blocks(params, network, h, c, text[:2] if network.cross_attention else None, cells)
    shift, scale = np.split(linear(params["modulation_out"], c), 2)
    y = linear(params["out"], layer_norm(h[: len(cells)]) * (1 + scale) + shift)
    return picture(y, network.patch, height, width)


def _through_blocks(params, network, h, c, text, cells):
    if not network.long_skips:
        for p in layers(params, network, "blocks", network.depth):
            h = block(p, network, h, None, c, text, cells)
        return h
    kept, half = [], network.depth // 2
    for p in layers(params, network, "blocks_down", half):
        h = block(p, network, h, None, c, text, cells)
        kept.append(h)
    for p in layers(params, network, "blocks_middle", network.depth % 2) if network.depth % 2 else []:
        h = block(p, network, h, None, c, text, cells)
    for p in layers(params, network, "blocks_up", half):
        h = block(p, network, h, kept.pop(), c, text, cells)
    return h
