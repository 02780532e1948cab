"""Makes the small files that the reader tests open, with PyTorch, NumPy and safetensors themselves.

    python tests/golden/files/make.py        (needs torch, numpy, safetensors; the results are in the repository)

Values follow formulas that the tests repeat, so no second copy of the numbers is needed.
"""
import argparse
import collections
import io
import os
import pickle
import zipfile

import numpy as np
import safetensors.torch
import torch

HERE = os.path.dirname(os.path.abspath(__file__))


def path(name):
    return os.path.join(HERE, name)


def ramp(*shape, dtype=torch.float32, scale=0.25, offset=-1.0):
    n = int(np.prod(shape))
    return (torch.arange(n, dtype=torch.float64) * scale + offset).to(dtype).reshape(shape)


def tensors():
    shared = ramp(4, 6)
    return {
        "f32": ramp(2, 3, 5),
        "f64": ramp(3, dtype=torch.float64),
        "f16": ramp(7, dtype=torch.float16),
        "bf16": ramp(2, 3, dtype=torch.bfloat16),
        "i64": ramp(4, dtype=torch.int64, scale=1e12),
        "i32": ramp(2, 2, dtype=torch.int32, scale=3),
        "u8": ramp(2, 4, dtype=torch.uint8, scale=9, offset=0),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "i16": ramp(3, dtype=torch.int16, scale=1),
        "transposed": shared.t(),
        "strided": shared[1:, ::2],
        "row": shared[2],
        "expanded": torch.tensor([1.5, -2.5]).reshape(1, 2).expand(3, 2),
        "permuted": ramp(2, 3, 4).permute(2, 0, 1),
    }


class Recorder:
    """Pickles as a call of a function that must never be called."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Scripted(torch.nn.Module):
    """Nested modules, parameters, buffers, a list: what a TorchScript archive keeps beside its program."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1, bias=False), torch.nn.BatchNorm2d(3))
        self.first[0].weight.data = ramp(3, 2, 1, 1)
        self.first[1].running_mean = ramp(3)
        self.sizes: list[int] = [4, 5]
        self.eval()

    def forward(self, x):
        return self.first(x) + float(self.sizes[0])


def torch_files():
    torch.save(tensors(), path("tensors.pt"))
    torch.save(tensors(), path("tensors_protocol5.pt"), pickle_protocol=5)
    torch.save(ramp(2, 2), path("bare.pt"))
    torch.save(tensors(), path("tensors_legacy.pt"), _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(Scripted()), path("script.pt"))

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for i, p in enumerate(module.parameters()):
        p.data = ramp(*p.shape, offset=float(i))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    module(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    for i, p in enumerate(module.parameters()):
        p.data = ramp(*p.shape, offset=float(i))
    checkpoint = {
        "epoch": 3,
        "global_step": 123456789012,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": module.state_dict(),
        "parameter": torch.nn.Parameter(ramp(2)),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"base_lrs": [0.001], "milestones": collections.Counter({10: 1})}],
        "callbacks": {"best": None, "seen": {1, 2}, "raw": b"\x00\xff", "flags": (True, False)},
        "hyper_parameters": collections.OrderedDict(lr=0.001, big=1 << 80, negative=-5, sizes=torch.Size([2, 3])),
    }
    torch.save(checkpoint, path("lightning.ckpt"))
    checkpoint["hyper_parameters"] = argparse.Namespace(lr=0.001, layers=[1, 2])
    torch.save(checkpoint, path("unknown_class.ckpt"))

    # What an attacker would send; the readers under test never call anything.
    torch.save({"weight": ramp(2), "payload": Recorder(os.system, "touch avid_was_here")}, path("malicious_os_system.pt"))
    torch.save({"payload": Recorder(eval, "1+1"), "weight": ramp(2)}, path("malicious_eval.pt"))

    # The same checkpoint, packed again with deflate by another program.
    with zipfile.ZipFile(path("tensors.pt")) as source, zipfile.ZipFile(path("tensors_deflated.pt"), "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(zipfile.ZipInfo(name), source.read(name), zipfile.ZIP_DEFLATED)


def model_four_times():
    """A Lightning checkpoint in the layout of the research code: online model, its average, and both once more."""
    def weights(name):
        return safetensors.torch.load_file(os.path.join(HERE, "..", "pixel", "ddpm", name + ".safetensors"))

    online = {"model." + k: v for k, v in weights("base").items()} | weights("adapter")
    # Two tensors tell the average from the online weights; the others share their memory.
    averaged = dict(online)
    for name in ("model.init_conv.bias", "mixture_conv.bias"):
        averaged[name] = online[name] + 1
    buffers = {name: torch.zeros(8) for name in ("betas", "alphas_cumprod", "loss_weight")}
    state = collections.OrderedDict()
    for copy, tensors in (("diffusion_model", online), ("ema.online_model", online), ("ema.ema_model", averaged), ("eval_model", averaged)):
        state |= {f"{copy}.{k}": v for k, v in (buffers | tensors).items()}
    state["ema.initted"] = torch.tensor(True)
    state["ema.step"] = torch.tensor(520000)
    torch.save({"epoch": 1, "global_step": 40000, "pytorch-lightning_version": "2.3.3", "state_dict": state, "loops": {}}, path("model_four_times.ckpt"))


class Unseekable(io.RawIOBase):
    """A pipe: zipfile then leaves the sizes to a data descriptor behind each member."""

    def __init__(self, file):
        self.file = file

    def writable(self):
        return True

    def write(self, data):
        return self.file.write(data)


def arrays():
    return {
        "obs": (np.arange(2 * 4 * 4 * 3) * 7 % 256).astype(np.uint8).reshape(2, 4, 4, 3),
        "act": np.arange(2, dtype=np.int64) - 1,
        "rew": np.zeros(0, dtype=np.float64),
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3) * 0.5,
        "f2": np.arange(5, dtype=np.float16) * 0.5,
        "i4": np.arange(3, dtype=np.int32) * 3,
        "b1": np.array([True, False]),
        "scalar": np.array(2.5),
        "i2": np.arange(3, dtype=np.int16),
        "big": np.arange(3, dtype=">f4"),
    }


def numpy_files():
    np.savez(path("arrays.npz"), **arrays())
    np.savez_compressed(path("arrays_deflated.npz"), **arrays())
    with open(path("arrays_streamed.npz"), "wb") as file:
        np.savez(Unseekable(file), **arrays())
    np.savez(path("fortran.npz"), a=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    np.savez(path("objects.npz"), a=np.array([{"a": 1}, None], dtype=object))
    np.savez(path("structured.npz"), a=np.zeros(2, dtype=[("x", "<f4"), ("y", "<i4")]))
    np.save(path("array.npy"), np.arange(6, dtype=np.float32).reshape(2, 3) * 0.5)


def numpy_pickles():
    """Weights as JAX packages ship them. Protocol 3 under the names of NumPy before version 2, whose pickles are around."""
    tree = {
        "params": {
            "Branch_0/Conv": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4) * 0.5 - 1, "bias": np.arange(4, dtype=np.float32)},
            "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
            "list": [np.arange(300, dtype=np.int64) - 1, np.array(3.0, np.float32)],
        },
        "i2": np.arange(3, dtype=np.int16),
        "f2": np.arange(5, dtype=np.float16) * 0.5,
        "empty": np.zeros((0, 3), np.float32),
        "b1": np.array([True, False]),
        "note": "text",
        "steps": 7,
    }
    for protocol in (3, 4, 5):
        data = pickle.dumps(tree, protocol).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        with open(path(f"arrays_p{protocol}.pickle"), "wb") as file:
            file.write(data)
    for name, bad in (("big", np.arange(3, dtype=">f4")), ("objects", np.array([{"a": 1}, None], dtype=object)), ("p2", np.arange(200, dtype=np.float32))):
        with open(path(f"{name}.pickle"), "wb") as file:
            pickle.dump({"a": bad}, file, 2 if name == "p2" else 4)


def safetensors_files():
    t = {k: v.contiguous() for k, v in tensors().items() if k not in ("expanded",)}
    t["expanded"] = tensors()["expanded"].clone()
    safetensors.torch.save_file(t, path("tensors.safetensors"), metadata={"format": "pt", "note": "h\u00e9llo"})


if __name__ == "__main__":
    torch_files()
    model_four_times()
    numpy_files()
    numpy_pickles()
    safetensors_files()
