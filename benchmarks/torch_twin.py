"""`meso_inception4` in PyTorch and its training, in turns; run by `benchmarks.training`. Needs only torch and numpy.

    python -m benchmarks.torch_twin FOLDER LAYOUT THREADS [--compile]

The same layers, weights and optimizer as ours, in either image layout, with PyTorch's usual optimizations: fused Adam,
the loss from the logit, batches in their layout before timing starts.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.turns import say, turns

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


class Inception(nn.Module):
    """A 1x1 branch and three 1x1 -> 3x3 branches with dilation 1, 2 and 3, side by side."""

    def __init__(self, inputs, filters, layout):
        super().__init__()
        self._layout = layout
        plain, *dilated = filters
        self.branch0_conv = nn.Conv2d(inputs, plain, 1)
        for rate, count in enumerate(dilated, start=1):
            self.add_module(f"branch{rate}_reduce", nn.Conv2d(inputs, count, 1))
            self.add_module(f"branch{rate}_conv", nn.Conv2d(count, count, 3, dilation=rate, padding=rate))
        self.bn = norm(sum(filters))

    def forward(self, x):
        branches = [torch.relu(self.branch0_conv(x))]
        for rate in (1, 2, 3):
            reduced = torch.relu(getattr(self, f"branch{rate}_reduce")(x))
            branches.append(torch.relu(getattr(self, f"branch{rate}_conv")(reduced)))
        # One-channel branches have both layouts at once, of which torch.cat would pick the wrong one.
        joined = torch.cat(branches, 1).contiguous(memory_format=self._layout)
        return nn.functional.max_pool2d(self.bn(joined), 2)


class Convolution(nn.Module):
    """Convolution, norm, pooling."""

    def __init__(self, inputs, filters, size, pool):
        super().__init__()
        self.conv = nn.Conv2d(inputs, filters, size, padding=size // 2)
        self.bn = norm(filters)
        self._pool = pool

    def forward(self, x):
        return nn.functional.max_pool2d(self.bn(torch.relu(self.conv(x))), self._pool)


class MesoInception4(nn.Module):
    """RGB faces, float32 in [0, 1], `(batch, 3, 256, 256)`; returns the logit of P(fake), `(batch, 1)`."""

    def __init__(self, dropout, layout):
        super().__init__()
        self.block1 = Inception(3, (1, 4, 4, 2), layout)
        self.block2 = Inception(11, (2, 4, 4, 2), layout)
        self.block3 = Convolution(12, 16, 5, 2)
        self.block4 = Convolution(16, 16, 5, 4)
        self.hidden = nn.Linear(8 * 8 * 16, 16)
        self.fake_probability = nn.Linear(16, 1)
        self._dropout = dropout

    def forward(self, x):
        x = torch.flatten(self.block4(self.block3(self.block2(self.block1(x)))), 1)
        x = self.hidden(nn.functional.dropout(x, self._dropout, self.training))
        x = nn.functional.leaky_relu(x, 0.1)
        return self.fake_probability(nn.functional.dropout(x, self._dropout, self.training))


def norm(channels):
    """With Keras's constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def load_keras_weights(network: MesoInception4, file: Path) -> None:
    """Copies our weights by the names of `tfdfd.weights`, with transposed axes.

    Raises:
        RuntimeError: names or shapes differ.
    """
    parts = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
    parts |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    state = {}
    for name, values in np.load(file).items():
        layer, part = name.split("/")
        block, _, rest = layer.partition("_")
        if layer == "hidden" and part == "kernel":  # from height, width and channels to channels first
            values = values.reshape(8, 8, 16, 16).transpose(2, 0, 1, 3).reshape(1024, 16)
        if part == "kernel":
            values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T
        owner = f"{block}.{rest}" if block.startswith("block") else layer
        state[f"{owner}.{parts[part]}"] = torch.from_numpy(values.copy())
    missing, unexpected = network.load_state_dict(state, strict=False)
    # PyTorch's batch counter of norms has no effect.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RuntimeError(f"the twin differs: it lacks {unexpected} and has {missing} in addition.")


def read_batches(file, layout):
    """Reads batches, stored as `(batch, height, width, 3)`."""
    data = np.load(file)
    images = torch.from_numpy(data["image"]).permute(0, 1, 4, 2, 3)
    labels = torch.from_numpy(data["label"])
    return [
        (image.contiguous(memory_format=LAYOUTS[layout]), label) for image, label in zip(images, labels, strict=True)
    ]


def load(folder, layout, dropout):
    network = MesoInception4(dropout, LAYOUTS[layout])
    load_keras_weights(network, folder / "weights.npz")
    return network.to(memory_format=LAYOUTS[layout])


def losses(network, batches, compiled=False):
    """Trains and yields the loss of each step."""
    # Keras's epsilon.
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7, fused=True)
    called = torch.compile(network) if compiled else network
    network.train()
    for image, label in batches:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(called(image), label)
        loss.backward()
        optimizer.step()
        yield loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("threads", type=int)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    folder, layout = arguments.folder, arguments.layout
    torch.set_num_threads(arguments.threads)
    batches = read_batches(folder / "batches.npz", layout)
    network = load(folder, layout, 0.0)
    with torch.inference_mode():
        scores = torch.sigmoid(network.eval()(batches[0][0]))[:, 0].tolist()
    few = [(image.double(), label.double()) for image, label in read_batches(folder / "compared.npz", layout)]
    info = {"version": torch.__version__, "scores": scores, "losses": list(losses(network.double(), few))}

    steps = losses(load(folder, layout, 0.5), itertools.cycle(batches), arguments.compile)
    for _ in batches:
        next(steps)
    say(info)
    for count in turns():
        for _ in range(count):
            next(steps)


if __name__ == "__main__":
    main()
