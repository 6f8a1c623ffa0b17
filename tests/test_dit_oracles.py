"""Diffusion transformers against diffusers' on the same weights, where PyTorch and diffusers are installed.

Both are development tools alone: test_dit.py compares with a NumPy implementation everywhere. diffusers' models come
from a config, with our weights; two of their choices are set to ours: frequencies of the noise level, and for MMDiT one
linear map of the pooled text.
"""

import jax
import numpy as np
import pytest
from networks import run
from test_dit import inputs, scrambled

from diffax.models import DiT, MMDiT, TextEmbeddings

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

WIDTH, HEADS, DEPTH, PATCH, FREQUENCIES = 16, 2, 3, 2, 256


def linear(p):
    return dict(weight=np.asarray(p["kernel"]).T, bias=np.asarray(p["bias"]))


def parts(p, n, order=None):
    """The linear maps that one of ours holds side by side."""
    kernels, biases = np.split(p["kernel"], n, axis=-1), np.split(p["bias"], n, axis=-1)
    split = [linear(dict(kernel=k, bias=b)) for k, b in zip(kernels, biases)]
    return [split[i] for i in order] if order else split


def joined(maps):
    return {name: np.concatenate([m[name] for m in maps]) for name in maps[0]}


def conv(p, channels):
    kernel = np.asarray(p["kernel"]).reshape(PATCH, PATCH, channels, -1)
    return dict(weight=kernel.transpose(3, 2, 0, 1), bias=np.asarray(p["bias"]))


def embedder(p):
    """Ours has sines first, theirs has cosines first."""
    first = linear(p["dense_0"])
    return {
        "timestep_embedder.linear_1": dict(first, weight=np.roll(first["weight"], FREQUENCIES // 2, axis=1)),
        "timestep_embedder.linear_2": linear(p["dense_1"]),
    }


def attention(p, prefix="", query="to_q", key="to_k", value="to_v", out="to_out.0"):
    q, k, v = parts(p[f"{prefix}qkv"], 3)
    return {query: q, key: k, value: v, out: linear(p[f"{prefix}project"])}


def perceptron(p, name):
    return {f"{name}.net.0.proj": linear(p["wide"]), f"{name}.net.2": linear(p["narrow"])}


def of_layer(p, i):
    return jax.tree.map(lambda a: np.asarray(a[i]), p)


def under(prefix, state):
    return {f"{prefix}.{name}": value for name, value in state.items()}


def load(model, state):
    """Loads a complete state of {module: {weight, bias}}; what theirs has besides is named, for the caller to judge."""
    flat = {f"{name}.{kind}": torch.tensor(np.array(a)) for name, p in state.items() for kind, a in p.items()}
    missing, unexpected = model.load_state_dict(flat, strict=False)
    assert not unexpected
    return model.eval(), missing


def nchw(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def test_dit_is_that_of_diffusers():
    network = DiT(8, PATCH, WIDTH, DEPTH, HEADS, num_classes=5)
    x, c, cond = inputs(network, (3, 8, 8, 4))
    c = 100 * c
    params = scrambled(network, (3, 8, 8, 4))
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, in_channels=4, out_channels=8, num_layers=DEPTH,
        sample_size=8, patch_size=PATCH, num_embeds_ada_norm=5, norm_eps=1e-6,
    )  # fmt: skip
    state = {"pos_embed.proj": conv(params["patches"], 4)}
    state |= {"proj_out_1": linear(params["modulation_out"]), "proj_out_2": linear(params["out"])}
    for i in range(DEPTH):
        p, embed = of_layer(params["blocks"], i), embedder(params["conditioning"])
        embed["class_embedder.embedding_table"] = dict(weight=params["conditioning"]["classes"])
        block = {**under("norm1.emb", embed), "norm1.linear": linear(p["modulation"])}
        block |= {**under("attn1", attention(p)), **perceptron(p["perceptron"], "ff")}
        state |= under(f"transformer_blocks.{i}", block)
    model, missing = load(model, state)
    assert set(missing) <= {"pos_embed.pos_embed"}  # fixed, theirs and ours
    with torch.no_grad():
        y = model(nchw(x), torch.tensor(c), torch.tensor(cond["label"])).sample
    y = y.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(run(network, params, x, c, cond), y, atol=1e-4 * abs(y).max())


@pytest.mark.parametrize("qk_norm", [True, False])
def test_mmdit_is_that_of_diffusers(qk_norm):
    text = TextEmbeddings(width=12)
    network = MMDiT(5, PATCH, WIDTH, DEPTH, HEADS, text=text, qk_norm=qk_norm)
    x, c, cond = inputs(network, (3, 8, 8, 4))
    c, cond = 100 * c, {"text": cond["text"]}
    params = scrambled(network, (3, 8, 8, 4))
    model = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=PATCH, in_channels=4, out_channels=5, num_layers=DEPTH, num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS, joint_attention_dim=12, caption_projection_dim=WIDTH,
        pooled_projection_dim=12, pos_embed_max_size=4, qk_norm="rms_norm" if qk_norm else None,
    )  # fmt: skip
    model.time_text_embed.text_embedder = torch.nn.Linear(12, WIDTH)
    model.time_text_embed.time_proj.downscale_freq_shift = 1
    model, missing = load(model, sd3_state(params, qk_norm))
    # the last block's queries of the text, which nothing reads; the places
    last = f"transformer_blocks.{DEPTH - 1}.attn."
    assert all(name.startswith((f"{last}add_q_proj", f"{last}norm_added_q", "pos_embed.pos_embed")) for name in missing)
    said = text.apply({"params": params["text"]}, cond["text"])
    tokens, pooled = (torch.tensor(np.asarray(a)) for a in (said.tokens, said.pooled))
    with torch.no_grad():
        y = model(nchw(x), tokens, pooled, torch.tensor(c)).sample
    y = y.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(run(network, params, x, c, cond), y, atol=1e-4 * abs(y).max())


def sd3_state(params, qk_norm):
    swapped = joined(parts(params["modulation_out"], 2, (1, 0)))  # theirs is (scale, shift)
    state = {"pos_embed.proj": conv(params["patches"], 4), "context_embedder": linear(params["text_in"])}
    state |= {"norm_out.linear": swapped, "proj_out": linear(params["out"])}
    embed = {**embedder(params["conditioning"]), "text_embedder": linear(params["conditioning"]["text"])}
    state |= under("time_text_embed", embed)
    for i in range(DEPTH):
        last = i == DEPTH - 1
        p = jax.tree.map(np.asarray, params["last"]) if last else of_layer(params["blocks"], i)
        context = joined(parts(p["text_modulation"], 2, (1, 0))) if last else linear(p["text_modulation"])
        block = {"norm1.linear": linear(p["modulation"]), "norm1_context.linear": context}
        block |= {**under("attn", attention(p)), **perceptron(p["perceptron"], "ff")}
        if last:
            key, value = parts(p["text_key_value"], 2)
            block |= {"attn.add_k_proj": key, "attn.add_v_proj": value}
        else:
            names = ("text_", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
            block |= {**under("attn", attention(p, *names)), **perceptron(p["text_perceptron"], "ff_context")}
        if qk_norm:
            norms = dict(
                query_norm="norm_q", key_norm="norm_k", text_query_norm="norm_added_q", text_key_norm="norm_added_k"
            )
            block |= {f"attn.{theirs}": dict(weight=p[ours]["scale"]) for ours, theirs in norms.items() if ours in p}
        state |= under(f"transformer_blocks.{i}", block)
    return state
