"""PyTorch's side of the tests of weight files.

    python3 state_dict.py golden > state_dict.json    # names, types and shapes of the model's state_dict
    python3 state_dict.py through IN OUT              # load_state_dict(strict=True), then save_file of what it holds
"""
import json
import sys

import torch
from safetensors.torch import load_file, save_file


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 3, 3)
        self.conv2 = torch.nn.Conv2d(3, 4, 3)
        self.fc1 = torch.nn.Linear(4 * 2 * 2, 6)
        self.fc2 = torch.nn.Linear(6, 10)


net = Net()
if sys.argv[1] == "golden":
    tensors = net.state_dict().items()
    print(json.dumps({name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors}))
else:
    net.load_state_dict(load_file(sys.argv[2]), strict=True)
    save_file(net.state_dict(), sys.argv[3])
