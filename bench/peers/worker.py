# bench/peers/worker.py -- one PyTorch configuration as a child process: builds the job, then times steps on request
#
# Usage: worker.py JOB.json MODE   (MODE: eager | compile, then -sdpa for fused attention, then -bf16)
# Reads lines from stdin: "N" runs N steps and answers with one JSON line {"seconds": [...], "loss": x, "peak_mib": m}.
import json
import resource
import sys
import time

import torch
from safetensors.torch import load_file

from unet import Attention, Avid, Unet3d, frames_of, load_original, sigmoid_schedule, unet_input

job = json.load(open(sys.argv[1]))
mode = sys.argv[2]
torch.set_num_threads(job["threads"])
torch.manual_seed(0)
Attention.use_sdpa = "-sdpa" in mode
if mode.startswith("compile"):
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 64


def build(shape, extra_in, out_channels):
    return Unet3d(shape["dim"], shape["mults"], shape["heads"], shape["head_dim"], extra_in=extra_in, out_channels=out_channels)


device = torch.device(job["device"])
given = {name: value.to(device) for name, value in load_file(job["input"]).items()}
clips = given["x_t"].shape[0]
base = build(job["base_shape"], 0, 3)
load_original(base, load_file(job["base"]))
base.to(device)
avid = None
if job["kind"] != "base":
    avid = Avid(build(job["adapter_shape"], 3, 4))
    load_original(avid, load_file(job["adapter"]))
    avid.to(device)
abar = sigmoid_schedule(200).to(device)[given["t"]]
weight = abar / (1 - abar)
target = frames_of(given["x0"])


def predict_base():
    return base(unet_input(given["cond"], given["x_t"]), given["t"], None, clips)


def predict():
    if job["kind"] == "base":
        return predict_base()
    with torch.no_grad():
        base_out = predict_base()
    return avid(base_out, given["cond"], given["x_t"], given["t"], given["actions"])[0]


def loss_of(out):
    return (((out.float() - target) ** 2).unflatten(0, (clips, -1)).mean((1, 2, 3, 4)) * weight).mean()


if mode.startswith("compile"):
    base = torch.compile(base)
    if avid is not None:
        avid = torch.compile(avid)
autocast = torch.autocast(device.type, torch.bfloat16, enabled=mode.endswith("bf16"))
trained = list((base if job["kind"] == "base" else avid).parameters()) if job["kind"] != "sample" else []
trained = [p for p in trained if p.requires_grad]
optimizer = torch.optim.Adam(trained, lr=1e-4, fused=True) if trained else None


def update():
    with autocast:
        out = predict()
    loss = loss_of(out)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return loss.item()


def sampling_step():
    with torch.inference_mode(), autocast:
        return loss_of(predict()).item()


step = sampling_step if job["kind"] == "sample" else update
first_loss = step()  # also compiles


def peak_mib():
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


for line in sys.stdin:
    seconds = []
    if device.type == "cuda":
        step()  # gets its memory again
    for _ in range(int(line)):
        start = time.perf_counter()
        step()  # ends by reading the loss, so that a GPU has finished
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "loss": first_loss, "peak_mib": peak_mib()}), flush=True)
    if device.type == "cuda":  # the others need it meanwhile
        torch.cuda.empty_cache()
