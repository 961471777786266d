"""Logits and gradients of a small transformer in PyTorch: `python make_transformer.py` writes transformer.safetensors here."""
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

N, STEPS, INPUTS, WIDTH, HEADS, CLASSES = 3, 5, 6, 8, 2, 4


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(INPUTS, WIDTH)
        self.position = nn.Parameter(torch.randn(STEPS, WIDTH))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, xs):
        xs = self.embed(xs) + self.position
        q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in self.qkv(self.norm1(xs)).chunk(3, 2))
        xs = xs + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        xs = xs + self.down(F.gelu(self.up(self.norm2(xs))))
        return self.head(self.norm3(xs).mean(1))


torch.manual_seed(1)
torch.set_num_threads(1)
net = Transformer()
with torch.no_grad():  # no parameter at a value that would hide a mistake
    for name, parameter in net.named_parameters():
        if "norm" in name:
            parameter += 0.3 * torch.randn_like(parameter)
xs, targets = torch.randn(N, STEPS, INPUTS), torch.randint(0, CLASSES, (N,))
logits = net(xs)
F.cross_entropy(logits, targets).backward()
tensors = {"xs": xs, "targets": targets.int(), "logits": logits}
for name, parameter in net.named_parameters():
    tensors |= {name: parameter, f"grad.{name}": parameter.grad}
tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
save_file(tensors, Path(__file__).parent / "transformer.safetensors", metadata={"format": "pt", "torch": torch.__version__})
