# bench/peers/unet.py -- the pixel-space U-Net and AVID in PyTorch: oracle for fixtures, opponent in benchmarks
#
# Written from the specification, with the tensor names of the original checkpoints. Activations are frames
# [B*T, C, H, W], so that torch.channels_last applies to every convolution; no convolution has temporal extent.
import math

import torch
import torch.nn.functional as F
from torch import nn


class RmsNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.scale = channels**0.5

    def forward(self, x):
        return F.normalize(x, dim=1) * self.scale * self.gamma[None, :, 0]


class PreNorm(nn.Module):
    """Channel LayerNorm without bias before an attention."""

    def __init__(self, channels, fn):
        super().__init__()
        self.norm = nn.Module()
        self.norm.gamma = nn.Parameter(torch.ones(1, channels, 1, 1, 1))
        self.fn = fn

    def forward(self, x, **kwargs):
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return self.fn((x - mean) * (variance + 1e-5).rsqrt() * self.norm.gamma[:, :, 0], **kwargs)


class Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x, **kwargs):
        return x + self.fn(x, **kwargs)


class FrameConv(nn.Module):
    """A (1,k,k) convolution: stored with a time axis, run on frames."""

    def __init__(self, c_in, c_out, kernel, stride=1, padding=0, transposed=False):
        super().__init__()
        shape = (c_in, c_out, 1, kernel, kernel) if transposed else (c_out, c_in, 1, kernel, kernel)
        bound = 1.0 / math.sqrt(math.prod(shape[1:]))
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(c_out).uniform_(-bound, bound))
        self.stride, self.padding, self.transposed = stride, padding, transposed

    def forward(self, x):
        conv = F.conv_transpose2d if self.transposed else F.conv2d
        return conv(x, self.weight[:, :, 0], self.bias, stride=self.stride, padding=self.padding)


class Block(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.proj = FrameConv(c_in, c_out, 3, padding=1)
        self.norm = RmsNorm(c_out)

    def forward(self, x, scale_shift=None):
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return F.silu(x)


class ResnetBlock(nn.Module):
    def __init__(self, c_in, c_out, cond_width=None):
        super().__init__()
        if cond_width is not None:
            self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(cond_width, 2 * c_out))
        self.block1 = Block(c_in, c_out)
        self.block2 = Block(c_out, c_out)
        self.res_conv = FrameConv(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.has_film = cond_width is not None

    def forward(self, x, cond=None):
        scale_shift = None
        if self.has_film:
            scale_shift = self.mlp(cond)[:, :, None, None].chunk(2, dim=1)  # cond [B*T, 8d]
        return self.block2(self.block1(x, scale_shift)) + self.res_conv(x)


class LinearAttention(nn.Module):
    def __init__(self, channels, heads, head_dim=32):
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_dim, channels, 1)

    def forward(self, x):
        n, _, h, w = x.shape
        q, k, v = (z.reshape(n, self.heads, -1, h * w) for z in self.to_qkv(x).chunk(3, dim=1))
        q = q.softmax(dim=-2) * self.scale
        k = k.softmax(dim=-1)
        context = torch.einsum("bhin,bhjn->bhij", k, v)
        out = torch.einsum("bhij,bhin->bhjn", context, q)
        return self.to_out(out.reshape(n, -1, h, w))


class Rotary(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.freqs = nn.Parameter(10000.0 ** (-torch.arange(0, dims, 2).float() / dims), requires_grad=False)

    def forward(self, x):  # [..., T, D]
        frames, rotated = x.shape[-2], 2 * self.freqs.shape[0]
        angles = (torch.arange(frames, device=x.device)[:, None] * self.freqs).repeat_interleave(2, dim=-1).to(x.dtype)
        head, rest = x[..., :rotated], x[..., rotated:]
        even, odd = head[..., 0::2], head[..., 1::2]
        turned = torch.stack((-odd, even), dim=-1).flatten(-2)
        return torch.cat((head * angles.cos() + turned * angles.sin(), rest), dim=-1)


class Attention(nn.Module):
    """Softmax attention over the second-to-last axis of [..., N, C]."""

    use_sdpa = False  # of all: PyTorch's fused kernels instead of two products and a softmax

    def __init__(self, channels, heads, head_dim, rotary=None):
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.to_qkv = nn.Linear(channels, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, channels, bias=False)
        if rotary is not None:
            self.rotary_emb = rotary
        self.has_rotary = rotary is not None

    def forward(self, x, bias=None):
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for z in self.to_qkv(x).chunk(3, dim=-1))
        q = q * self.scale
        if self.has_rotary:
            q, k = self.rotary_emb(q), self.rotary_emb(k)
        lead = q.shape[:-3]
        if Attention.use_sdpa and lead.numel() < 65536:  # the fused kernels take one batch dimension, of a grid's size
            mask = None if bias is None else bias.to(q.dtype)[None].expand(lead.numel(), -1, -1, -1)
            q, k, v = (z.reshape(-1, *z.shape[-3:]) for z in (q, k.to(q.dtype), v.to(q.dtype)))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0).reshape(*lead, *q.shape[-3:])
        else:
            logits = q @ k.transpose(-1, -2)
            if bias is not None:
                logits = logits + bias
            out = logits.softmax(dim=-1) @ v
        return self.to_out(out.transpose(-2, -3).flatten(-2))


class TemporalAttention(nn.Module):
    def __init__(self, channels, heads, head_dim, rotary):
        super().__init__()
        self.fn = Attention(channels, heads, head_dim, rotary)

    def forward(self, x, bias, frames):
        bt, c, h, w = x.shape
        y = x.reshape(bt // frames, frames, c, h, w).permute(0, 3, 4, 1, 2)  # [B,H,W,T,C]
        y = self.fn(y, bias=bias)
        return y.permute(0, 3, 4, 1, 2).reshape(bt, c, h, w)


class SpatialAttention(nn.Module):
    def __init__(self, channels, heads, head_dim=32):
        super().__init__()
        self.fn = Attention(channels, heads, head_dim)

    def forward(self, x):
        n, c, h, w = x.shape
        return self.fn(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, c, h, w)


class RelativeBias(nn.Module):
    def __init__(self, heads, num_buckets=32, max_distance=32):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(num_buckets, heads)
        self.num_buckets, self.max_distance = num_buckets, max_distance

    def forward(self, frames, device):
        position = torch.arange(frames, device=device)
        distance = position[None, :] - position[:, None]  # key - query
        half = self.num_buckets // 2
        offset = (distance > 0).long() * half
        m = distance.abs()
        exact = half // 2
        far = exact + (torch.log(m.float().clamp(min=1) / exact) / math.log(self.max_distance / exact) * (half - exact)).long()
        bucket = offset + torch.where(m < exact, m, far.clamp(max=half - 1))
        return self.relative_attention_bias(bucket).permute(2, 0, 1)  # [heads, T, T]


class Unet3d(nn.Module):
    def __init__(self, dim, mults=(1, 2, 4, 8), heads=8, head_dim=32, cond_frames=2, num_actions=15, extra_in=0, out_channels=3):
        super().__init__()
        self.dim = dim
        in_channels = 3 * cond_frames + 3 + extra_in
        rotary = Rotary(min(32, head_dim))

        def temporal(c):
            return Residual(PreNorm(c, TemporalAttention(c, heads, head_dim, rotary)))

        def linear(c):
            return Residual(PreNorm(c, LinearAttention(c, heads)))

        e = 4 * dim
        self.null_action_emb = nn.Parameter(torch.randn(dim))
        self.time_rel_pos_bias = RelativeBias(heads)
        self.init_conv = FrameConv(in_channels, dim, 7, padding=3)
        self.init_temporal_attn = temporal(dim)
        self.time_mlp = nn.Sequential(nn.Identity(), nn.Linear(dim, e), nn.GELU(), nn.Linear(e, e))
        self.action_emb = nn.Embedding(num_actions, dim)
        self.action_mlp = nn.Sequential(nn.Linear(dim, e), nn.GELU(), nn.Linear(e, e))
        widths = [dim] + [dim * m for m in mults]
        pairs = list(zip(widths[:-1], widths[1:]))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for i, (a, b) in enumerate(pairs):
            last = i == len(pairs) - 1
            self.downs.append(nn.ModuleList([ResnetBlock(a, b, 2 * e), ResnetBlock(b, b, 2 * e), linear(b), temporal(b),
                                             nn.Identity() if last else FrameConv(b, b, 4, stride=2, padding=1)]))
        mid = widths[-1]
        self.mid_block1 = ResnetBlock(mid, mid, 2 * e)
        self.mid_spatial_attn = Residual(PreNorm(mid, SpatialAttention(mid, heads)))
        self.mid_temporal_attn = temporal(mid)
        self.mid_block2 = ResnetBlock(mid, mid, 2 * e)
        for i, (a, b) in enumerate(reversed(pairs)):
            last = i == len(pairs) - 1
            self.ups.append(nn.ModuleList([ResnetBlock(2 * b, a, 2 * e), ResnetBlock(a, a, 2 * e), linear(a), temporal(a),
                                           nn.Identity() if last else FrameConv(a, a, 4, stride=2, padding=1, transposed=True)]))
        self.final_conv = nn.Sequential(ResnetBlock(2 * dim, dim), FrameConv(dim, out_channels, 1))

    def forward(self, frames_in, t, actions, clips):
        """frames_in [B*T, C_in, H, W] channels-last; t [B]; actions [B,T] or None."""
        frames = frames_in.shape[0] // clips
        bias = self.time_rel_pos_bias(frames, frames_in.device)
        half = self.dim // 2
        angle = t[:, None].float() * torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1)))
        code = torch.cat((angle.sin(), angle.cos()), dim=-1).to(frames_in.dtype)
        time = self.time_mlp(code)
        action = self.null_action_emb.expand(clips, frames, -1) if actions is None else self.action_emb(actions)
        action = self.action_mlp(action)
        cond = torch.cat((time[:, None].expand(-1, frames, -1), action), dim=-1).flatten(0, 1)  # [B*T, 8d]

        x = self.init_conv(frames_in)
        x = self.init_temporal_attn(x, bias=bias, frames=frames)
        r, skips = x, []
        for block1, block2, linear, temporal, down in self.downs:
            x = block2(block1(x, cond), cond)
            x = temporal(linear(x), bias=bias, frames=frames)
            skips.append(x)
            x = down(x)
        x = self.mid_block1(x, cond)
        x = self.mid_temporal_attn(self.mid_spatial_attn(x), bias=bias, frames=frames)
        x = self.mid_block2(x, cond)
        for block1, block2, linear, temporal, up in self.ups:
            x = block1(torch.cat((x, skips.pop()), dim=1), cond)
            x = block2(x, cond)
            x = up(temporal(linear(x), bias=bias, frames=frames))
        return self.final_conv[1](self.final_conv[0](torch.cat((x, r), dim=1)))


def frames_of(video):
    """[B,3,T,H,W] -> [B*T,3,H,W]"""
    return video.transpose(1, 2).flatten(0, 1)


def unet_input(cond, x_t, base=None):
    """cond [B,3,K,H,W], x_t [B,3,T,H,W], base [B*T,3,H,W] -> [B*T, 3K+3(+3), H, W]; colour-major conditioning."""
    frames = x_t.shape[2]
    stacked = cond.flatten(1, 2)[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    parts = [stacked, frames_of(x_t)] + ([base] if base is not None else [])
    return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)


class Avid(nn.Module):
    """Adapter and mask; the base is frozen and passed in."""

    def __init__(self, adapter):
        super().__init__()
        self.adapter = adapter
        self.mixture_conv = nn.Module()
        self.mixture_conv.weight = nn.Parameter(torch.zeros(1, 1, 1, 1, 1))
        self.mixture_conv.bias = nn.Parameter(torch.zeros(1))

    def forward(self, base_out, cond, x_t, t, actions):
        a = self.adapter(unet_input(cond, x_t, base_out), t, actions, x_t.shape[0])
        mask = torch.sigmoid(a[:, 3:] * self.mixture_conv.weight.view(1) + self.mixture_conv.bias)
        return base_out * mask + a[:, :3] * (1 - mask), mask


def sigmoid_schedule(steps):
    start, end, tau = -3.0, 3.0, 1.0
    t = torch.linspace(0, steps, steps + 1, dtype=torch.float64) / steps
    v_start, v_end = torch.tensor(start / tau).sigmoid(), torch.tensor(end / tau).sigmoid()  # float32 as in the original
    curve = (-((t * (end - start) + start) / tau).sigmoid() + v_end) / (v_end - v_start)
    curve = curve / curve[0]
    betas = (1 - curve[1:] / curve[:-1]).clip(0, 0.999)
    return torch.cumprod(1 - betas, 0).float()


def load_original(module, tensors):
    """Copies tensors by the original names (ours are the same); a missing or extra name is an error."""
    own = module.state_dict(keep_vars=True)  # the shared rotary table appears under every temporal attention, as on disk
    if own.keys() != tensors.keys():
        raise ValueError(f"missing {sorted(own.keys() - tensors.keys())[:5]}, extra {sorted(tensors.keys() - own.keys())[:5]}")
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value.reshape(own[name].shape))


def check_device(program, name):
    """Ends the program in one line where PyTorch cannot use the device called cpu or cuda."""
    if name not in ("cpu", "cuda"):
        raise SystemExit(f"{program}: --device: expected cpu or cuda, got {name}")
    if name == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"{program}: PyTorch finds no GPU | use --device cpu, or a PyTorch with CUDA on a machine with a driver")
