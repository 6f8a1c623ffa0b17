"""The workloads that the benchmarks share: DDPM's CIFAR-10 UNet at batch 8 and the digits experiment's at 64."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def config(name: str) -> dict:
    """The complete config of a workload, on synthetic data where the real ones would need a download."""
    from diffax import config as configs

    experiments = Path(__file__).resolve().parent.parent / "experiments"
    if name == "digits":
        return configs.complete(configs.load(str(experiments / "digits.py")))
    plain = configs.load(str(experiments / "cifar10_ddpm.py"))
    plain["data"] = dict(name="fake", n=512)
    plain["network"]["dropout"] = 0.0  # as PyTorch's network beside it
    plain["train"]["batch_size"] = 8
    return configs.complete(plain)


def torch_step(name: str):
    """The same step in PyTorch: diffusers' UNet2DModel, MSE on eps, clipping, Adam and an average of the weights."""
    import torch
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    model = UNet2DModel(**_DIFFUSERS[name])
    average = [p.detach().clone() for p in model.parameters()]
    adam = torch.optim.Adam(model.parameters(), lr=2e-4)
    size, channels, batch = (32, 3, 8) if name == "cifar10" else (8, 1, 64)
    x0 = torch.from_numpy(np.random.default_rng(0).standard_normal((batch, channels, size, size), np.float32))
    labels = None if name == "cifar10" else torch.arange(batch) % 10

    def step():
        t = torch.randint(0, 1000, (batch,))
        eps = torch.randn_like(x0)
        alpha = torch.cos(t / 1000).view(-1, 1, 1, 1)
        y = model(alpha * x0 + (1 - alpha**2).sqrt() * eps, t, class_labels=labels).sample
        loss = torch.nn.functional.mse_loss(y, eps)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 1e-4)
        return loss.item()

    return step, sum(p.numel() for p in model.parameters())


_DIFFUSERS = {
    "cifar10": dict(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
    ),
    "digits": dict(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(24, 24),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=None,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=11,
    ),
}
