"""Logits and gradients of a small transformer in PyTorch: `python make_transformer.py` writes transformer.safetensors here."""
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

class Transformer(nn.Module):
    """One block with GELU. `(N, steps, inputs)` to `(N, classes)`; `benches/pytorch_networks.py` trains it too."""

    def __init__(self, steps, inputs, width, heads, classes):
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(inputs, width)
        self.position = nn.Parameter(torch.randn(steps, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, xs):
        xs = self.embed(xs) + self.position
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in self.qkv(self.norm1(xs)).chunk(3, 2))
        xs = xs + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        xs = xs + self.down(F.gelu(self.up(self.norm2(xs))))
        return self.head(self.norm3(xs).mean(1))


if __name__ == "__main__":
    torch.manual_seed(1)
    torch.set_num_threads(1)
    net = Transformer(steps=5, inputs=6, width=8, heads=2, classes=4)
    with torch.no_grad():  # no parameter at a value that would hide a mistake
        for name, parameter in net.named_parameters():
            if "norm" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    xs, targets = torch.randn(3, 5, 6), torch.randint(0, 4, (3,))
    logits = net(xs)
    F.cross_entropy(logits, targets).backward()
    tensors = {"xs": xs, "targets": targets.int(), "logits": logits}
    for name, parameter in net.named_parameters():
        tensors |= {name: parameter, f"grad.{name}": parameter.grad}
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, Path(__file__).parent / "transformer.safetensors", metadata={"format": "pt", "torch": torch.__version__})
