# bench/peers/ops.py -- every convolution and attention of a step, ours and PyTorch's, at the step's sizes, in one run
#
# `avid bench kernels --json` says which ops a step has, at which sizes, and times ours; here PyTorch does the same at
# the same sizes on the same device: the same modules as in unet.py, eager, with its fused attention, compiled. Rounds
# of both sides alternate. Before every single measurement other memory is read, so that no operand lies in a cache.
#
# A gradient (op ending in _bwd) is timed alone: PyTorch's forward pass before it is not counted, and may keep what it
# likes; ours computes most of it again. Both sides are given bf16 weights with --dtype bf16. Every row's FLOPs are
# counted in PyTorch, too: if they differ from what our op says by more than a tenth, the row is an error and not a time.
import argparse
import json
import pathlib
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import unet

MODES = ("eager", "sdpa", "compile")


class Conv(nn.Module):
    """A convolution of one or two sources."""

    def __init__(self, s, transposed=False):
        super().__init__()
        if any(s[name] != value for name, value in (("kernel_frames", 1), ("stride_frames", 1), ("padding_frames", 0))):
            raise NotImplementedError("extent over time")
        if s["kernel_height"] != s["kernel_width"] or s["stride_height"] != s["stride_width"] or s["padding_height"] != s["padding_width"]:
            raise NotImplementedError("kernels that are not square")
        self.conv = unet.FrameConv(s["channels"] + s.get("channels2", 0), s["outputs"], s["kernel_height"], stride=s["stride_height"],
                                   padding=s["padding_height"], transposed=transposed)

    def forward(self, x, x2=None):
        return self.conv(x if x2 is None else torch.cat((x, x2), dim=1))


class ConvNorm(nn.Module):
    """silu(film(rms_norm(conv([x | x2])))) + residual"""

    def __init__(self, s):
        super().__init__()
        self.proj, self.norm = Conv(s), unet.RmsNorm(s["outputs"])

    def forward(self, x, x2=None, film=None, residual=None):
        y = modulated(self.norm(self.proj(x, x2)), film)
        return y if residual is None else y + residual


class NormConv(nn.Module):
    """conv(silu(film(rms_norm(x))))"""

    def __init__(self, s):
        super().__init__()
        self.norm, self.proj = unet.RmsNorm(s["channels"]), Conv(s)

    def forward(self, x, film=None):
        return self.proj(modulated(self.norm(x), film))


def modulated(x, film):
    if film is not None:
        scale, shift = film[:, :, None, None].chunk(2, dim=1)
        x = x * (scale + 1) + shift
    return F.silu(x)


class Temporal(nn.Module):
    def __init__(self, s):
        super().__init__()
        rotary = unet.Rotary(min(32, s["head_dim"]))
        self.block = unet.Residual(unet.PreNorm(s["channels"], unet.TemporalAttention(s["channels"], s["heads"], s["head_dim"], rotary)))
        self.bias, self.frames = unet.RelativeBias(s["heads"]), s["frames"]

    def forward(self, x):
        return self.block(x, bias=self.bias(self.frames, x.device).to(x.dtype), frames=self.frames)


def within_frames(attention):
    def make(s):
        return unet.Residual(unet.PreNorm(s["channels"], attention(s["channels"], s["heads"], s["head_dim"])))
    return make


MAKERS = {"conv3d": Conv, "conv_transpose3d": lambda s: Conv(s, transposed=True), "conv3d_norm_film_silu": ConvNorm,
          "norm_film_silu_conv3d": NormConv, "temporal_attention": Temporal, "linear_attention": within_frames(unet.LinearAttention),
          "spatial_attention": within_frames(unet.SpatialAttention)}


class Case:
    """What one row of ours is in PyTorch: run(timer) does it once and lets `timer` measure it."""

    def __init__(self, op, sizes, device, dtype, mode):
        name, self.backward = op.removesuffix("_bwd"), op.endswith("_bwd")
        if name not in MAKERS:
            raise NotImplementedError(f"no {name} in PyTorch here")
        s = sizes
        module = MAKERS[name](s).to(device, dtype)
        frames, plane = s["clips"] * s["frames"], (s["height"], s["width"])

        def images(channels):
            return torch.randn(frames, channels, *plane, device=device, dtype=dtype).to(memory_format=torch.channels_last)

        self.inputs = {"x": images(s["channels"])}
        if s.get("channels2", 0) > 0:
            self.inputs["x2"] = images(s["channels2"])
        if s.get("film", 0):
            self.inputs["film"] = torch.randn(frames, 2 * s["channels" if name == "norm_film_silu_conv3d" else "outputs"], device=device, dtype=dtype)
        if s.get("residual", 0):
            self.inputs["residual"] = images(s["outputs"])
        self.wanted = []
        if self.backward:
            if "attention" in name or s.get("data", 0):
                for value in self.inputs.values():
                    self.wanted.append(value.requires_grad_())
            if "attention" in name or s.get("weights", 0):
                self.wanted += [p for p in module.parameters() if p.requires_grad]
            if name == "norm_film_silu_conv3d":  # its weights have an op of their own
                self.wanted.append(module.norm.gamma)
        if self.backward:
            with torch.no_grad():
                self.d_out = torch.randn_like(module(**self.inputs))
        self.f = torch.compile(module, dynamic=False) if mode == "compile" else module

    def run(self, timer):
        if not self.backward:
            with torch.no_grad():
                return timer(lambda: self.f(**self.inputs))
        out = self.f(**self.inputs)
        return timer(lambda: torch.autograd.grad(out, self.wanted, self.d_out))


def check_flops(row, device, dtype):
    """The same work on both sides? By PyTorch's own count of products."""
    counted = 0

    def count(f):
        nonlocal counted
        with FlopCounterMode(display=False) as counter:
            f()
        counted = counter.get_total_flops()

    unet.Attention.use_sdpa = False
    Case(row["op"], row["sizes"], device, dtype, "eager").run(count)
    if not abs(1e-9 * counted - row["gflop"]) <= 0.1 * row["gflop"]:
        raise SystemExit(f"ops: {row['op']} {row['size']}: {row['gflop']:.4f} GFLOP, but PyTorch's has {1e-9 * counted:.4f}")


def flush_bytes(cache_bytes):
    """As ours (kernels/vendor/cuda_stopwatch.h): a power of two, twice a second-level cache of so many bytes, or more."""
    return 1 << (2 * cache_bytes - 1).bit_length() if cache_bytes > 0 else 128 << 20


class Timer:
    def __init__(self, device):
        self.on_gpu = device.type == "cuda"
        other = flush_bytes(torch.cuda.get_device_properties(device).L2_cache_size) if self.on_gpu else 64 << 20
        self.other = torch.zeros(other // 4, device=device)  # read before every start

    def __call__(self, f):
        """Milliseconds of f()."""
        if self.on_gpu:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self.other.sum()
            start.record()
            f()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)
        self.other.sum()
        begin = time.perf_counter()
        f()
        return 1e3 * (time.perf_counter() - begin)


def modes_of(op, wanted):
    """Fused attention is another program only where there is a softmax over keys; compiling one convolution changes nothing."""
    one_conv = op.removesuffix("_bwd") in ("conv3d", "conv_transpose3d")
    has_softmax = op.startswith(("temporal_attention", "spatial_attention"))
    return [mode for mode in wanted if not (mode == "sdpa" and not has_softmax) and not (mode == "compile" and one_conv)]


def time_theirs(rows, modes, device, dtype, steps, timer, times, refusals, end):
    for row in rows:
        for mode in modes_of(row["op"], modes):
            key = (row["key"], mode)
            if key in refusals:
                continue
            if time.monotonic() > end:
                if key not in times:
                    refusals[key] = "no time left"
                continue
            try:
                if key not in times:
                    check_flops(row, device, dtype)
                unet.Attention.use_sdpa = mode == "sdpa"
                case = Case(row["op"], row["sizes"], device, dtype, mode)
                for _ in range(2):  # chooses algorithms, compiles, gets its memory: not counted
                    case.run(timer)
                times.setdefault(key, []).extend(case.run(timer) for _ in range(steps))
            except torch.cuda.OutOfMemoryError:
                refusals[key] = "too little memory"
            except NotImplementedError as error:
                refusals[key] = str(error)
            case = None
            if mode == "compile":
                torch._dynamo.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()  # ours need it meanwhile


def run_ours(program, words, steps):
    command = [program, "bench", "kernels", *words, "--no-libraries", "--steps", str(steps), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"ops: {' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)["products"]


def key_of(row):
    return json.dumps([row["op"], row["sizes"]], sort_keys=True)


def lines_of(ours, times, refusals, modes):
    lines = []
    for key, (row, samples) in ours.items():
        theirs = {mode: statistics.median(times[(key, mode)]) for mode in modes if (key, mode) in times}
        line = {"op": row["op"], "size": row["size"], "sizes": row["sizes"], "calls": row["calls"], "gflop": row["gflop"], "ours_ms": statistics.median(samples),
                "torch_all_ms": theirs, "refusals": {mode: refusals[(key, mode)] for mode in modes if (key, mode) in refusals}}
        if theirs:
            line["torch_mode"] = min(theirs, key=theirs.get)
            line["torch_ms"] = theirs[line["torch_mode"]]
            line["ratio"] = line["torch_ms"] / line["ours_ms"]
        lines.append(line)
    return sorted(lines, key=lambda line: -line["calls"] * line["ours_ms"])


def sums_of(lines):
    sums = {}
    for family in ("attention", "conv"):
        both = [line for line in lines if family in line["op"] and "ratio" in line]
        if both:
            ours, theirs = (sum(line["calls"] * line[side] for line in both) for side in ("ours_ms", "torch_ms"))
            sums[family] = {"ours_ms": ours, "torch_ms": theirs, "ratio": theirs / ours}
    return sums


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--kind", default="base", choices=("avid", "base", "sample"), help="the step whose ops are compared")
    parser.add_argument("--config", required=True)
    parser.add_argument("--base-config")
    parser.add_argument("--clips", type=int)
    parser.add_argument("--device", default="cpu", help="cpu or cuda: both sides")
    parser.add_argument("--dtype", default="f32", choices=("f32", "bf16"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--modes", default=",".join(MODES[:2]), help="of eager, sdpa, compile (default: the first two)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="measurements of a round")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="PyTorch begins nothing new after so many")
    parser.add_argument("--only", help="ops whose name contains this")
    parser.add_argument("--json")
    args = parser.parse_args()
    modes = args.modes.split(",")
    if not set(modes) <= set(MODES):
        raise SystemExit(f"ops: --modes: expected some of {', '.join(MODES)}, got {args.modes}")
    unet.check_device("ops", args.device)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    device, dtype = torch.device(args.device), {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    words = ["--kind", args.kind, "--config", args.config, "--device", args.device, "--dtype", args.dtype, "--threads", str(args.threads)]
    words += ["--base-config", args.base_config] if args.base_config else []
    words += ["--clips", str(args.clips)] if args.clips else []
    timer, ours, times, refusals = Timer(device), {}, {}, {}
    end = time.monotonic() + args.seconds
    for _ in range(args.rounds):
        rows = [row | {"key": key_of(row)} for row in run_ours(args.program, words, args.steps) if args.only is None or args.only in row["op"]]
        if not rows:
            raise SystemExit(f"ops: nothing to compare | --only: no convolution or attention of this step is called *{args.only}*")
        for row in rows:
            ours.setdefault(row["key"], (row, []))[1].append(row["ms"])
        time_theirs(rows, modes, device, dtype, args.steps, timer, times, refusals, end)
    lines = lines_of(ours, times, refusals, modes)
    print(f"{'op':26} {'size':46} {'calls':>6} {'ours ms':>9} {'PyTorch ms':>11} {'mode':>8} {'ratio':>6}")
    for line in lines:
        head = f"{line['op']:26} {line['size']:46} {line['calls']:6g} {line['ours_ms']:9.3f} "
        if "ratio" in line:
            print(head + f"{line['torch_ms']:11.3f} {line['torch_mode']:>8} {line['ratio']:6.2f}")
        else:
            print(head + f"{'-':>11} {next(iter(line['refusals'].values()), '')}")
    sums = sums_of(lines)
    for family, of in sums.items():
        print(f"per {args.kind} step, {family}: ours {of['ours_ms']:.3f} ms, PyTorch's best {of['torch_ms']:.3f} ms: ratio {of['ratio']:.2f}")
    worst = min((line for line in lines if "ratio" in line), key=lambda line: line["ratio"], default=None)
    if args.json:
        report = {"torch": torch.__version__, "threads": args.threads, "device": args.device, "dtype": args.dtype, "kind": args.kind,
                  "config": args.config, **{f"{family}_ratio": of["ratio"] for family, of in sums.items()},
                  "slowest_ratio": worst["ratio"] if worst else None, "sums": sums, "lines": lines}
        pathlib.Path(args.json).write_text(json.dumps(report, indent=1))
    if worst is None:
        raise SystemExit("ops: PyTorch could do none of these")
    print(f"slowest ratio {worst['ratio']:.2f} ({worst['op']} {worst['size']})")


if __name__ == "__main__":
    main()
