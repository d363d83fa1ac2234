"""flash-linear-attention's Triton kernels, and cuBLASLt through torch.matmul, beside the CUDA library: same inputs, same
run, medians by CUDA events over inputs that no cache holds, outputs compared.

    python3 bench/cuda/fla.py build/Release/rankone_cuda.so [--seconds 120] [--json FILE]

Needs PyTorch with a GPU; says what is missing and ends with 0 otherwise. fla is imported, or taken from a checkout that
FLA_PATH names."""

import argparse
import ctypes
import importlib
import json
import math
import os
import statistics
import sys
import time

import rankone_cuda as rc

parser = argparse.ArgumentParser()
parser.add_argument("library")
parser.add_argument("--seconds", type=float, default=120)
parser.add_argument("--json")
options = parser.parse_args()
deadline = time.time() + options.seconds

try:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")
except Exception as error:
    print("fla.py not run:", error)
    sys.exit(0)
if os.environ.get("FLA_PATH"):
    sys.path.insert(0, os.environ["FLA_PATH"])

lib = rc.Library(os.path.abspath(options.library))
rows = []


def median(call, start, stop):
    """Of call(i), in milliseconds; start() gives a mark, stop(a, b) the time between two."""
    for i in range(6):
        call(i)
    torch.cuda.synchronize()
    marks = []
    for i in range(40):
        a = start()
        call(i)
        marks.append((a, start()))
    torch.cuda.synchronize()
    return statistics.median(stop(a, b) for a, b in marks[1:])


def torch_mark():
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def theirs_ms(call):
    return median(call, torch_mark, lambda a, b: a.elapsed_time(b))


def ours_ms(call):
    return median(call, lib.record, lib.milliseconds)


def difference(a, b):
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


def report(name, ours, theirs, diff, note=""):
    ratio = theirs / ours if theirs else None
    rows.append(dict(name=name, ours=ours, theirs=theirs, ratio=ratio, difference=diff, note=note))
    text = lambda x, f: "-" if x is None else f % x
    print("%-44s %9.4f %9s %7s %9s %s" % (name, ours, text(theirs, "%.4f"), text(ratio, "%.2f"), text(diff, "%.1e"), note), flush=True)


def fla(module, name):
    return getattr(importlib.import_module("fla.ops." + module), name)


class Cell:
    def __init__(self, gate, update, call):
        self.gate, self.update, self.call = gate, update, call


def gated_delta(q, k, v, g, beta, n, scale):
    return fla("gated_delta_rule", "chunk_gated_delta_rule")(q, k, v, g, beta, scale=scale)[0]


def delta(q, k, v, g, beta, n, scale):
    return fla("delta_rule", "chunk_delta_rule")(q, k, v, beta, scale=scale)[0]


def gla(q, k, v, g, beta, n, scale):
    return fla("gla", "chunk_gla")(q, k, v, g, scale=scale)[0]


def linear(q, k, v, g, beta, n, scale):
    return fla("linear_attn", "chunk_linear_attn")(q, k, v, scale=scale, normalize=False)[0]


def kda(q, k, v, g, beta, n, scale):
    return fla("kda", "chunk_kda")(q, k, v, g, beta, scale=scale)[0]


def product(q, k, v, g, beta, n, scale):
    return fla("gated_delta_product", "chunk_gated_delta_product")(q, k, v, g, beta, num_householder=n, scale=scale)[0]


CELLS = {
    "gatedDeltaNet": Cell(rc.GATE_TOKEN, rc.DELTA, gated_delta),
    "gatedDeltaProduct": Cell(rc.GATE_TOKEN, rc.DELTA, product),
    "deltaNet": Cell(rc.GATE_NONE, rc.DELTA, delta),
    "gla": Cell(rc.GATE_CHANNEL, rc.ADDITIVE, gla),
    "linearAttention": Cell(rc.GATE_NONE, rc.ADDITIVE, linear),
    "kimiDeltaAttention": Cell(rc.GATE_CHANNEL, rc.DELTA, kda),
}
# Name, B, T, H, HV, D, n, whether the backward too.
SHAPES = [
    ("gatedDeltaNet", 1, 8192, 16, 32, 128, 1, True),
    ("gatedDeltaNet", 1, 8192, 2, 8, 128, 1, False),
    ("gatedDeltaNet", 1, 32768, 16, 16, 128, 1, False),
    ("gatedDeltaNet", 4, 8192, 16, 64, 128, 1, False),
    ("gatedDeltaNet", 8, 4096, 32, 32, 128, 1, False),
    ("gatedDeltaProduct", 1, 8192, 16, 16, 128, 2, True),
    ("gatedDeltaProduct", 1, 8192, 16, 16, 128, 3, False),
    ("gla", 1, 32768, 16, 16, 128, 1, True),
    ("linearAttention", 1, 8192, 96, 96, 128, 1, False),
    ("kimiDeltaAttention", 1, 8192, 64, 64, 128, 1, True),
    ("deltaNet", 1, 8192, 32, 32, 128, 1, False),
]


def inputs(cell, B, T, H, HV, D, n):
    draw = lambda *shape: torch.randn(*shape, device="cuda")
    unit = lambda x: torch.nn.functional.normalize(x, dim=-1).bfloat16()
    q, k, v = unit(draw(B, T, H, D)), unit(draw(B, T * n, H, D)), draw(B, T * n, HV, D).bfloat16()
    shape = {rc.GATE_TOKEN: (B, T, HV), rc.GATE_CHANNEL: (B, T, HV, D)}.get(cell.gate)
    g = -0.1 * torch.rand(*shape, device="cuda") if shape else None
    beta = torch.rand(B, T * n, HV, device="cuda") if cell.update == rc.DELTA else None
    return q, k, v, g, beta


def problem(cell, q, k, v, g, beta, n, scale):
    p = rc.Recurrence()
    (p.B, p.T, p.H, p.K), (p.HV, p.V), p.n, p.N = q.shape, v.shape[2:], n, q.shape[0]
    p.update, p.gate, p.scale = cell.update, cell.gate, scale
    for name, tensor in (("q", q), ("k", k), ("v", v), ("g", g), ("beta", beta)):
        if tensor is not None:
            setattr(p, name, rc.Floats(tensor.data_ptr(), rc.F32 if tensor.dtype == torch.float32 else rc.BF16))
    return p


def compare(name, B, T, H, HV, D, n, backward):
    cell, scale = CELLS[name], D**-0.5
    label = f"{name} {B}x{T} {H}/{HV}" + (f" n={n}" if n > 1 else "")
    count = max(2, min(8, math.ceil(2e8 / (2 * B * T * (H * (1 + n) + HV * (1 + n)) * D))))
    sets = [inputs(cell, B, T, H, HV, D, n) for _ in range(count)]
    outs = [torch.full((B, T, HV, D), float("nan"), device="cuda", dtype=torch.bfloat16) for _ in sets]
    forwards = [rc.Forward(problem=problem(cell, *s, n, scale), o=o.data_ptr()) for s, o in zip(sets, outs)]
    torch.cuda.synchronize()
    ours = ours_ms(lambda i: lib.call("recurrenceForward", lib.stream, ctypes.byref(forwards[i % count])))
    theirs = diff = None
    note = ""
    # beta in the inputs' dtype, as its users have it.
    given = [(q, k, v, g, None if beta is None else beta.bfloat16()) for q, k, v, g, beta in sets]
    expand = lambda x: x.repeat_interleave(HV // H, 2)
    for heads in ("", "heads expanded before timing"):
        try:
            if heads:
                given = [(expand(q), expand(k), *rest) for q, k, *rest in given]
            with torch.no_grad():
                diff = difference(outs[0], cell.call(*given[0], n, scale))
                theirs = theirs_ms(lambda i: cell.call(*given[i % count], n, scale))
            note = heads
            break
        except Exception as error:
            note = f"fla: {type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
            if H == HV:
                break
    report("forward " + label, ours, theirs, diff, note)
    if not backward:
        return

    gradients, backwards, keep = [], [], []
    for (q, k, v, g, beta), forward in zip(sets, forwards):
        saved = torch.empty(lib.saved_bytes(forward.problem), device="cuda", dtype=torch.uint8)
        forward.saved = saved.data_ptr()
        lib.call("recurrenceForward", lib.stream, ctypes.byref(forward))
        dO = torch.randn(B, T, HV, D, device="cuda").bfloat16()
        d = [None if x is None else torch.full(x.shape, float("nan"), device="cuda") for x in (q, k, v, g, beta)]
        pointers = {name: t.data_ptr() for name, t in zip(("dq", "dk", "dv", "dg", "dbeta"), d) if t is not None}
        backwards.append(rc.Backward(problem=forward.problem, dO=rc.Floats(dO.data_ptr(), rc.BF16), saved=forward.saved, **pointers))
        gradients.append(d)
        keep.append((saved, dO))
    torch.cuda.synchronize()
    ours = ours_ms(lambda i: lib.call("recurrenceBackward", lib.stream, ctypes.byref(backwards[i % count])))
    theirs = diff = None
    try:
        leaves, results = [], []
        for s in given:
            leaf = [None if x is None else x.detach().requires_grad_() for x in s]
            leaves.append([x for x in leaf if x is not None])
            results.append(cell.call(*leaf, n, scale))
        grad = lambda i: torch.autograd.grad(results[i % count], leaves[i % count], keep[i % count][1], retain_graph=True)
        diff = difference(gradients[0][2], grad(0)[2])
        theirs = theirs_ms(grad)
        note = ""
    except Exception as error:
        note = f"fla: {type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
    report("backward " + label, ours, theirs, diff, note)


def base_product(m, d):
    count = max(2, math.ceil(2e8 / (2 * d * d)))
    xs = [torch.randn(m, d, device="cuda").bfloat16() for _ in range(count)]
    ws = [(torch.randn(d, d, device="cuda") / d**0.5).bfloat16() for _ in range(count)]
    ys = [torch.full((m, d), float("nan"), device="cuda", dtype=torch.bfloat16) for _ in range(count)]
    weights = [rc.Weight(format=rc.WEIGHT_BF16, out=d, in_=d, rowBytes=2 * d, codes=w.data_ptr()) for w in ws]
    calls = []
    for x, w, y in zip(xs, weights, ys):
        lora = rc.Lora(x=rc.Floats(x.data_ptr(), rc.BF16), rows=m, in_=d, out=d, perRow=1)
        lora.base = ctypes.addressof(w)
        calls.append(rc.LoraForward(problem=lora, y=y.data_ptr()))
    torch.cuda.synchronize()
    ours = ours_ms(lambda i: lib.call("loraForward", lib.stream, ctypes.byref(calls[i % count])))
    theirs = theirs_ms(lambda i: torch.matmul(xs[i % count], ws[i % count].T))
    report(f"product {m} x {d} x {d} (cuBLASLt)", ours, theirs, difference(ys[0], xs[0] @ ws[0].T))


print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
try:
    print("fla", importlib.import_module("fla").__version__)
except Exception as error:
    print("fla:", error)
print("%-44s %9s %9s %7s %9s" % ("case", "ours ms", "theirs", "ratio", "rel. diff"))
torch.manual_seed(1)
for work, cases in ((compare, SHAPES), (base_product, [(m, 4096) for m in (1, 8, 64, 512, 2048, 8192)])):
    for case in cases:
        if time.time() > deadline - 8:
            print("out of time before", *case)
            break
        try:
            work(*case)
        except Exception as error:
            print(*case, "failed:", type(error).__name__, str(error)[:200])
        torch.cuda.empty_cache()
if options.json:
    with open(options.json, "w") as file:
        json.dump(dict(device=torch.cuda.get_device_name(), torch=torch.__version__, cases=rows), file, indent=2)
