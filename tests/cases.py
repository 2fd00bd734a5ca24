"""The list of cells that every law runs over, and their random arguments.

A new cell is one entry in `CASES`. The entry's flags declare what the cell does not support.
"""

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import toys
from flax import linen as nn

import jax_dynrnn as rnn
from jax_dynrnn import interop
from jax_dynrnn.interop import foreign

B, T, D, H = 4, 5, 3, 4
# A full row, two shorter ones, and an empty one.
LENGTHS = np.array([5, 3, 1, 0], np.int32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A cell, the feature shapes of its inputs, and the flags that select its laws."""

    name: str
    cell: Any
    features: Any = (D,)
    core: bool = False
    """Whether the everyday suite runs it with every engine."""
    variant: bool = False
    """Whether another case has the same class: the everyday suite then leaves out some laws."""
    keyed: bool = False
    """Whether the cell draws random numbers: laws pass it a key."""
    integers: int = 0
    """If not 0, inputs are integer ids below this number."""
    time_invariant: bool = True
    """Whether shifting or flipping the inputs shifts or flips the outputs: not if the cell draws
    from the key of each step, which depends on the step's index."""
    has_exact_gradient: bool = True
    """Whether its gradient agrees with finite differences; not `PhasedLSTMCell`'s, as in TF1."""
    memory_sizes: tuple = ()
    """For a cell that attends: the number of memory slots of each of its mechanisms."""
    positive: bool = False
    """Whether the state must be positive: attention weights, which the cell raises to powers."""
    configuration: bool = True
    """Whether it is a frozen configuration: a foreign object is not compared, hashed or copied."""
    inner_cells_are_ours: bool = True
    """Whether all cells inside of a wrapper or stack belong to the library too."""

    # By name only: the cell of a case may be unhashable.
    def __hash__(self):
        return hash(self.name)

    @property
    def ours(self):
        """Whether the cell and all cells inside of it belong to the library."""
        known = type(self.cell).__module__.startswith("jax_dynrnn.")
        return known and self.configuration and self.inner_cells_are_ours

    def inputs(self, dtype, time=T, seed=0):
        # The seed depends on the name only: new cases do not change the inputs of others.
        random = np.random.default_rng(zlib.crc32(self.name.encode()) + seed)

        def leaf(shape):
            if self.integers:
                return jnp.asarray(random.integers(self.integers, size=(B, time, *shape)))
            return jnp.asarray(random.normal(size=(B, time, *shape)), dtype)

        return jax.tree.map(leaf, self.features, is_leaf=is_shape)

    def params(self, dtype, rows=B):
        shapes = jax.tree.map(lambda s: (B, T, *s), self.features, is_leaf=is_shape)
        params = perturbed(self.cell.init(jax.random.key(1), shapes, dtype), 2)
        return self.cell.attend(params, *self.memory(dtype, rows)) if self.memory_sizes else params

    def memory(self, dtype, rows=B):
        """A memory of two features per mechanism, and its lengths, one of which is 0."""
        random = np.random.default_rng(0)
        memory = [
            jnp.asarray(random.normal(size=(B, n, 2))[:rows], dtype) for n in self.memory_sizes
        ]
        return memory, [np.minimum([n, 1, 0, 3], n)[:rows] for n in self.memory_sizes]

    def state(self, dtype, seed=3):
        state = perturbed(self.start(dtype, B), seed)
        return jax.tree.map(jnp.abs, state) if self.positive else state

    def start(self, dtype, batch_shape):
        """The zero state; for a cell that attends, its start state, which depends on the memory."""
        if self.memory_sizes:
            return self.cell.start(self.params(dtype), batch_shape, dtype)
        return self.cell.zero_state(batch_shape, dtype)

    def key(self):
        return jax.random.key(7) if self.keyed else None


def is_shape(x):
    return isinstance(x, tuple) and all(isinstance(n, int) for n in x)


def perturbed(tree, seed):
    """The tree with random numbers added to every floating leaf: no bias or state stays zero."""
    random = np.random.default_rng(seed)

    def leaf(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x + jnp.asarray(0.4 * random.normal(size=x.shape), x.dtype)

    return jax.tree.map(leaf, tree)


ATTENTION = rnn.AttentionWrapper(
    rnn.BasicLSTMCell(H), rnn.LuongAttention(H, scale=True, memory_size=2), alignment_history=True
)
TWO_ATTENTIONS = rnn.AttentionWrapper(
    rnn.GRUCell(H),
    [rnn.BahdanauAttention(3, normalize=True, memory_size=2), rnn.BahdanauAttention(2)],
    attention_layer_size=[3, 2],
)
MONOTONIC = rnn.AttentionWrapper(
    rnn.GRUCell(H),
    [
        rnn.BahdanauMonotonicAttention(3, normalize=True, memory_size=2, mode="recursive"),
        rnn.BahdanauMonotonicAttention(H, memory_size=2, score_bias_init=-0.5),
    ],
    alignment_history=True,
)


MIXED = {"image": (2, 4), "number": (), "vectors": ((D,), (D,))}
DROPOUT = {"input_keep_prob": 0.7, "output_keep_prob": 0.6, "state_keep_prob": 0.8}

CASES = [
    Case("rnn", rnn.BasicRNNCell(H), core=True),
    Case("rnn_relu", rnn.BasicRNNCell(H, activation=jax.nn.relu), variant=True),
    Case("gru", rnn.GRUCell(H), core=True),
    Case("cudnn_gru", rnn.CudnnCompatibleGRUCell(H, activation=jax.nn.soft_sign), core=True),
    Case("basic_lstm", rnn.BasicLSTMCell(H), core=True),
    Case("lstm", rnn.LSTMCell(H, forget_bias=0.5, cell_clip=0.4), core=True),
    Case(
        "lstm_peepholes",
        rnn.LSTMCell(
            H, use_peepholes=True, cell_clip=0.5, recurrent_activation=interop.keras.hard_sigmoid
        ),
    ),
    Case(
        "gru_hard",
        rnn.GRUCell(H, recurrent_activation=interop.keras.hard_sigmoid),
        variant=True,
    ),
    Case(
        "cudnn_gru_hard",
        rnn.CudnnCompatibleGRUCell(H, recurrent_activation=interop.keras.hard_sigmoid),
        variant=True,
    ),
    Case("lstm_projection", rnn.LSTMCell(H, use_peepholes=True, num_proj=2, proj_clip=0.2)),
    # LSTMs of tf.contrib
    Case("lstm_block", rnn.LSTMBlockCell(H, use_peephole=True, cell_clip=0.5)),
    Case(
        "layer_norm_lstm",
        rnn.LayerNormLSTMCell(
            H, use_peepholes=True, cell_clip=0.8, num_proj=2, proj_clip=0.5, layer_norm=True
        ),
    ),
    Case(
        "layer_norm_basic",
        rnn.LayerNormBasicLSTMCell(H, forget_bias=0.5, dropout_keep_prob=0.5),
        variant=True,
    ),
    Case("no_layer_norm", rnn.LayerNormBasicLSTMCell(H, layer_norm=False), variant=True),
    Case(
        "layer_norm_dropout",
        rnn.LayerNormBasicLSTMCell(H, dropout_keep_prob=0.5),
        keyed=True,
        time_invariant=False,
    ),
    Case(
        "weight_norm",
        rnn.WeightNormLSTMCell(H, use_peepholes=True, cell_clip=0.5, num_proj=2, proj_clip=0.5),
    ),
    Case("coupled", rnn.CoupledInputForgetGateLSTMCell(H, forget_bias=0.5), variant=True),
    Case(
        "coupled_options",
        rnn.CoupledInputForgetGateLSTMCell(
            H, use_peepholes=True, num_proj=2, proj_clip=0.5, layer_norm=True
        ),
    ),
    Case(
        "grouped",
        rnn.GLSTMCell(H, number_of_groups=2, forget_bias=0.5),
        features=(2,),
    ),
    Case(
        "grouped_options",
        rnn.GLSTMCell(6, number_of_groups=3, num_proj=3, activation=jax.nn.softplus),
        variant=True,
    ),
    # convolutions
    Case(
        "conv_1d",
        rnn.Conv1DLSTMCell(
            input_shape=(5, 2),
            output_channels=3,
            kernel_shape=(2,),
            forget_bias=0.5,
            recurrent_activation=interop.keras.hard_sigmoid,
        ),
        features=(5, 2),
    ),
    Case(
        "conv_2d",
        rnn.Conv2DLSTMCell(
            input_shape=(3, 4, 2), output_channels=2, kernel_shape=(3, 2), skip_connection=True
        ),
        features=(3, 4, 2),
    ),
    Case(
        "conv_3d",
        rnn.Conv3DLSTMCell(
            input_shape=(2, 3, 2, 1), output_channels=2, kernel_shape=(1, 2, 3), use_bias=False
        ),
        features=(2, 3, 2, 1),
    ),
    Case(
        "conv",
        rnn.ConvLSTMCell(1, input_shape=(3, 1), output_channels=2, kernel_shape=(3,)),
        features=(3, 1),
    ),
    # continuous time
    Case(
        "phased",
        rnn.PhasedLSTMCell(H, leak=0.1, ratio_on=0.6, period_init_max=4.0),
        features=((1,), (D,)),
        has_exact_gradient=False,
        variant=True,
    ),
    Case(
        "phased_peepholes",
        rnn.PhasedLSTMCell(
            H,
            use_peepholes=True,
            leak=0.3,
            ratio_on=0.7,
            trainable_ratio_on=False,
            period_init_min=2.0,
            period_init_max=3.0,
        ),
        features=((1,), (D,)),
        has_exact_gradient=False,
    ),
    # over time and frequency
    Case(
        "time_freq",
        rnn.TimeFreqLSTMCell(
            2,
            input_size=6,
            feature_size=3,
            frequency_skip=2,
            use_peepholes=True,
            cell_clip=0.5,
            forget_bias=0.5,
        ),
        features=(6,),
    ),
    Case(
        "grid",
        rnn.GridLSTMCell(
            2,
            feature_size=2,
            num_frequency_blocks=[2, 1],
            start_freqindex_list=[0, 2],
            end_freqindex_list=[3, 4],
            use_peepholes=True,
            cell_clip=0.5,
            forget_bias=0.5,
        ),
        features=(5,),
    ),
    Case(
        "grid_shared",
        rnn.GridLSTMCell(
            2,
            feature_size=2,
            num_frequency_blocks=[2],
            frequency_skip=2,
            use_peepholes=True,
            share_time_frequency_weights=True,
            couple_input_forget_gates=True,
        ),
        features=(4,),
        variant=True,
    ),
    Case(
        "grid_bidirectional",
        rnn.BidirectionalGridLSTMCell(
            2, feature_size=2, num_frequency_blocks=[2], backward_slice_offset=1
        ),
    ),
    Case(
        "grid_bidirectional_blocks",
        rnn.BidirectionalGridLSTMCell(
            2,
            feature_size=1,
            num_frequency_blocks=[2, 1],
            start_freqindex_list=[0, 1],
            end_freqindex_list=[2, 2],
            use_peepholes=True,
            couple_input_forget_gates=True,
            backward_slice_offset=-1,
        ),
        features=(2,),
        variant=True,
    ),
    Case("multi", rnn.MultiRNNCell([rnn.LSTMCell(H), rnn.GRUCell(2)]), core=True),
    Case("residual", rnn.ResidualWrapper(rnn.GRUCell(D))),
    Case("learned", rnn.LearnedInitialState(rnn.LSTMCell(H))),
    Case("emit", rnn.EmitState(rnn.LSTMCell(H))),
    Case("dropout_evaluated", rnn.DropoutWrapper(rnn.LSTMCell(H), **DROPOUT), variant=True),
    Case(
        "dropout_state",
        rnn.DropoutWrapper(rnn.LSTMCell(H), state_keep_prob=0.5),
        keyed=True,
        time_invariant=False,
        variant=True,
    ),
    Case(
        "dropout", rnn.DropoutWrapper(rnn.LSTMCell(H), **DROPOUT), keyed=True, time_invariant=False
    ),
    Case(
        "dropout_variational",
        rnn.DropoutWrapper(rnn.GRUCell(H), **DROPOUT, variational_recurrent=True),
        keyed=True,
    ),
    Case(
        "dropout_per_row",
        rnn.DropoutWrapper(
            rnn.GRUCell(H), **DROPOUT, variational_recurrent=True, variational_per_row=True
        ),
        keyed=True,
        variant=True,
    ),
    Case(
        "dropout_recurrent",
        rnn.DropoutWrapper(rnn.GRUCell(H), recurrent_keep_prob=0.6),
        keyed=True,
    ),
    Case(
        "dropout_recurrent_inside",
        rnn.DropoutWrapper(
            rnn.ResidualWrapper(rnn.LayerNormBasicLSTMCell(D, dropout_keep_prob=0.5)),
            **DROPOUT,
            recurrent_keep_prob=0.6,
        ),
        keyed=True,
        time_invariant=False,
        variant=True,
    ),
    Case(
        "deep",
        rnn.MultiRNNCell(
            [
                rnn.DropoutWrapper(rnn.LSTMCell(H, num_proj=D), 0.5, 0.9),
                rnn.ResidualWrapper(rnn.LearnedInitialState(rnn.GRUCell(D))),
            ]
        ),
        keyed=True,
        time_invariant=False,
    ),
    # other cells of tf.contrib
    Case("nas", rnn.NASCell(H), variant=True),
    Case("nas_options", rnn.NASCell(H, num_proj=2, use_bias=True)),
    Case("ugrnn", rnn.UGRNNCell(H, forget_bias=0.5, activation=jax.nn.soft_sign)),
    Case("intersection", rnn.IntersectionRNNCell(D, num_in_proj=D), variant=True),
    Case(
        "intersection_projected",
        rnn.IntersectionRNNCell(H, num_in_proj=H, forget_bias=0.5, y_activation=jnp.tanh),
    ),
    Case("sru", rnn.SRUCell(H, activation=jax.nn.soft_sign)),
    Case("ind_rnn", rnn.IndRNNCell(H, activation=jax.nn.softplus)),
    Case("indy_gru", rnn.IndyGRUCell(H, activation=jax.nn.soft_sign)),
    Case("indy_lstm", rnn.IndyLSTMCell(H, forget_bias=0.5, activation=jax.nn.soft_sign)),
    Case("minimal", rnn.MinimalRNNCell(H, activation=jax.nn.soft_sign)),
    Case("cfn", rnn.CFNCell(H, activation=jax.nn.soft_sign)),
    Case(
        "ntm",
        rnn.NTMCell(rnn.BasicLSTMCell(H), 5, 3, 2, 1, shift_range=2, output_dim=2),
        positive=True,
    ),
    # wrappers with variables of their own, and zoneout
    Case("highway", rnn.HighwayWrapper(rnn.GRUCell(D), carry_bias_init=0.5)),
    Case(
        "highway_uncoupled",
        rnn.HighwayWrapper(rnn.BasicRNNCell(D), couple_carry_transform_gates=False),
        variant=True,
    ),
    Case(
        "zoneout_evaluated",
        rnn.ZoneoutWrapper(rnn.BasicLSTMCell(H), state_keep_prob=0.7),
        variant=True,
    ),
    Case(
        "zoneout",
        rnn.ZoneoutWrapper(rnn.BasicLSTMCell(H), state_keep_prob=0.7),
        keyed=True,
        time_invariant=False,
    ),
    Case(
        "projections",
        rnn.OutputProjectionWrapper(
            rnn.InputProjectionWrapper(rnn.BasicRNNCell(H), 2, activation=jnp.tanh),
            3,
            activation=jax.nn.softplus,
        ),
    ),
    Case(
        "embedding",
        rnn.EmbeddingWrapper(rnn.BasicRNNCell(H), 7, 3),
        features=(),
        integers=7,
    ),
    Case("attention_cell", rnn.AttentionCellWrapper(rnn.BasicLSTMCell(H), 2), variant=True),
    Case(
        "attention_cell_sizes",
        rnn.AttentionCellWrapper(rnn.GRUCell(H), 3, attn_size=2, attn_vec_size=5, input_size=2),
    ),
    # attention to a memory
    Case("attention", ATTENTION, memory_sizes=(4,), variant=True),
    Case("attentions", TWO_ATTENTIONS, memory_sizes=(4, 3)),
    Case("attention_monotonic", MONOTONIC, memory_sizes=(4, 5), variant=True),
    Case(
        "attention_monotonic_luong",
        rnn.AttentionWrapper(
            rnn.GRUCell(H), rnn.LuongMonotonicAttention(H, scale=True, memory_size=2)
        ),
        memory_sizes=(4,),
        variant=True,
    ),
    Case(
        "attention_noisy",
        rnn.AttentionWrapper(
            rnn.GRUCell(H),
            rnn.BahdanauMonotonicAttention(3, memory_size=2, sigmoid_noise=0.5, mode="recursive"),
        ),
        memory_sizes=(4,),
        keyed=True,
        time_invariant=False,
        variant=True,
    ),
    Case("plus_one", toys.PlusOne()),
    Case("norm", toys.Norm()),
    Case("nested", toys.Nested(), features={"a": (D,), "b": [(2,), (1,)]}),
    Case("ids", toys.Ids(), features=(), integers=7),
    Case("images", toys.Images(), features=(2, 3)),
    Case("mixed", toys.Mixed(), features=MIXED),
    Case(
        "mixed_wrapped",
        rnn.MultiRNNCell(
            [
                rnn.DropoutWrapper(
                    rnn.ResidualWrapper(toys.Mixed(), residual_fn=toys.add_first_vector),
                    0.6,
                    state_keep_prob=0.8,
                    variational_recurrent=True,
                ),
                rnn.GRUCell(H),
            ]
        ),
        features=MIXED,
        keyed=True,
        variant=True,
        inner_cells_are_ours=False,
    ),
    Case("duck", toys.Duck(H), configuration=False),
    Case(
        "wrapped_duck",
        rnn.MultiRNNCell([rnn.GRUCell(2), toys.Duck(H)]),
        configuration=False,
    ),
    # cells of other frameworks
    Case("linen", foreign.LinenCell(nn.LSTMCell(H)), configuration=False),
]
