"""The CUDA library's table through ctypes: what fla.py needs of cuda/backend.h."""

import ctypes
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
HEADER = os.path.join(HERE, "../../cuda/backend.h")

F32, BF16, F16 = 0, 1, 2
ADDITIVE, DELTA = 0, 1
GATE_NONE, GATE_HEAD, GATE_TOKEN, GATE_CHANNEL = 0, 1, 2, 3
WEIGHT_BF16 = 1

P, I32, I64, F = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float


class Error(ctypes.Structure):
    _fields_ = [("code", I32), ("reason", ctypes.c_char * 252)]


class Floats(ctypes.Structure):
    _fields_ = [("data", P), ("dtype", I32)]


class Recurrence(ctypes.Structure):
    _fields_ = (
        [(n, I64) for n in ("B", "T", "H", "HV", "K", "V", "n", "N")]
        + [(n, I32) for n in ("update", "gate", "mode", "compute")]
        + [("scale", F), ("normalize", I32)]
        + [(n, Floats) for n in ("q", "k", "v", "g", "beta")]
        + [("cuSeqlens", P), ("valueScale", P), ("keysFromGates", I32), ("qkL2norm", I32)]
        + [("aLog", P), ("dtBias", P), ("lowerBound", F), ("betaActivation", I32)]
        + [("initialState", P), ("stateRows", P), ("initialZ", P)]
    )


class Forward(ctypes.Structure):
    _fields_ = [("problem", Recurrence), ("o", P), ("finalState", P), ("finalZ", P), ("saved", P)]


class Backward(ctypes.Structure):
    _fields_ = [("problem", Recurrence), ("dO", Floats)] + [
        (n, P)
        for n in ("dFinalState", "dFinalZ", "saved", "dq", "dk", "dv", "dg", "dbeta", "dInitialState", "dInitialZ", "dALog", "dDtBias")
    ]


class Weight(ctypes.Structure):
    _fields_ = [("format", I32)] + [(n, I64) for n in ("out", "in_", "rowBytes", "block")] + [("codes", P), ("scales", P)]


class Lora(ctypes.Structure):
    _fields_ = (
        [("x", Floats), ("rows", I64), ("in_", I64), ("out", I64), ("base", P), ("identity", I32), ("compute", I32)]
        + [("bias", Floats), ("adapters", P), ("adapterCount", I64), ("slots", P), ("perRow", I64), ("gates", P)]
        + [("dropout", ctypes.c_double), ("seed", ctypes.c_uint64), ("t", P), ("tRanks", I64)]
    )


class LoraForward(ctypes.Structure):
    _fields_ = [("problem", Lora), ("y", P)]


class Library:
    """A stream of device 0. `call(name, ...)` calls a function of the table that ends with an error."""

    def __init__(self, path):
        with open(HEADER) as file:
            header = file.read()
        version = int(re.search(r"RANKONE_CUDA_VERSION (\d+)", header).group(1))
        table = header[header.index("typedef struct RankoneCuda {") :]
        names = re.findall(r"\(\*(\w+)\)\(", table)
        library = ctypes.CDLL(path)
        library.rankoneCuda.restype = P
        entry = library.rankoneCuda(version)
        if not entry:
            raise RuntimeError(f"{path} is not version {version}")
        # Two numbers of 32 bits come first.
        addresses = ctypes.cast(entry + 8, ctypes.POINTER(P * len(names))).contents
        self.address = dict(zip(names, addresses))
        self.stream = P()
        self.call("openStream", I32(0), ctypes.byref(self.stream))

    def call(self, name, *arguments):
        error = Error()
        function = ctypes.CFUNCTYPE(I32, *[type(a) if isinstance(a, ctypes._SimpleCData) else P for a in arguments], P)
        if function(self.address[name])(*arguments, ctypes.byref(error)):
            raise RuntimeError(f"{name}: {error.reason.decode()}")

    def saved_bytes(self, problem):
        return ctypes.CFUNCTYPE(ctypes.c_size_t, P)(self.address["savedBytes"])(ctypes.byref(problem))

    def record(self):
        event = P()
        self.call("record", self.stream, ctypes.byref(event))
        return event

    def milliseconds(self, start, end):
        time = F()
        self.call("wait", end)
        self.call("elapsed", start, end, ctypes.byref(time))
        for event in (start, end):
            ctypes.CFUNCTYPE(None, P)(self.address["releaseEvent"])(event)
        return time.value
