"""Arguments that a function does not have: the error says the name here, or what to do instead.

Users come from TF1, Flax, Keras and PyTorch. Signatures stay as they are written, so that editors
and type checkers see them; only a call that Python refuses is looked at here.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable)


class Advice(NamedTuple):
    """What to do instead of giving a foreign argument."""

    names: tuple[str, ...] = ()
    """The names here; the first that the function has is meant."""
    otherwise: str = ""
    """What to do where it has none of them."""
    renamed: str = "its name here is {}="
    """What to say of that name."""


def _same(names: str, *here: str, otherwise: str = "", **renamed: str) -> dict[str, Advice]:
    return dict.fromkeys(names.split(), Advice(here, otherwise, **renamed))


GRAPH = "it named the variables of a TF1 graph; params are an argument here: leave it out"
RETURNED = "the outputs of all steps and the final state are always returned: leave it out"

AXIS = "of the first two axes the second is time, or with {}=True the first"

FOREIGN: dict[str, Advice] = {
    **_same(
        "seq_lengths seq_length seq_lens seq_len sequence_lengths lengths length input_lengths",
        "sequence_length",
        "lengths",
    ),
    **_same("sequence_length", "lengths"),
    **_same("seq_axis seq_dim batch_axis batch_dim", "time_major", renamed=AXIS),
    **_same("padding truncating", otherwise="rows are padded behind, and never cut: leave it out"),
    **_same(
        "merge_fn merge_mode merge",
        "merge_fn",
        otherwise="outputs are a pair, (fw, bw), and concatenate(*outputs) joins them",
    ),
    **_same(
        "memory_sequence_length memory_lengths",
        "memory_length",
        otherwise="cell.attend(params, memory, memory_length) takes it",
    ),
    **_same(
        "initial_state initial_states initial_carry carry init_state init_carry hx h0 hc state",
        "initial_state",
        "initial_state_fw",
        "initial_states_fw",
        "state",
    ),
    **_same("return_carry return_state return_sequences return_all_outputs", otherwise=RETURNED),
    **_same("keep_order", otherwise="outputs are always in the order of the inputs: leave it out"),
    **_same("go_backwards", "reverse", otherwise="the order of steps is fixed: leave it out"),
    **_same("reverse", otherwise="the order of steps is fixed: leave it out"),
    **_same(
        "batch_first batch_major",
        "time_major",
        renamed="time_major=True is the opposite",
        otherwise="axes have a fixed order here: leave it out",
    ),
    **_same("time_major", otherwise="axes have a fixed order here: leave it out"),
    **_same(
        "swap_memory",
        "remat",
        renamed="{}='offload' keeps residuals in host memory, or leave it out",
        otherwise="leave it out; dynamic_rnn has remat=",
    ),
    **_same(
        "parallel_iterations",
        "unroll",
        renamed="steps run in order, {}= of them in one iteration: leave it out",
        otherwise="steps run in order: leave it out",
    ),
    **_same(
        "memory memory_length memory_mask",
        otherwise="expected a layer of one cell, an RNN: that attends to a memory",
    ),
    **_same("maxlen max_length max_steps maximum_steps", "maximum_iterations", "length"),
    **_same("scope name reuse trainable variable_scope", otherwise=GRAPH),
    **_same("state_is_tuple", otherwise="a state is always a tuple here: leave it out"),
    **_same(
        "training train is_training",
        "deterministic",
        renamed="training=False is {}=True",
        otherwise="give key= to a run to draw random numbers, and no key to evaluate",
    ),
    **_same("deterministic", "key", otherwise="a run without key= evaluates"),
    **_same(
        "rng rngs prng_key seed", "key", otherwise="random numbers are drawn from the key= of a run"
    ),
    **_same("precision", otherwise="jax.default_matmul_precision sets it"),
    **_same("num_layers", otherwise="MultiRNNCell([cell, cell]) is a stack of cells"),
    **_same(
        "dropout recurrent_dropout dropout_rate rate",
        otherwise="DropoutWrapper(cell, ...) drops; it takes the probabilities of keeping a value",
    ),
    **_same(
        "units features hidden_size hidden_features hidden_dim n_units size",
        "num_units",
        "output_channels",
    ),
    **_same("num_unit num_hidden hidden_units", "num_units"),
    **_same(
        "in_features input_size input_shape",
        "in_features",
        otherwise="the number of features is read from the input_shape of init: leave it out",
    ),
    **_same(
        "dtype param_dtype",
        "param_dtype",
        "dtype",
        otherwise="a cell has no dtype; init(key, input_shape, dtype) makes params of that dtype",
    ),
    **_same("initializer kernel_init weights_initializer w_init", "kernel_initializer"),
    **_same("recurrent_init recurrent_kernel_init orthogonal_init", "recurrent_initializer"),
    **_same("bias_init b_init", "bias_initializer"),
    **_same("activation_fn nonlinearity act", "activation"),
    **_same("proj_size num_projection projection_size", "num_proj"),
    **_same("use_peephole", "use_peepholes"),
    **_same("use_peepholes", "use_peephole"),
    **_same("unit_forget_bias", "forget_bias"),
}
"""By the name in TF1, Flax, Keras or PyTorch."""


def advice(owner: str, unknown: str, known: Iterable[str]) -> str:
    """The message for `unknown=`, which `owner` with the arguments `known` does not have."""
    known = list(known)
    names, otherwise, renamed = FOREIGN.get(unknown, Advice())
    close = difflib.get_close_matches(unknown, known, n=1, cutoff=0.7)
    hint = next((renamed.format(name) for name in names if name in known), otherwise)
    if not hint and close:
        hint = f"did you mean {close[0]}=?"
    expected = f"expected {', '.join(known)}" if known else "expected none"
    return f"{owner}: no argument is named {unknown}; {hint or expected}"


def check_construction(cls: type[Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Checks the arguments of a constructor; with none at all, as copies are made, nothing."""
    if not arguments and not options:
        return
    signature = inspect.signature(cls)
    refused = refusal(signature, arguments, options)
    if refused is not None:
        raise TypeError(_message(cls.__name__, signature, False, arguments, options, refused))


def explained(function: F, options: Iterable[inspect.Parameter] = ()) -> F:
    """`function`, whose errors about its arguments say what to do.

    A method stands for its object: the class that a user knows is named, not the one, perhaps
    private, that defines the method. `options` are those that it takes as `**options`.
    """
    signature = _expanded(inspect.signature(function), options)
    is_method = next(iter(signature.parameters), None) == "self"

    @functools.wraps(function)
    def call(*arguments: Any, **given: Any) -> Any:
        if given.keys() <= signature.parameters.keys():  # **options would let all names pass
            try:
                return function(*arguments, **given)
            except TypeError:
                refused = refusal(signature, arguments, given)
                if refused is None:  # an error inside of the function
                    raise
        else:
            refused = ""
        owner = _owner(function, arguments if is_method else ())
        raise TypeError(_message(owner, signature, is_method, arguments, given, refused))

    call.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    return call  # pyright: ignore[reportReturnType]


def refusal(
    signature: inspect.Signature, arguments: tuple[Any, ...], options: dict[str, Any]
) -> str | None:
    """Why a function cannot be called with these arguments; `None` if it can."""
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        return str(error)
    return None


def _expanded(
    signature: inspect.Signature, options: Iterable[inspect.Parameter]
) -> inspect.Signature:
    """`signature` with `options` in the place of `**options`."""
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    return signature.replace(parameters=[*named, *options])


def _owner(function: Callable[..., Any], methods_of: tuple[Any, ...]) -> str:
    name = function.__name__
    if not methods_of:
        return name
    cls = type(methods_of[0]).__name__
    return cls if name in ("__init__", "__call__") else f"{cls}.{name}"


def _message(
    owner: str,
    signature: inspect.Signature,
    is_method: bool,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    refused: str,
) -> str:
    """What is wrong with a call: an unknown name, too many arguments, or missing ones."""
    parameters = list(signature.parameters.values())[is_method:]
    arguments = arguments[is_method:]
    known = [p.name for p in parameters]
    for name in options:
        if name not in known:
            return advice(owner, name, known)
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    required = [p.name for p in parameters if p.default is p.empty]
    if len(arguments) > len(positional):
        more = [name for name in known if name not in positional]
        return (
            f"{owner}: expected at most {len(positional)} without a name "
            f"({', '.join(positional)}), got {len(arguments)}"
            + (f"; give the others by name: {', '.join(more)}" if more else "")
        )
    missing = [n for n in required if n not in options and n not in positional[: len(arguments)]]
    if missing:
        return (
            f"{owner}: expected the arguments ({', '.join(required)}), missing {', '.join(missing)}"
            + _params_hint(missing, positional, arguments)
        )
    return f"{owner}: {refused}"


def _params_hint(missing: list[str], positional: list[str], arguments: tuple[Any, ...]) -> str:
    """Says that the params were left out, where something else is in their place."""
    if "params" not in positional[: len(arguments)]:
        return ""
    got = arguments[positional.index("params")]
    if isinstance(got, dict) or "inputs" not in positional:
        return ""
    what = f"an array of shape {tuple(got.shape)}" if hasattr(got, "shape") else type(got).__name__
    return f"; params are what init made, and come before inputs: got {what} in their place"
