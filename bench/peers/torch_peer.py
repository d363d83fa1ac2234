"""PyTorch as a peer: products, attention, and the recurrences in the plain chunked form of their papers, in float32, differentiated
by autograd. Speaks what protocol.h says."""

import ctypes
import functools
import os
import sys
import time

CHUNK = 64

# What libraries print goes to stderr; the protocol keeps a descriptor of its own.
OUT = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)


def say(*words, data=b""):
    OUT.write(" ".join(map(str, words)).encode() + b"\n" + data)
    OUT.flush()


try:
    import torch
    import torch.nn.functional as F
except Exception as error:  # a broken installation raises more than ImportError
    say("error", type(error).__name__ + ":", str(error).splitlines()[0] if str(error) else "")
    sys.exit(1)


def kernels_of_blas():
    """The processor whose kernels OpenBLAS runs, where that is what this torch multiplies with."""
    try:
        core = ctypes.CDLL("libblas.so.3").openblas_get_corename
    except (OSError, AttributeError):
        return None
    core.restype = ctypes.c_char_p
    return core().decode()


def decays(g):
    """Log decay from a chunk's start to each token, and the factors between the tokens i >= j of a chunk."""
    G = g.cumsum(3)
    span = G.unsqueeze(-1) - G.unsqueeze(-2)
    later = torch.ones(span.shape[-2:], dtype=torch.bool).triu(1)
    return G, span.masked_fill(later, float("-inf")).exp()


def chunked(q, k, v, g, beta, S):
    """q, k [B,H,T,K], v [B,H,T,V], g [B,H,T] or [B,H,T,K] or None, beta [B,H,T] or None, S [B,H,K,V].

    Within a chunk, reads are (q k^T, masked and decayed) v; the delta rule's writes u solve
    (I + strictly lower part of beta k k^T) u = beta (v - k S), so that they are known but for S at its start."""
    T = q.shape[2]
    C = min(CHUNK, T)
    spare = -T % C

    def split(x):
        if x is None:
            return None
        wide = x if x.dim() == 4 else x.unsqueeze(-1)
        wide = F.pad(wide, (0, 0, 0, spare)).unflatten(2, (-1, C))
        return wide if x.dim() == 4 else wide.squeeze(-1)

    q, k, v, g, beta = map(split, (q, k, v, g, beta))
    from_start, to_end, whole = q, k, None
    if g is None:
        reads = (q @ k.mT).tril()
        pairs = k @ k.mT if beta is not None else None
    elif g.dim() == 4:
        G, factors = decays(g)
        from_start = q * G.exp().unsqueeze(-1)
        to_end = k * (G[..., -1:] - G).exp().unsqueeze(-1)
        whole = G[..., -1].exp()[..., None, None]
        reads = (q @ k.mT) * factors
        pairs = (k @ k.mT) * factors if beta is not None else None
    else:
        G = g.cumsum(3)
        # Decay from j to i as a product of two factors about the chunk's middle, so that neither grows too large.
        middle = G[..., C // 2 : C // 2 + 1, :]
        ahead, back = (G - middle).exp(), k * (middle - G).exp()
        from_start = q * G.exp()
        to_end = k * (G[..., -1:, :] - G).exp()
        whole = G[..., -1, :].exp().unsqueeze(-1)
        reads = ((q * ahead) @ back.mT).tril()
        pairs = (k * ahead) @ back.mT if beta is not None else None

    if beta is not None:
        weight = beta.unsqueeze(-1)
        decayed = k if g is None else k * (G.exp().unsqueeze(-1) if g.dim() == 4 else G.exp())
        lower = (pairs * weight).tril(-1) + torch.eye(C)
        both = torch.cat([v, decayed], -1) * weight
        both = torch.linalg.solve_triangular(lower, both, upper=False, unitriangular=True)
        v, erased = both.split([v.shape[-1], k.shape[-1]], -1)

    outputs = []
    for n in range(q.shape[2]):
        written = v[:, :, n] if beta is None else v[:, :, n] - erased[:, :, n] @ S
        outputs.append(from_start[:, :, n] @ S + reads[:, :, n] @ written)
        kept = S if whole is None else S * whole[:, :, n]
        S = kept + to_end[:, :, n].mT @ written
    return torch.cat(outputs, 2)[:, :, :T], S


def step(q, k, v, g, beta, S):
    """One token."""
    if g is not None:
        S = S * (g.unsqueeze(-1) if g.dim() == 3 else g.mT).exp()
    if beta is not None:
        v = (v - k @ S) * beta.unsqueeze(-1)
    S = S + k.mT @ v
    return q @ S, S


def recurrence(q, k, v, g, beta, S, scale):
    groups = v.shape[1] // q.shape[1]
    if groups > 1:
        q, k = (x.repeat_interleave(groups, 1) for x in (q, k))
    if g is not None and g.dim() == 1:
        g = g.view(1, -1, 1).expand(v.shape[:3])
    form = step if q.shape[2] == 1 else chunked
    return form(q * scale, k, v, g, beta, S)


def grid(x):
    S = x["initialState"]
    o, S = recurrence(x["q"], x["k"], x["v"], x.get("g"), x.get("beta"), S, S.shape[2] ** -0.5)
    return {"o": o, "finalState": S}


def hgrn2(x):
    return grid({**x, "k": -torch.expm1(x["g"])})


def mamba2(x):
    def per_head(name):
        return x[name].view(1, -1, 1)

    dt = F.softplus(x["dt"] + per_head("dtBias") if "dtBias" in x else x["dt"])
    v = x["x"] * dt.unsqueeze(-1)
    y, S = recurrence(x["C"], x["B"], v, dt * per_head("A"), None, x["initialState"], 1.0)
    if "D" in x:
        y = y + x["x"] * per_head("D").unsqueeze(-1)
    return {"y": y, "finalState": S}


def matmul(x):
    a, b = x["a"], x["b"].t()
    return {"y": torch.addmm(x["bias"], a, b) if "bias" in x else a @ b}


@functools.lru_cache
def unseen(T, S):
    return torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)


def attention(x):
    """Of queries at the end of the keys. The fused operator has come with torch 2."""
    q, k, v = x["q"], x["k"], x["v"]
    if q.shape[1] > k.shape[1]:
        k, v = (y.repeat_interleave(q.shape[1] // k.shape[1], 1) for y in (k, v))
    T, S = q.shape[2], k.shape[2]
    if hasattr(F, "scaled_dot_product_attention"):
        mask = None if T in (1, S) else ~unseen(T, S)
        return {"o": F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=T == S)}
    scores = (q * q.shape[3] ** -0.5) @ k.mT
    if T > 1:
        scores = scores.masked_fill(unseen(T, S), float("-inf"))
    return {"o": scores.softmax(-1) @ v}


OPERATIONS = {"attention": attention, "grid": grid, "hgrn2": hgrn2, "mamba2": mamba2, "matmul": matmul}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
STATES = ("initialState", "finalState", "dFinalState")
GRADIENTS = {"initialState": "dInitialState", "dtBias": "dDtBias", "bias": "dBias"}
OF_OUTPUT = {"dO": "o", "dY": "y", "dFinalState": "finalState"}


class Run:
    def __init__(self, settings, tensors):
        torch.set_num_threads(int(settings["threads"]))
        self.operation = OPERATIONS[settings["op"]]
        self.matmul = settings["op"] == "matmul"
        dtype = DTYPES[settings["dtype"]]
        tensors = {name: self.turned(name, x).contiguous().to(dtype) for name, x in tensors.items()}
        seeds = {OF_OUTPUT[name]: tensors.pop(name) for name in OF_OUTPUT if name in tensors}
        self.inputs = tensors
        self.backward = settings["pass"] == "backward"
        if not self.backward:
            self.run = self.forward
            return
        self.leaves = {name: x.requires_grad_() for name, x in tensors.items()}
        outputs = self.operation(self.leaves)
        self.outputs = [outputs[name] for name in seeds]
        self.seeds = list(seeds.values())
        self.run = self.differentiate

    def turned(self, name, x):
        """Heads before tokens, as batched products want them, and back."""
        return x.transpose(1, 2) if x.dim() > 2 and name not in STATES + ("dInitialState",) else x

    def forward(self):
        with torch.no_grad():
            return self.operation(self.inputs)

    def differentiate(self):
        """The backward alone, as often as wanted: the graph of the forward is kept."""
        leaves = list(self.leaves.values())
        gradients = torch.autograd.grad(self.outputs, leaves, self.seeds, retain_graph=True, allow_unused=True)
        return {GRADIENTS.get(name, "d" + name): x for name, x in zip(self.leaves, gradients) if x is not None}

    def results(self):
        return {name: self.turned(name, x).float().contiguous() for name, x in self.run().items()}

    def time(self, runs):
        nanoseconds = []
        for _ in range(runs):
            start = time.perf_counter_ns()
            self.run()
            nanoseconds.append(float(time.perf_counter_ns() - start))
        return torch.tensor(nanoseconds, dtype=torch.float64)


def raw(tensor):
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def read_tensor(shape):
    size = 4
    for extent in shape:
        size *= extent
    return torch.frombuffer(bytearray(sys.stdin.buffer.read(size)), dtype=torch.float32).view(shape)


def serve():
    settings, tensors, run = {}, {}, None
    for line in iter(sys.stdin.buffer.readline, b""):
        verb, *words = line.decode().split()
        try:
            if verb == "set":
                settings[words[0]] = words[1]
            elif verb == "tensor":
                tensors[words[0]] = read_tensor([int(extent) for extent in words[1:]])
            elif verb == "hello":
                core = kernels_of_blas()
                say("ok torch", torch.__version__ + (f", OpenBLAS kernels {core}" if core else ""))
            elif verb == "open":
                run = Run(settings, tensors)
                run.run()
                settings, tensors = {}, {}
                say("ok")
            elif verb == "results":
                for name, x in run.results().items():
                    say("tensor", name, *x.shape, data=raw(x))
                say("ok")
            elif verb == "time":
                times = run.time(int(words[0]))
                say("times", times.numel(), data=raw(times))
                say("ok")
            else:
                say("error unknown request", verb)
        except Exception as error:
            say("error", type(error).__name__ + ":", " ".join(str(error).split()))


serve()
