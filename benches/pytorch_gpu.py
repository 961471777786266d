"""The same networks in PyTorch on a GPU, with data and statistics that stay there: `pytorch_gpu.py mlp|cnn off|recorded`.

Forward hooks record per ReLU what Taper's recorder does: counts of zeros, moments and extremes, a histogram, sums per unit and
the sparseness of each sample; nothing is read from the GPU before the end of an epoch. Prints the best of three epochs.
"""
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

model, observed = sys.argv[1:3]
torch.manual_seed(0)
device, n, batch = "cuda", 60_000, 128
xs = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, device=device).float() / 255
ys = torch.arange(n, device=device) % 10
if model == "cnn":
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10),
    ).to(device)
else:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
    ).to(device)


class Recorder:
    """What one ReLU did in an epoch."""

    def __init__(self):
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)
        self.powers = torch.zeros(4, dtype=torch.float64, device=device)
        self.bins = torch.zeros(256, device=device)
        self.units, self.ends, self.samples = 0, None, torch.zeros(2, device=device)

    def __call__(self, module, inputs, ys):
        with torch.no_grad():
            ys = ys.detach()
            others = (0, 2, 3) if ys.dim() == 4 else (0,)
            self.counts += torch.stack([(ys == 0).sum(), (~ys.isfinite()).sum()])
            square = ys * ys
            self.powers += torch.stack([ys.sum(), square.sum(), (square * ys).sum(), (square * square).sum()]).double()
            self.bins += torch.histc(ys, 256, -1, 10)
            self.units = self.units + torch.stack([(ys > 0).sum(others).float(), ys.sum(others), square.sum(others)])
            ends = torch.stack(torch.aminmax(ys))
            self.ends = ends if self.ends is None else torch.stack([torch.minimum(self.ends[0], ends[0]), torch.maximum(self.ends[1], ends[1])])
            flat, squares = ys.flatten(1), square.flatten(1)
            self.samples += torch.stack([(flat > 0).sum(), (flat.sum(1) ** 2 / squares.sum(1).clamp_min(1e-30)).sum()])


if observed == "recorded":
    for module in net:
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(Recorder())
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
best = 0.0
for epoch in range(4):
    start, order = time.perf_counter(), torch.randperm(n, device=device)
    total = correct = 0
    for rows in order.split(batch):
        logits, labels = net(xs[rows]), ys[rows]
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, correct = total + loss.detach(), correct + (logits.detach().argmax(1) == labels).sum()
    torch.cuda.synchronize()
    if epoch > 0:
        best = max(best, n / (time.perf_counter() - start))
print(f"pytorch {model} {observed}: {best:.0f} samples/s", flush=True)
