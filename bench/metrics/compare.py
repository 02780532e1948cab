"""SSIM, PSNR, LPIPS, FID and FVD of `avid metrics` against the public Python packages: values and CPU time, one run.

    pip install -r bench/metrics/requirements.txt
    python bench/metrics/compare.py --program build/avid [--weights DIR] [--clips 8] [--json FILE]

Weights: both sides get the same. With --weights those that `avid weights convert` wrote into DIR; metrics without
weights there are left out. Without it made-up ones (an integer hash of each tensor's name, scaled to keep activations
near 1), since the pretrained trunks cannot be had everywhere; LPIPS then uses the official heads, which the package
lpips brings along. Values must agree whatever the weights are; the clips are made up, so they mean nothing as scores.

Time: CPU seconds per clip on one thread, of scoring videos that are in memory: ours as the program itself counts it
(scoring_cpu_seconds, intervals included), the packages' around the call. A program has start-up costs that a call
inside Python has not (reading weights), so both are charged for the difference between N clips and N/2 clips. What the
whole program took, with reading the files and hashing every frame for the record, stands beside it. CPU time and not
wall time, so that a busy machine does not matter much. The best of --repeats counts.
"""
import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy.linalg
import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)

_sqrtm = scipy.linalg.sqrtm
# Newer SciPy dropped the argument that both FID and FVD packages pass.
scipy.linalg.sqrtm = lambda a, disp=True: _sqrtm(a) if disp else (_sqrtm(a), 0.0)


def hash_tensor(prefix, name, shape):
    seed = 0x811C9DC5
    for c in (prefix + name).encode():
        seed = (seed ^ c) * 0x01000193 & 0xFFFFFFFF
    j = np.arange(int(np.prod(shape)), dtype=np.uint64)
    h = (seed + j * 0x9E3779B9) & 0xFFFFFFFF
    h = ((h ^ h >> np.uint64(16)) * np.uint64(0x85EBCA6B)) & np.uint64(0xFFFFFFFF)
    h = ((h ^ h >> np.uint64(13)) * np.uint64(0xC2B2AE35)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(16)
    u = h.astype(np.float64) / 2**32 - 0.5
    if len(shape) > 1:
        u *= np.sqrt(24 / np.prod(shape[1:]))
    elif name.endswith("bn.weight"):
        u = 1 + 0.2 * u
    elif name.endswith("running_var"):
        u = 1 + u
    else:
        u *= 0.2
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


def hashed_state(model, prefix):
    state = {k: hash_tensor(prefix, k, tuple(v.shape)) for k, v in model.state_dict().items() if v.is_floating_point()}
    model.load_state_dict(state, strict=False)
    model.eval()
    return state


def clips(count, seed=3):
    """Moving blobs, 10 frames of 64x64, and a disturbed copy: u8 [N,T,H,W,3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:64, 0:64]
    real = np.zeros((count, 10, 64, 64, 3))
    for n in range(count):
        for _ in range(6):
            cy, cx, vy, vx = rng.uniform(0, 64, 2).tolist() + rng.uniform(-3, 3, 2).tolist()
            colour, width = rng.uniform(0, 255, 3), rng.uniform(3, 12)
            for t in range(10):
                d = (y - cy - vy * t) ** 2 + (x - cx - vx * t) ** 2
                real[n, t] += np.exp(-d / width**2)[..., None] * colour
    real = np.clip(real, 0, 255)
    made = np.clip(np.roll(real, 1, axis=3) * 0.95 + rng.normal(0, 8, real.shape), 0, 255)
    return real.astype(np.uint8), made.astype(np.uint8)


def resized(images, size):
    """u8 [N,H,W,3] -> u8 [N,size,size,3], truncated: the protocol's resize."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False).byte()


VGG_CONVS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # in torchvision's `features`


class Peers:
    """Each method: (real, made) u8 clips -> value."""

    def __init__(self, folder, keys, weights=None):
        """Makes the networks that these metrics need, and writes made-up weights for the program unless a folder of
        converted ones is given."""
        self.weights = weights
        if "lpips" in keys:
            self.make_lpips(folder)
        if "fid" in keys:
            self.make_inception(folder)
        if "fvd_i3d" in keys:
            self.make_i3d(folder)

    def make_lpips(self, folder):
        import lpips
        from torchmetrics.functional.image.lpips import _LPIPS

        self.lpips = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        trunk = [m for m in self.lpips.net.modules() if isinstance(m, torch.nn.Conv2d)]
        weights = {}
        for conv, index in zip(trunk, VGG_CONVS, strict=True):
            for part in ("weight", "bias"):
                name = f"features.{index}.{part}"
                weights[name] = hash_tensor("lpips.", name, tuple(getattr(conv, part).shape))
        heads = [f"lin{i}.model.1.weight" for i in range(5)]
        for i, name in enumerate(heads):
            weights[name] = getattr(self.lpips, f"lin{i}").model[1].weight.data.contiguous()
        weights = self.given("lpips-vgg", weights)
        for conv, index in zip(trunk, VGG_CONVS, strict=True):
            conv.weight.data, conv.bias.data = (weights[f"features.{index}.{part}"] for part in ("weight", "bias"))
        self.lpips_tm = _LPIPS(net="vgg", pnet_rand=True, pretrained=True)
        twin = [m for m in self.lpips_tm.net.modules() if isinstance(m, torch.nn.Conv2d)]
        for a, b in zip(trunk, twin, strict=True):
            b.weight.data, b.bias.data = a.weight.data, a.bias.data
        for i, name in enumerate(heads):
            for package in (self.lpips, self.lpips_tm):
                getattr(package, f"lin{i}").model[1].weight.data = weights[name]
        self.save(folder, "lpips-vgg", weights)

    def make_inception(self, folder):
        import pytorch_fid.inception

        # Its constructor downloads; everything else is the package's.
        pytorch_fid.inception.load_state_dict_from_url = lambda *a, **k: {}
        whole = torch.nn.Module.load_state_dict
        torch.nn.Module.load_state_dict = lambda self, state, *a, **k: whole(self, state, strict=False)
        inception = pytorch_fid.inception.fid_inception_v3()
        torch.nn.Module.load_state_dict = whole
        state = self.given("fid-inception", hashed_state(inception, "inception."))
        inception.load_state_dict(state, strict=False)
        self.save(folder, "fid-inception", {k: v for k, v in state.items() if not k.startswith("fc.")})
        pytorch_fid.inception.fid_inception_v3 = lambda: inception
        self.inception = pytorch_fid.inception.InceptionV3([3], resize_input=False, normalize_input=True).eval()

    def make_i3d(self, folder):
        from cdfvd.fvd import cdfvd
        from cdfvd.third_party.i3d.pytorch_i3d import InceptionI3d

        i3d = InceptionI3d(400, in_channels=3)
        state = self.given("i3d-k400", hashed_state(i3d, "i3d."))
        i3d.load_state_dict(state, strict=False)
        self.save(folder, "i3d-k400", state)
        path = os.path.join(folder, "i3d.pt")
        torch.save(i3d.state_dict(), path)
        self.fvd = lambda: cdfvd("i3d", ckpt_path=path, device="cpu", verbose=False)

    def given(self, name, made_up):
        return load_file(os.path.join(self.weights, name + ".safetensors")) if self.weights else made_up

    def save(self, folder, name, tensors):
        if self.weights:
            return
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        save_file(tensors, os.path.join(folder, name + ".safetensors"), {"arch": name, "source_sha256": "made up"})

    @staticmethod
    def frames(videos, scale):
        x = torch.from_numpy(videos.reshape(-1, *videos.shape[2:])).permute(0, 3, 1, 2).float() / 255
        return x if scale == 1 else x * 2 - 1

    def psnr_torchmetrics(self, real, made):
        from torchmetrics.functional.image import peak_signal_noise_ratio as psnr

        return float(psnr(self.frames(made, 1), self.frames(real, 1), data_range=1.0, dim=(1, 2, 3)))

    def ssim_torchmetrics(self, real, made):
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        return float(ssim(self.frames(made, 1), self.frames(real, 1), data_range=1.0))

    def ssim_valid_skimage(self, real, made):
        from skimage.metrics import structural_similarity as ssim

        pairs = zip(made.reshape(-1, *made.shape[2:]) / 255, real.reshape(-1, *real.shape[2:]) / 255)
        return float(np.mean([
            ssim(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=2)
            for a, b in pairs]))

    @torch.no_grad()
    def lpips_torchmetrics(self, real, made):
        a, b = self.frames(made, 2), self.frames(real, 2)
        return float(np.mean([float(self.lpips_tm(x, y).mean()) for x, y in zip(a.split(8), b.split(8))]))

    @torch.no_grad()
    def lpips_original(self, real, made):
        a, b = self.frames(made, 2), self.frames(real, 2)
        return float(np.mean([float(self.lpips(x, y).mean()) for x, y in zip(a.split(8), b.split(8))]))

    @torch.no_grad()
    def fid_pytorch_fid(self, real, made):
        from pytorch_fid.fid_score import calculate_frechet_distance

        moments = []
        for videos in (real, made):
            images = resized(videos.reshape(-1, *videos.shape[2:]), 299).float() / 255
            features = torch.cat([self.inception(x)[0][:, :, 0, 0] for x in images.split(16)]).double().numpy()
            moments += [features.mean(0), np.cov(features, rowvar=False)]
        return float(calculate_frechet_distance(*moments))

    def fvd_cdfvd(self, real, made):
        big = [resized(v.reshape(-1, *v.shape[2:]), 224).permute(0, 2, 3, 1).reshape(*v.shape[:2], 224, 224, 3).numpy()
               for v in (real, made)]
        with torch.no_grad():
            return float(self.fvd().compute_fvd(*big))


# name, our key, our options, peer, relative difference allowed. The FID and FVD packages take a general root of a
# singular product when there are fewer samples than features; what that loses is theirs.
LINES = [
    ("PSNR, torchmetrics", "psnr", [], "psnr_torchmetrics", 1e-5),
    ("SSIM, torchmetrics", "ssim", [], "ssim_torchmetrics", 1e-4),
    ("SSIM valid region, scikit-image", "ssim", ["--set", "ssim.crop=valid"], "ssim_valid_skimage", 1e-5),
    ("LPIPS, torchmetrics", "lpips", [], "lpips_torchmetrics", 1e-4),
    ("LPIPS, lpips", "lpips", ["--set", "lpips.norm=original"], "lpips_original", 1e-4),
    ("FID, pytorch-fid", "fid", [], "fid_pytorch_fid", 1e-2),
    ("FVD, cd-fvd", "fvd_i3d", [], "fvd_cdfvd", 1e-2),
]


NETWORKS = {"lpips": "lpips-vgg", "fid": "fid-inception", "fvd_i3d": "i3d-k400"}


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_ours(program, folder, data, key, options):
    """CPU seconds of the scoring, of the whole program, and the value."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [program, "metrics", "--real", f"{data}:real", "--generated", f"{data}:made", "--metrics", key, "--weights",
         folder, "--allow-unofficial", "--json", *options],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if result.returncode != 0:
        sys.exit(result.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = json.loads(result.stdout)
    program_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return record["scoring_cpu_seconds"], program_seconds, record[key]


def run_peer(function, real, made):
    begin = time.process_time()
    value = function(real, made)
    return time.process_time() - begin, value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/avid")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", default="psnr,ssim,lpips,fid,fvd_i3d", help="keys of avid metrics, comma-separated")
    parser.add_argument("--weights", help="folder of converted weights; without it both sides get made-up ones")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    from importlib.metadata import version

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        keys = arguments.only.split(",")
        digests = "made up, see compare.py"
        if arguments.weights:
            files = {k: os.path.join(arguments.weights, NETWORKS[k] + ".safetensors") for k in keys if k in NETWORKS}
            for key, file in files.items():
                if not os.path.exists(file):
                    print(f"{key}: left out, no {file}")
                    keys.remove(key)
            digests = {NETWORKS[k]: sha256_of(f) for k, f in files.items() if k in keys}
        peers = Peers(folder, keys, arguments.weights)
        real, made = clips(arguments.clips)
        half = arguments.clips // 2
        for count in (half, arguments.clips):
            save_file({"real": torch.from_numpy(real[:count]), "made": torch.from_numpy(made[:count])},
                      os.path.join(folder, f"{count}.safetensors"))
        for name, key, options, peer, tolerance in LINES:
            if key not in keys:
                continue
            function = getattr(peers, peer)
            times = {(side, count): [] for side in ("ours", "program", "peer") for count in (half, arguments.clips)}
            function(real[:1], made[:1]) if not key.startswith("f") else None  # imports, first allocations
            for _ in range(arguments.repeats):
                for count in (half, arguments.clips):
                    data = os.path.join(folder, f"{count}.safetensors")
                    seconds, program_seconds, ours = run_ours(
                        arguments.program, arguments.weights or folder, data, key, options)
                    times["ours", count].append(seconds)
                    times["program", count].append(program_seconds)
                    seconds, theirs = run_peer(function, real[:count], made[:count])
                    times["peer", count].append(seconds)
            per_clip = {
                side: (min(times[side, arguments.clips]) - min(times[side, half])) / (arguments.clips - half)
                for side in ("ours", "program", "peer")}
            relative = abs(ours - theirs) / max(abs(theirs), 1e-12)
            rows.append({
                "line": name, "ours": ours, "peer": theirs, "relative_difference": relative,
                "agrees": relative <= tolerance, "ours_cpu_s_per_clip": per_clip["ours"],
                "our_program_cpu_s_per_clip": per_clip["program"],
                "peer_cpu_s_per_clip": per_clip["peer"], "ratio": per_clip["peer"] / max(per_clip["ours"], 1e-6)})
            row = rows[-1]
            print(f"{name:32s} ours {ours:.6g}  peer {theirs:.6g}  difference {relative:.1e}"
                  f"{'' if row['agrees'] else '  DISAGREES'}   CPU ms per clip {1e3 * per_clip['ours']:.2f} | "
                  f"{1e3 * per_clip['peer']:.2f}  ratio {row['ratio']:.2f}", flush=True)
    if arguments.json:
        packages = ("torch", "torchmetrics", "scikit-image", "lpips", "pytorch-fid", "cd-fvd", "scipy", "numpy")
        record = {"clips": arguments.clips, "frames": 10, "size": 64, "threads": 1,
                  "weights": digests, "packages": {p: version(p) for p in packages}, "rows": rows}
        with open(arguments.json, "w") as file:
            json.dump(record, file, indent=1)
            file.write("\n")
    worst = min(rows, key=lambda r: r["ratio"])
    print(f"slowest ratio {worst['ratio']:.2f} ({worst['line']})")
    sys.exit(0 if all(r["agrees"] for r in rows) else 1)


if __name__ == "__main__":
    main()
