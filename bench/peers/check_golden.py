# bench/peers/check_golden.py -- the PyTorch peer against the reference tensors: prediction, loss, gradients of AVID
#
# Usage: check_golden.py [CASE] [--sdpa]: with PyTorch's fused attention
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

from unet import Attention, Avid, Unet3d, frames_of, load_original, sigmoid_schedule, unet_input

words = [word for word in sys.argv[1:] if word != "--sdpa"]
Attention.use_sdpa = len(words) < len(sys.argv) - 1
case_dir = pathlib.Path(words[0] if words else pathlib.Path(__file__).parents[2] / "tests/golden/pixel/avid_mask")
case = json.loads((case_dir / "case.json").read_text())
files = {p.stem: load_file(p) for p in case_dir.glob("*.safetensors")}
base, adapter = (Unet3d(c["dim"], c["dim_mults"], c["heads"], c["dim_head"], extra_in=3 * (c["in_channels"] == 12),
                        out_channels=c["out_channels"]) for c in (case["base"], case["adapter"]))
avid = Avid(adapter)
load_original(base, files["base"])
load_original(avid, files["adapter"])
given, want = files["input"], files["expected"]
clips = given["x_t"].shape[0]
with torch.no_grad():
    base_out = base(unet_input(given["cond"], given["x_t"]), given["t"], None, clips)
out, mask = avid(base_out, given["cond"], given["x_t"], given["t"], given["actions"])
abar = sigmoid_schedule(case["diffusion"]["timesteps"])[given["t"]]
weight = abar / (1 - abar)
loss = (((out - frames_of(given["x0"])) ** 2).unflatten(0, (clips, -1)).mean((1, 2, 3, 4)) * weight).mean()
loss.backward()


def error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


errors = {"base": error(base_out, frames_of(want["base"])), "prediction": error(out, frames_of(want["prediction"])),
          "mask": error(mask, frames_of(want["mask"])), "loss": error(loss.detach(), want["loss"])}
for name, parameter in avid.named_parameters():
    if "grad." + name in want:
        errors["grad." + name] = error(parameter.grad, want["grad." + name])
worst = max(errors, key=errors.get)
print(f"{len(errors)} tensors, worst {worst} {errors[worst]:.2e}, prediction {errors['prediction']:.2e}, loss {errors['loss']:.2e}")
sys.exit(errors[worst] > 3e-5 or errors["prediction"] > 5e-6)
