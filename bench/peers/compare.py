# bench/peers/compare.py -- our program against PyTorch on the same networks, weights, batch and cores, in one run
#
# Every line alternates rounds of both sides and compares medians; PyTorch's time is its best mode. The losses of the
# first step must agree, otherwise the line is an error and not a time.
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import save_file

from unet import Avid, Unet3d, check_device, sigmoid_schedule

HERE = pathlib.Path(__file__).parent
BASE = {"dim": 24, "mults": [1, 2, 4, 8], "heads": 2, "head_dim": 64}
ADAPTER = {"dim": 16, "mults": [1, 2, 4, 8], "heads": 2, "head_dim": 32}
SIZES = {32: 8, 64: 4}  # frame size -> clips
FRAMES = 8
# On a GPU: the paper's networks (configs/base.toml, configs/avid_71m.toml) and batch.
GPU_BASE = {"dim": 100, "mults": [1, 2, 4, 8], "heads": 8, "head_dim": 64}
GPU_ADAPTER = {"dim": 90, "mults": [1, 2, 4, 8], "heads": 6, "head_dim": 50}
GPU_SIZES = {64: 32}
# glibc must not return memory to the system between steps, or PyTorch pays for fresh pages on every step.
TORCH_ENV = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456"}


def write_job(folder, kind, size, clips, threads, device):
    torch.manual_seed(1)
    on_gpu = device != "cpu"
    frames, base_shape, adapter_shape = FRAMES, *((GPU_BASE, GPU_ADAPTER) if on_gpu else (BASE, ADAPTER))
    base = Unet3d(**base_shape)
    avid = Avid(Unet3d(**adapter_shape, extra_in=3, out_channels=4))
    with torch.no_grad():
        avid.mixture_conv.weight.fill_(0.5)
    x0 = torch.rand(clips, 3, frames, size, size) * 2 - 1
    noise = torch.randn_like(x0)
    t = torch.linspace(10, 180, clips).long()
    abar = sigmoid_schedule(200)[t].view(-1, 1, 1, 1, 1)
    tensors = {"x0": x0, "noise": noise, "x_t": abar.sqrt() * x0 + (1 - abar).sqrt() * noise, "t": t,
               "actions": torch.arange(clips * frames).view(clips, frames) % 15, "cond": torch.rand(clips, 3, 2, size, size) * 2 - 1}
    paths = {name: str(folder / f"{name}.safetensors") for name in ("base", "adapter", "input")}
    contiguous = lambda d: {k: v.detach().clone().contiguous() for k, v in d.items()}
    save_file(contiguous(base.state_dict()), paths["base"])
    save_file(contiguous(avid.state_dict()), paths["adapter"])
    save_file(contiguous(tensors), paths["input"])
    job = {"kind": kind, "threads": threads, "device": device, "base_shape": base_shape, "adapter_shape": adapter_shape, **paths}
    (folder / "job.json").write_text(json.dumps(job))
    return job


class PeerOutOfMemory(Exception):
    pass


class TorchSide:
    def __init__(self, folder, mode):
        self.mode = mode
        self.process = subprocess.Popen([sys.executable, str(HERE / "worker.py"), str(folder / "job.json"), mode], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **TORCH_ENV})

    def run(self, steps):
        try:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            said = self.process.stderr.read()
            if "out of memory" in said:
                raise PeerOutOfMemory(self.mode)
            raise SystemExit(f"compare: PyTorch {self.mode} failed:\n{said[-2000:]}")

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()


def run_ours(program, job, dtype, steps, threads):
    command = [program, "bench", "step", "--kind", job["kind"], "--base", job["base"], "--input", job["input"], "--dtype", dtype,
               "--steps", str(steps), "--threads", str(threads), "--device", job["device"], "--json"]
    if job["kind"] != "base":
        command += ["--adapter", job["adapter"]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"compare: {' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def compare(program, kind, size, clips, dtype, modes, rounds, steps, threads, device):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        job = write_job(folder, kind, size, clips, threads, device)
        sides = []
        try:
            for mode in modes:  # one after the other: all together they may not fit onto a GPU
                sides.append(TorchSide(folder, mode))
                sides[-1].run(1)  # build, compile, warm up: not counted
            ours, theirs = [], {side.mode: [] for side in sides}
            for _ in range(rounds):
                result = run_ours(program, job, dtype, steps, threads)
                ours += result["seconds"]
                for side in sides:
                    answer = side.run(steps)
                    theirs[side.mode] += answer["seconds"]
                    side.loss, side.peak = answer["loss"], answer["peak_mib"]
        finally:
            for side in sides:
                side.close()
        limit = 1e-4 if dtype == "f32" and not side.mode.endswith("bf16") else 5e-2
        for side in sides:
            if not abs(side.loss - result["loss"]) <= limit * abs(side.loss):
                raise SystemExit(f"compare: {kind} {size}: loss {result['loss']} differs from PyTorch {side.mode} {side.loss}")
    best = min(theirs, key=lambda mode: statistics.median(theirs[mode]))
    line = {"kind": kind, "size": size, "clips": clips, "dtype": dtype, "ours_s": statistics.median(ours), "torch_mode": best,
            "torch_s": statistics.median(theirs[best]), "torch_all_s": {m: statistics.median(v) for m, v in theirs.items()},
            "ours_peak_mib": result["peak_mib" if device == "cpu" else "peak_tensor_mib"], "torch_peak_mib": min(s.peak for s in sides)}
    line["ratio"] = line["torch_s"] / line["ours_s"]
    return line


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda: both sides")
    parser.add_argument("--only", help="one kind: avid, base or sample")
    parser.add_argument("--size", type=int, choices=(32, 64), help="one frame size")
    parser.add_argument("--dtype", choices=("f32", "bf16"), help="one type")
    parser.add_argument("--sdpa", action="store_true", help="PyTorch's fused attention too, eager and compiled")
    args = parser.parse_args()
    check_device("compare", args.device)
    gpu = args.device != "cpu"
    sizes = [(size, clips) for size, clips in (GPU_SIZES if gpu else SIZES).items()
             if args.size in (None, size) and (gpu or not (args.quick and size > 32))]
    dtypes = [args.dtype] if args.dtype else ["bf16" if gpu else "f32"] if args.quick else ["f32", "bf16"]
    rounds, steps = (3, 2) if args.quick else (5, 3)
    jobs = [(kind, size, clips, dtype) for dtype in dtypes for size, clips in sizes for kind in ("avid", "base", "sample")
            if args.only in (None, kind)]
    if not jobs:
        raise SystemExit("compare: nothing to compare | --only is avid, base or sample; --quick has 32x32 alone")
    lines = []
    print(f"{'line':28} {'ours s':>8} {'PyTorch s':>10} {'mode':>12} {'ratio':>6} {'ours MiB':>9} {'PyTorch MiB':>12}")
    for kind, size, clips, dtype in jobs:
        # Fused attention is for GPUs; compiled as well only when asked for, because compiling is most of the time.
        ways = ["eager", "compile"] + ["eager-sdpa"] * (gpu or args.sdpa) + ["compile-sdpa"] * args.sdpa
        modes = [way if dtype == "f32" else way + "-bf16" for way in ways]
        while True:
            try:
                line = compare(args.program, kind, size, clips, dtype, modes, rounds, steps, args.threads, args.device)
                break
            except PeerOutOfMemory as error:
                if clips == 1:
                    raise SystemExit(f"compare: {kind} {size}: PyTorch {error} has too little memory for one clip")
                print(f"{kind} {size}x{size}: PyTorch {error} has too little memory for {clips} clips: half as many", flush=True)
                clips //= 2
        lines.append(line)
        name = f"{kind} {size}x{size} B={clips} {dtype}"
        print(f"{name:28} {line['ours_s']:8.3f} {line['torch_s']:10.3f} {line['torch_mode']:>12} {line['ratio']:6.2f} "
              f"{line['ours_peak_mib']:9.0f} {line['torch_peak_mib']:12.0f}", flush=True)
    worst = min(lines, key=lambda line: line["ratio"])
    if args.json:
        report = {"torch": torch.__version__, "threads": args.threads, "device": args.device, "lines": lines}
        pathlib.Path(args.json).write_text(json.dumps(report, indent=1))
    print(f"slowest ratio {worst['ratio']:.2f} ({worst['kind']} {worst['size']}x{worst['size']} {worst['dtype']})")


if __name__ == "__main__":
    main()
