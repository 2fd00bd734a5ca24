"""PyTorch's `nn.LSTM`, `nn.GRU` and `nn.RNN`, padded and packed, with a thread per core and with 1.

Padded, it computes every step. With lengths, only the last valid h is known, which is gathered from
the outputs. So the loss of an LSTM does not include c there, which is slightly less work. There is
no bidirectional padded run with lengths, because the backward direction would start in the padding.
"""

import os

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..timing import Results

MODULES = {"gru_after": torch.nn.GRU, "vanilla": torch.nn.RNN}
MODULES |= dict.fromkeys(("lstm", "bidirectional"), torch.nn.LSTM)
CORES = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else torch.get_num_threads()
)
ONE_THREAD = ", 1 thread"


def names(kind, size, given):
    del size
    if kind not in MODULES:
        return []
    packed = kind == "bidirectional" and given
    runs = ["packed"] if packed else ["padded", "packed"]
    threads = [""] if device() == "cuda" else ["", ONE_THREAD]
    return [f"pytorch: {run}{number}" for number in threads for run in runs]


def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def build(name, kind, size, weights, place=("cpu", "float32")):
    both = kind == "bidirectional"
    module = MODULES[kind](size.inputs, size.units, batch_first=True, bidirectional=both)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    device, dtype = place
    run = _packed if "packed" in name else _padded
    threads = 1 if name.endswith(ONE_THREAD) else CORES
    return Module(module.to(device, getattr(torch, dtype)), run, device, threads)


class Module:
    """Has the interface of `benchmarks.compiled.Compiled`."""

    def __init__(self, module, run, device, threads):
        self.module, self.run, self.device, self.threads = module, run, device, threads

    def feed(self, inputs, lengths):
        dtype = next(self.module.parameters()).dtype
        self.inputs = torch.from_numpy(inputs).to(self.device, dtype).requires_grad_()
        self.lengths = None
        if lengths is not None:  # packing needs lengths on the host
            host = torch.from_numpy(lengths).long()
            self.lengths = host if self.run is _packed else host.to(self.device)
            self.valid = (torch.arange(inputs.shape[1]) < host[:, None]).to(self.device)

    def forward(self):
        self._set_threads()
        with torch.inference_mode():
            return self._waited(self.run(self.module, self.inputs, self.lengths))

    def training(self):
        self._set_threads()
        outputs, states = self.run(self.module, self.inputs, self.lengths)
        if self.lengths is not None:
            outputs = torch.where(self.valid[..., None], outputs, 0)
        # The same loss as `benchmarks.problems.loss`.
        value = sum((x.float() ** 2).sum() for x in (outputs, *states)) / 2
        arguments = [*self.module.parameters(), self.inputs]
        return self._waited((value, torch.autograd.grad(value, arguments)))

    def _set_threads(self):
        # The number of threads is global in PyTorch: another module may have changed it.
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def _waited(self, results):
        if self.device != "cpu":  # CUDA calls return before the results are computed
            torch.cuda.synchronize()
        return results

    def results(self):
        outputs, states = self.forward()
        gradient = self.training()[1][-1]
        found = [x.float().cpu().numpy() for x in (outputs, *states, gradient)]
        return Results(found[0], found[1:-1], found[-1])


def _padded(module, inputs, lengths):
    outputs, state = module(inputs)
    if lengths is None:
        return outputs, _states(state)
    # The final state is that after the padding; the last valid output is h.
    last = (lengths - 1)[:, None, None].expand(-1, 1, outputs.shape[2])
    return outputs, [outputs.gather(1, last)[:, 0]]


def _packed(module, inputs, lengths):
    batch, time = inputs.shape[:2]
    lengths = torch.full((batch,), time) if lengths is None else lengths
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    outputs, state = module(packed)
    outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=time)
    return outputs, _states(state)


def _states(state):
    """A list of the final states, with c before h and forward before backward."""
    if not isinstance(state, tuple):
        return list(state)
    return [s for h, c in zip(*state, strict=True) for s in (c, h)]
