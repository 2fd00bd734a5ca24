"""Models of Keras 3 and `tf_keras` in every format, and the printed programs that run them here."""

import contextlib
import importlib
import io
import random
import re

import numpy as np

from jax_dynrnn.interop import __main__ as command

B, T, D, H = 3, 5, 3, 4
LAYERS = (
    "SimpleRNN", "LSTM", "GRU", "RNN(LSTMCell)", "RNN(GRUCell)", "RNN([LSTMCell, GRUCell])",
)  # fmt: skip
OPTIONS = {
    "layer": LAYERS,
    "activation": ("tanh", "relu", "linear", "softsign", "hard_sigmoid", "gelu", "swish"),
    "recurrent_activation": ("sigmoid", "hard_sigmoid", "tanh"),
    "reset_after": (True, False),
    "use_bias": (True, False),
    "merge_mode": (None, "concat", "sum", "mul", "ave", "separate"),
    "mask": ("none", "Masking", "mask_zero"),
    "go_backwards": (False, True),
    "return_sequences": (True, False),
    "stateful": (False, True),
    "stacked": (False, True),
    "functional": (False, True),
    "format": (
        "h5", "keras", "weights.h5 + json", "weights in h5 + json", "checkpoint + json",
        "SavedModel",
    ),
    "framework": ("keras", "tf_keras"),
}  # fmt: skip
"""What a model can be; `merge_mode` is `None` for one direction."""
SAVED_MODEL = {name: values[-1] for name, values in OPTIONS.items()} | {
    "layer": "GRU", "mask": "Masking", "go_backwards": True, "return_sequences": True,
    "merge_mode": "concat", "stateful": False,
}  # fmt: skip
ONLY_TF_KERAS = ("weights in h5 + json", "checkpoint + json", "SavedModel")


def is_valid(case):
    """Whether Keras allows the combination."""
    if case["framework"] == "keras":
        # Keras 3 turns only the backward layer, and its stacks are not stateful.
        if case["format"] in ONLY_TF_KERAS or (case["go_backwards"] and case["merge_mode"]):
            return False
    if case["stateful"] and (case["functional"] or "[" in case["layer"] or case["merge_mode"]):
        return False
    if case["format"] == "SavedModel" and case["stateful"]:
        return False
    # Two lists of outputs are no input of another layer; the outputs that Keras 3 returns for a
    # stack at masked steps reach a layer that has the mask of the reversed sequence.
    return not case["stacked"] or (
        case["merge_mode"] != "separate"
        and not ("[" in case["layer"] and case["go_backwards"] and case["mask"] != "none")
    )


def pairwise(seed, options, most=None, valid=is_valid):
    """Combinations in which every valid pair of options occurs, drawn greedily.

    With `most`, further random ones are added until there are as many.
    """
    draw = random.Random(seed)
    names = list(options)

    def candidate():
        while True:
            case = {name: draw.choice(values) for name, values in options.items()}
            if valid(case):
                return case

    def pairs(case):
        return {(a, case[a], b, case[b]) for i, a in enumerate(names) for b in names[i + 1 :]}

    # Pairs that no valid combination has never occur among many.
    left = set().union(*(pairs(candidate()) for _ in range(5000)))
    cases = []
    while left:
        best = max((candidate() for _ in range(60)), key=lambda case: len(pairs(case) & left))
        left -= pairs(best)
        cases.append(best)
    while most and len(cases) < most:
        cases.append(candidate())
    return cases


def identifier(case):
    """A case as the name of a test."""
    return "-".join(f"{value}" for value in case.values()).replace(" ", "")


class Model:
    """A model of Keras with random weights, and its layers that run over time."""

    def __init__(self, framework, case):
        self.keras, self.case = importlib.import_module(framework), case
        self.keras.backend.clear_session()
        self.model = self._built()
        random_ = np.random.default_rng(0)
        self.model.set_weights([
            (0.5 * random_.normal(size=w.shape)).astype(np.float32)
            for w in self.model.get_weights()
        ])  # fmt: skip

    def _built(self):
        case, layers = self.case, self.keras.layers
        stateful = {"batch_size": B} if case["stateful"] else {}
        ids = case["mask"] == "mask_zero"
        first = layers.Input((T,) if ids else (T, D), **stateful)
        chain = []
        if ids:
            chain.append(layers.Embedding(7, D, mask_zero=True, name="words"))
        elif case["mask"] == "Masking":
            chain.append(layers.Masking(0.0))
        if case["stacked"]:
            chain += [self._layer("under", True), layers.Dropout(0.5)]
        chain.append(self._layer("over", case["return_sequences"]))
        if case["merge_mode"] != "separate":
            chain.append(layers.Dense(2, name="head"))
        if not case["functional"]:
            if case["merge_mode"] != "separate":
                return self.keras.Sequential([first, *chain])
        x = first
        for layer in chain:
            x = layer(x)
        return self.keras.Model(first, x)

    def _layer(self, name, sequences):
        case, layers = self.case, self.keras.layers
        kind = case["layer"]
        options = {
            "return_sequences": sequences, "stateful": case["stateful"], "name": name,
            "go_backwards": case["go_backwards"],
        }  # fmt: skip
        cells = re.findall(r"(\w+)Cell", kind)
        if cells:
            made = [getattr(layers, f"{cell}Cell")(H, **self._functions(cell)) for cell in cells]
            layer = layers.RNN(made if "[" in kind else made[0], **options)
        else:
            layer = getattr(layers, kind)(H, **self._functions(kind), **options)
        merge = case["merge_mode"]
        if merge is None:
            return layer
        merge = None if merge == "separate" else merge
        return layers.Bidirectional(layer, merge_mode=merge, name=f"both_{name}")

    def _functions(self, kind):
        case = self.case
        options = {"activation": case["activation"], "use_bias": case["use_bias"]}
        if kind != "SimpleRNN":
            options["recurrent_activation"] = case["recurrent_activation"]
        return options | ({"reset_after": case["reset_after"]} if kind == "GRU" else {})

    def save(self, folder):
        """Writes the model in its format; returns the arguments of the command."""
        form, model = self.case["format"], self.model
        path = f"{folder}/model"
        if form in ("h5", "keras"):
            model.save(f"{path}.{form}")
            return [f"{path}.{form}"]
        if form == "SavedModel":
            model.save(path, save_format="tf")
            return [path]
        with open(f"{path}.json", "w") as file:
            file.write(model.to_json())
        path += {"weights.h5 + json": ".weights.h5", "weights in h5 + json": "_w.h5"}.get(form, "")
        model.save_weights(path)
        return [path, "--config", f"{folder}/model.json"]

    def outputs(self, x):
        """What the last layer that runs over time returns, at two calls one after the other."""
        over = next(layer for layer in self.model.layers if layer.name.endswith("over"))
        inner = self.keras.Model(self.model.inputs, over.output)
        return [as_list(inner(x)) for _ in range(2)]


def as_list(found):
    return [np.asarray(x) for x in (found if isinstance(found, list | tuple) else [found])]


def printed(*arguments):
    """What the command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        command.main([str(x) for x in arguments])
    return output.getvalue()


def run_printed(program, x, mask, stateful=False):
    """The outputs of the last function of a printed program, at two calls one after the other."""
    found = {}
    exec(program, found)
    names = sorted(name for name in found if re.fullmatch(r"run_\d", name))
    states, results = {name: () for name in names}, []
    for _ in range(2):
        outputs = x
        for name in names:
            outputs, state = found[name](outputs, mask, *states[name])
            states[name] = (state,) if stateful else ()
        results.append(as_list(outputs))
    return results
