"""Errors for wrong arguments. For an unknown name, they give its name here, or other advice.

Users come from TF1, Flax, Keras and PyTorch and pass the names that they know. Functions keep
their written-out signatures, so that editors and type checkers see them; only calls that Python
rejects are examined here.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable)


class Advice(NamedTuple):
    """The advice for an argument name of another library."""

    names: tuple[str, ...] = ()
    """Names in this package; the first one that the called function has is suggested."""
    otherwise: str = ""
    """The advice if the function has none of `names`."""
    renamed: str = "its name here is {}="
    """The advice if it has one, which replaces `{}`."""


def _advise(names: str, *here: str, otherwise: str = "", **renamed: str) -> dict[str, Advice]:
    """Entries of `FOREIGN`: the same advice for every name in `names`, separated by spaces."""
    return dict.fromkeys(names.split(), Advice(here, otherwise, **renamed))


GRAPH = "it named the variables of a TF1 graph; params are an argument here: leave it out"
RETURNED = "the outputs of all steps and the final state are always returned: leave it out"

AXIS = "time is the second axis, or with {}=True the first"

FOREIGN: dict[str, Advice] = {
    **_advise(
        "seq_lengths seq_length seq_lens seq_len sequence_lengths lengths length input_lengths",
        "sequence_length",
        "lengths",
    ),
    **_advise("sequence_length", "lengths"),
    **_advise("seq_axis seq_dim batch_axis batch_dim", "time_major", renamed=AXIS),
    **_advise(
        "padding truncating", otherwise="rows are padded at the end, never truncated: leave it out"
    ),
    **_advise(
        "merge_fn merge_mode merge",
        "merge_fn",
        otherwise="outputs are a pair, (fw, bw), and concatenate(*outputs) joins them",
    ),
    **_advise(
        "memory_sequence_length memory_lengths",
        "memory_length",
        otherwise="cell.attend(params, memory, memory_length) takes it",
    ),
    **_advise(
        "initial_state initial_states initial_carry carry init_state init_carry hx h0 hc state",
        "initial_state",
        "initial_state_fw",
        "initial_states_fw",
        "state",
    ),
    **_advise("return_carry return_state return_sequences return_all_outputs", otherwise=RETURNED),
    **_advise(
        "keep_order", otherwise="outputs are always in the order of the inputs: leave it out"
    ),
    **_advise("go_backwards", "reverse", otherwise="the order of steps is fixed: leave it out"),
    **_advise("reverse", otherwise="the order of steps is fixed: leave it out"),
    **_advise(
        "batch_first batch_major",
        "time_major",
        renamed="time_major=True is the opposite",
        otherwise="axes have a fixed order here: leave it out",
    ),
    **_advise("time_major", otherwise="axes have a fixed order here: leave it out"),
    **_advise(
        "swap_memory",
        "remat",
        renamed="{}='offload' keeps residuals in host memory, or leave it out",
        otherwise="leave it out; dynamic_rnn has remat=",
    ),
    **_advise(
        "parallel_iterations",
        "unroll",
        renamed="steps run in order, {}= of them in one iteration: leave it out",
        otherwise="steps run in order: leave it out",
    ),
    **_advise(
        "memory memory_length memory_mask",
        otherwise="only a layer of one cell, an RNN, attends to a memory",
    ),
    **_advise("maxlen max_length max_steps maximum_steps", "maximum_iterations", "length"),
    **_advise("scope name reuse trainable variable_scope", otherwise=GRAPH),
    **_advise("state_is_tuple", otherwise="a state is always a tuple here: leave it out"),
    **_advise(
        "training train is_training",
        "deterministic",
        renamed="training=False is {}=True",
        otherwise="give key= to a run to draw random numbers, and no key to evaluate",
    ),
    **_advise("deterministic", "key", otherwise="a run without key= evaluates"),
    **_advise(
        "rng rngs prng_key seed", "key", otherwise="random numbers are drawn from the key= of a run"
    ),
    **_advise("precision", otherwise="jax.default_matmul_precision sets it"),
    **_advise("num_layers", otherwise="MultiRNNCell([cell, cell]) is a stack of cells"),
    **_advise(
        "dropout recurrent_dropout dropout_rate rate",
        otherwise="DropoutWrapper(cell, ...) is dropout; it takes probabilities of keeping a value",
    ),
    **_advise(
        "units features hidden_size hidden_features hidden_dim n_units size",
        "num_units",
        "output_channels",
    ),
    **_advise("num_unit num_hidden hidden_units cell_size", "num_units"),
    **_advise(
        "num_unit_shards num_proj_shards",
        otherwise="a variable is one array here, and interop.tf1 joins shards: leave it out",
    ),
    **_advise(
        "in_features input_size input_shape",
        "in_features",
        otherwise="the number of features is read from the input_shape of init: leave it out",
    ),
    **_advise(
        "dtype param_dtype",
        "param_dtype",
        "dtype",
        otherwise="a cell has no dtype; init(key, input_shape, dtype) makes params of that dtype",
    ),
    **_advise("initializer kernel_init weights_initializer w_init", "kernel_initializer"),
    **_advise("recurrent_init recurrent_kernel_init orthogonal_init", "recurrent_initializer"),
    **_advise("bias_init b_init", "bias_initializer"),
    **_advise("activation_fn nonlinearity act", "activation"),
    **_advise(
        "recurrent_activation gate_fn gate_activation inner_activation",
        "recurrent_activation",
        otherwise="the gates of this cell are as its paper has them",
    ),
    **_advise("proj_size num_projection projection_size", "num_proj"),
    **_advise("use_peephole", "use_peepholes"),
    **_advise("use_peepholes", "use_peephole"),
    **_advise("unit_forget_bias", "forget_bias"),
}
"""The advice for each argument name of TF1, Flax, Keras and PyTorch."""


def advice(owner: str, unknown: str, known: Iterable[str]) -> str:
    """The error message for `unknown=`, passed to `owner`, whose arguments are `known`."""
    known = list(known)
    names, otherwise, renamed = FOREIGN.get(unknown, Advice())
    close = difflib.get_close_matches(unknown, known, n=1, cutoff=0.7)
    hint = next((renamed.format(name) for name in names if name in known), otherwise)
    if not hint and close:  # no name of another library: a typo
        hint = f"did you mean {close[0]}=?"
    expected = f"expected {', '.join(known)}" if known else "expected none"
    return f"{owner}: no argument is named {unknown}; {hint or expected}"


def check_construction(cls: type[Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Raises a `TypeError` with advice if a class cannot be constructed from these arguments."""
    if not arguments and not options:  # copy and pickle call `__new__` with the class alone
        return
    signature = inspect.signature(cls)
    reason = binding_error(signature, arguments, options)
    if reason is not None:
        raise TypeError(_message(cls.__name__, signature, False, arguments, options, reason))


def explained(function: F, options: Iterable[inspect.Parameter] = ()) -> F:
    """Decorates `function`: if its arguments are wrong, the error says what to do.

    For a method the message names the class of the object, which users know, not the class that
    defines the method, which may be private. `options` are the parameters that `function` takes
    as `**options`.
    """
    signature = _expanded(inspect.signature(function), options)
    is_method = next(iter(signature.parameters), None) == "self"

    @functools.wraps(function)
    def call(*arguments: Any, **given: Any) -> Any:
        # Names are compared first: a function with **options would accept any of them.
        if given.keys() <= signature.parameters.keys():
            try:
                return function(*arguments, **given)
            except TypeError:
                # Python raises the same type for a wrong call and for an error inside `function`.
                reason = binding_error(signature, arguments, given)
                if reason is None:
                    raise
        else:
            reason = ""
        owner = _owner(function, arguments if is_method else ())
        raise TypeError(_message(owner, signature, is_method, arguments, given, reason))

    # `inspect` and interactive help list the options by name instead of **options.
    call.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    return call  # pyright: ignore[reportReturnType]


def binding_error(
    signature: inspect.Signature, arguments: tuple[Any, ...], options: dict[str, Any]
) -> str | None:
    """Python's reason why a function cannot be called with these arguments; `None` if it can."""
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        return str(error)
    return None


def _expanded(
    signature: inspect.Signature, options: Iterable[inspect.Parameter]
) -> inspect.Signature:
    """`signature` with `options` in place of `**options`."""
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    return signature.replace(parameters=[*named, *options])


def _owner(function: Callable[..., Any], method_arguments: tuple[Any, ...]) -> str:
    """The name of a function, or of a method with its class, as a user knows it."""
    name = function.__name__
    if not method_arguments:
        return name
    cls = type(method_arguments[0]).__name__
    # Users construct and call an object; they do not write these two methods.
    return cls if name in ("__init__", "__call__") else f"{cls}.{name}"


def _message(
    owner: str,
    signature: inspect.Signature,
    is_method: bool,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    reason: str,
) -> str:
    """The message for a wrong call: an unknown name, too many arguments, or missing ones.

    `reason` is Python's own message, for all other errors (an argument given twice).
    """
    parameters = list(signature.parameters.values())[is_method:]  # without `self`
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
    return f"{owner}: {reason}"


def _params_hint(missing: list[str], positional: list[str], arguments: tuple[Any, ...]) -> str:
    """A hint if `params` was left out, so that the next argument stands in its place."""
    if "params" not in positional[: len(arguments)]:
        return ""
    got = arguments[positional.index("params")]
    # TF1's functions have no params: its users pass the inputs there.
    if isinstance(got, dict) or "inputs" not in positional:
        return ""
    what = f"an array of shape {tuple(got.shape)}" if hasattr(got, "shape") else type(got).__name__
    return f"; params are the result of init and come before inputs; got {what} as params"
