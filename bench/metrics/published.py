"""Numbers that others published, made again with official weights: are the weights those, and is the program right?

    python bench/metrics/published.py --program build/avid --weights weights [--only lpips,fvd] [--json FILE]

  lpips  0.3493 and 0.3566, the examples in torchmetrics' documentation: random images after the seed 123 and after
         the random numbers that making the network takes
  fvd    10.13808, the check of ports of I3D: 128 clips from seed 1 and 128 from seed 2, uniform in [0,1], unscaled,
         norms with eps 1e-3, covariances over N - 1

Two sides: the networks written once more in PyTorch, on floats as published, with the tensors that `avid weights
convert` wrote; and the program, on frames rounded to bytes. FVD takes about 5 minutes of a core for PyTorch, half of
that for the program.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

VGG_BLOCKS = [[0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]]


def lpips(w, a, b):
    """Mean distance of float images [N,3,H,W] in [-1,1], with the original package's norm."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    x, y, total = (a - shift) / scale, (b - shift) / scale, 0
    for i, block in enumerate(VGG_BLOCKS):
        if i > 0:
            x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        for k in block:
            x, y = (F.relu(F.conv2d(f, w[f"features.{k}.weight"], w[f"features.{k}.bias"], padding=1)) for f in (x, y))
        p, q = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (x, y))
        total = total + F.conv2d((p - q).square(), w[f"lin{i}.model.1.weight"]).mean((2, 3))
    return float(total.mean())


def padded(x, kernel, stride):
    """TensorFlow's "same"."""
    pads = []
    for n, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1]):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def i3d(w, x):
    """Logits of float clips [N,3,T,224,224]."""

    def unit(x, name, stride=(1, 1, 1)):
        kernel = w[name + ".conv3d.weight"]
        x = F.conv3d(padded(x, kernel.shape[2:], stride), kernel, stride=stride)
        mean, var, scale, bias = (w[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, mean, var, scale, bias, eps=1e-3))

    def pool(x, kernel, stride):
        return F.max_pool3d(padded(x, kernel, stride), kernel, stride)

    def mixed(x, name):
        branches = [unit(x, name + ".b0")]
        branches += [unit(unit(x, f"{name}.b{i}a"), f"{name}.b{i}b") for i in (1, 2)]
        return torch.cat([*branches, unit(pool(x, (3, 3, 3), (1, 1, 1)), name + ".b3b")], 1)

    x = pool(unit(x, "Conv3d_1a_7x7", (2, 2, 2)), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    for names, window in (("3b 3c", (3, 3, 3)), ("4b 4c 4d 4e 4f", (2, 2, 2)), ("5b 5c", None)):
        for name in names.split():
            x = mixed(x, "Mixed_" + name)
        if window:
            x = pool(x, window, (2, 2, 2))
    x = F.conv3d(F.avg_pool3d(x, (2, 7, 7), 1), w["logits.conv3d.weight"], w["logits.conv3d.bias"])
    return x[:, :, :, 0, 0].mean(2)


def frechet(a, b):
    """Distance of feature sets [N,D], covariances over N - 1."""
    centred = [(f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (a, b)]
    trace = sum((c**2).sum() for c in centred) - 2 * np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + trace)


def make_lpips_network():
    """Takes the random numbers that torchvision's VGG16 and the package's heads take when they are made."""
    channels = 3
    for width in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512):
        torch.nn.Conv2d(channels, width, 3, padding=1)
        channels = width
    for into, out in ((25088, 4096), (4096, 4096), (4096, 1000)):
        torch.nn.Linear(into, out)
    for width in (64, 128, 256, 512, 512):
        torch.nn.Conv2d(width, 1, 1, bias=False)


def to_bytes(x):
    """[-1,1] -> u8, to the nearest."""
    return (x * 127.5 + 127.5).round().to(torch.uint8)


def program(arguments, real, made, options):
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "clips.safetensors")
        save_file({"real": real, "made": made}, file)
        result = subprocess.run(
            [arguments.program, "metrics", "--real", file + ":real", "--generated", file + ":made", "--weights",
             arguments.weights, "--allow-unofficial", "--json", *options], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return json.loads(result.stdout)[options[1]]


@torch.no_grad()
def check_lpips(arguments, w):
    for published, low in ((0.3493, -1.0), (0.3566, 0.0)):
        torch.manual_seed(123)
        make_lpips_network()
        a, b = (torch.rand(10, 3, 100, 100) * (1 - low) + low for _ in range(2))
        ours = program(arguments, *(to_bytes(x).permute(0, 2, 3, 1)[:, None].contiguous() for x in (a, b)),
                       ["--metrics", "lpips", "--set", "lpips.norm=original"])
        yield f"lpips of images in [{low:g},1]", published, 0.5e-4, lpips(w, a, b), ours


@torch.no_grad()
def check_fvd(arguments, w):
    features, clips = [], []
    for seed in (1, 2):
        random, logits, frames = np.random.RandomState(seed), [], []
        for _ in range(64):
            x = torch.from_numpy(random.random_sample((2, 16, 224, 224, 3)).astype(np.float32))
            logits.append(i3d(w, x.permute(0, 4, 1, 2, 3)))
            frames.append(to_bytes(x))
        features.append(torch.cat(logits).double().numpy())
        clips.append(torch.cat(frames))
    ours = program(arguments, *clips, ["--metrics", "fvd_i3d_tf", "--set", "fvd.cov=unbiased"])
    yield "fvd of uniform noise", 10.13808, 0.5e-5, frechet(*features), ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/avid")
    parser.add_argument("--weights", default="weights", help="folder of converted weights")
    parser.add_argument("--only", default="lpips,fvd")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    checks = {"lpips": (check_lpips, "lpips-vgg"), "fvd": (check_fvd, "i3d-k400")}
    rows, digests = [], {}
    for key in arguments.only.split(","):
        check, network = checks[key]
        file = os.path.join(arguments.weights, network + ".safetensors")
        with open(file, "rb") as handle:
            digests[network] = hashlib.file_digest(handle, "sha256").hexdigest()
        for name, published, digits, floats, ours in check(arguments, load_file(file)):
            # Floats must give every published digit, but for what the order of f32 sums moves (FVD was 10.138081 in one
            # run and 10.138090 in another); rounding to bytes may cost half a per cent.
            good = abs(floats - published) <= digits + 2e-6 * published and abs(ours - published) <= 5e-3 * published
            rows.append({"check": name, "published": published, "floats_in_pytorch": floats, "program_on_bytes": ours,
                         "agrees": good})
            print(f"{name:28s} published {published}  PyTorch on floats {floats:.7g}  program on bytes {ours:.7g}"
                  f"{'' if good else '  DISAGREES'}", flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"weights": digests, "rows": rows}, file, indent=1)
            file.write("\n")
    sys.exit(0 if all(row["agrees"] for row in rows) else 1)


if __name__ == "__main__":
    main()
