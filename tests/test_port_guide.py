"""docs/porting-from-tf1.md has a row for every name, and its table of weights is right."""

import functools
import inspect
import pathlib
import re

import jax
import pytest
from cases import CASES, Case, is_shape

import jax_dynrnn as rnn
from jax_dynrnn.interop._tf1.scopes import SCOPES

GUIDE = pathlib.Path(__file__).parent.parent / "docs" / "porting-from-tf1.md"
TABLES = [
    [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for line in block.splitlines()
        if not line.startswith("|--")
    ]
    for block in GUIDE.read_text().split("\n\n")
    if block.startswith("|")
]
ROWS = [row for table in TABLES for row in table]

# The names that TensorFlow 1.15 exports around `dynamic_rnn`, by module.
TF1 = {
    "nn": """bidirectional_dynamic_rnn dynamic_rnn raw_rnn static_bidirectional_rnn static_rnn
        static_state_saving_rnn""",
    "nn.rnn_cell": """BasicLSTMCell BasicRNNCell DeviceWrapper DropoutWrapper GRUCell LSTMCell
        LSTMStateTuple MultiRNNCell RNNCell ResidualWrapper""",
    "contrib.rnn": """AttentionCellWrapper BidirectionalGridLSTMCell CompiledWrapper
        Conv1DLSTMCell Conv2DLSTMCell Conv3DLSTMCell ConvLSTMCell CoupledInputForgetGateLSTMCell
        EmbeddingWrapper FusedRNNCell FusedRNNCellAdaptor GLSTMCell GRUBlockCell GRUBlockCellV2
        GridLSTMCell HighwayWrapper IndRNNCell IndyGRUCell IndyLSTMCell InputProjectionWrapper
        IntersectionRNNCell LSTMBlockCell LSTMBlockFusedCell LSTMBlockWrapper
        LayerNormBasicLSTMCell LayerRNNCell NASCell OutputProjectionWrapper PhasedLSTMCell SRUCell
        TimeFreqLSTMCell TimeReversedFusedRNN UGRNNCell best_effort_input_batch_size
        stack_bidirectional_dynamic_rnn stack_bidirectional_rnn transpose_batch_time""",
    "contrib.rnn, not exported": """CFNCell LayerNormLSTMCell MinimalRNNCell NTMCell
        NTMControllerState WeightNormLSTMCell""",
    "contrib.recurrent": "Recurrent bidirectional_functional_rnn functional_rnn",
    "contrib.cudnn_rnn": """CudnnCompatibleGRUCell CudnnCompatibleLSTMCell CudnnGRU
        CudnnGRUSaveable CudnnLSTM CudnnLSTMSaveable CudnnParamsFormatConverterGRU
        CudnnParamsFormatConverterLSTM CudnnParamsFormatConverterRelu
        CudnnParamsFormatConverterTanh CudnnRNNRelu CudnnRNNReluSaveable CudnnRNNTanh
        CudnnRNNTanhSaveable""",
    "contrib.grid_rnn": """Grid1BasicLSTMCell Grid1BasicRNNCell Grid1LSTMCell Grid2BasicLSTMCell
        Grid2BasicRNNCell Grid2GRUCell Grid2LSTMCell Grid3LSTMCell GridRNNCell""",
    "contrib.model_pruning": "MaskedBasicLSTMCell MaskedLSTMCell",
    "contrib.seq2seq": """AttentionMechanism AttentionWrapper AttentionWrapperState
        BahdanauAttention BahdanauMonotonicAttention BasicDecoder BasicDecoderOutput
        BeamSearchDecoder BeamSearchDecoderOutput BeamSearchDecoderState CustomHelper Decoder
        FinalBeamSearchDecoderOutput GreedyEmbeddingHelper Helper InferenceHelper LuongAttention
        LuongMonotonicAttention SampleEmbeddingHelper ScheduledEmbeddingTrainingHelper
        ScheduledOutputTrainingHelper TrainingHelper dynamic_decode gather_tree
        gather_tree_from_array hardmax monotonic_attention monotonic_probability_fn safe_cumprod
        sequence_loss SequenceLoss tile_batch BahdanauAttentionV2 LuongAttentionV2
        BahdanauMonotonicAttentionV2 LuongMonotonicAttentionV2 BeamSearchDecoderV2 Sampler""",
    "contrib.crf": """CrfDecodeBackwardRnnCell CrfDecodeForwardRnnCell CrfForwardRnnCell
        crf_binary_score crf_decode crf_decode_backward crf_decode_forward crf_log_likelihood
        crf_log_norm crf_multitag_sequence_score crf_sequence_score crf_unary_score
        viterbi_decode""",
    "nn, for CTC": """ctc_beam_search_decoder ctc_beam_search_decoder_v2 ctc_greedy_decoder ctc_loss
        ctc_loss_v2 ctc_unique_labels collapse_repeated""",
    "contrib.legacy_seq2seq": """attention_decoder basic_rnn_seq2seq embedding_attention_decoder
        embedding_attention_seq2seq embedding_rnn_decoder embedding_rnn_seq2seq
        embedding_tied_rnn_seq2seq model_with_buckets one2many_rnn_seq2seq rnn_decoder
        sequence_loss sequence_loss_by_example tied_rnn_seq2seq""",
    "around a run": """AdamOptimizer Saver bucket_by_sequence_length clip_by_global_norm dense
        embedding_lookup gradients one_hot padded_batch
        sparse_softmax_cross_entropy_with_logits""",
    "TensorFlow 2": """Bidirectional ConvLSTM2D GRU GRUCell LSTM LSTMCell RNN SimpleRNN
        StackedRNNCells compat""",
    "arguments": """dropout_prob_seed dtype initializer input_size name num_proj_shards
        num_unit_shards parallel_iterations reuse scope seed state_is_tuple swap_memory
        alignment_history attention_fn attention_layer initial_cell_state impute_finished
        average_across_batch average_across_timesteps softmax_loss_function sum_over_batch
        sum_over_timesteps
        softmax_temperature output_time_major
        coverage_penalty_weight length_penalty_weight probability_fn score_mask_value cell_size
        get_initial_state zero_state state_size output_size get_config from_config trainable""",
}
ONLY_THERE = """DeviceWrapper RNNCell CompiledWrapper FusedRNNCell FusedRNNCellAdaptor
LSTMBlockFusedCell LSTMBlockWrapper LayerRNNCell TimeReversedFusedRNN
best_effort_input_batch_size""".split()


def words(text):
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize("module", TF1)
def test_every_name_of_tf1_has_a_row(module):
    """Every name that TF1 exports is in the first column of a table."""
    there = words(" ".join(row[0] for row in ROWS))
    assert [name for name in TF1[module].split() if name not in there] == []


def test_every_public_name_of_the_package_is_in_a_row():
    """Every public name of the package is somewhere in the tables."""
    exported = {name for name, value in vars(rnn).items() if name[0] != "_" and callable(value)}
    assert exported - words(" ".join(cell for row in ROWS for cell in row)) == set()


def test_every_cell_and_function_of_tf1_exists_in_the_package():
    """The package has all of them, except those in `ONLY_THERE`."""
    modules = ("nn", "nn.rnn_cell", "contrib.rnn", "contrib.rnn, not exported")
    expected = set(" ".join(TF1[module] for module in modules).split()) - set(ONLY_THERE)
    assert [name for name in sorted(expected) if not callable(getattr(rnn, name, None))] == []


# The table of weights


def expanded(name):
    """Expands braces: `W_{F,I}_diag` is `W_F_diag` and `W_I_diag`."""
    match = re.search(r"\{([^}]*)\}", name)
    if match is None:
        return [name]
    before, after = name[: match.start()], name[match.end() :]
    return [full for part in match[1].split(",") for full in expanded(before + part + after)]


def unnumbered(path):
    """The path without numbers: the table names the first of several, as `group0/kernel`."""
    return re.sub(r"_?\d+", "", path)


HEAD = ["cell", "its scope in TF1", "its variables, and the paths in its params"]
WEIGHTS = [
    (
        [getattr(rnn, name) for name in re.findall(r"`(\w+)`", cells)],
        {unnumbered(path) for name in re.findall(r"`([^`]+)`", names) for path in expanded(name)},
    )
    for table in TABLES
    if table[0] == HEAD
    for cells, _, names in table[1:]
]
WITHOUT = {
    rnn.DropoutWrapper, rnn.ResidualWrapper, rnn.ZoneoutWrapper, rnn.EmitState, rnn.MultiRNNCell,
    rnn.LearnedInitialState,
}  # fmt: skip
"""Cells without variables of their own, or in the table of scopes, or not in TF1."""


UNCOUPLED = rnn.BidirectionalGridLSTMCell(
    2, feature_size=2, num_frequency_blocks=[2], use_peepholes=True
)
"""A combination of options that no case has."""


def cells_and_params(cell, params):
    """A cell, and all cells inside it, each with its params."""
    yield cell, params
    for i, inner in enumerate(getattr(cell, "cells", ())):
        yield from cells_and_params(inner, params[f"cell_{i}"])
    if hasattr(cell, "cell"):
        yield from cells_and_params(cell.cell, params.get("cell", params))


def own_paths(params):
    """The params of a cell, without those of the cell inside it."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {unnumbered(path) for path in paths if not path.startswith("cell/")}


@functools.cache
def all_paths():
    """Maps the class of every cell in any case to the paths of all its params."""
    found = {}
    for case in [*CASES, Case("uncoupled", UNCOUPLED)]:
        shapes = jax.tree.map(lambda s: (2, 3, *s), case.features, is_leaf=is_shape)
        params = jax.eval_shape(lambda: case.cell.init(jax.random.key(0), shapes))  # noqa: B023
        for cell, own in cells_and_params(case.cell, params):
            found.setdefault(type(cell), set()).update(own_paths(own))
    return found


@pytest.mark.parametrize(
    "cells, names", WEIGHTS, ids=["-".join(c.__name__ for c in cells) for cells, _ in WEIGHTS]
)
def test_the_table_of_weights(cells, names):
    """The row of a cell has the paths of its params, with every option, and no others."""
    assert set().union(*(all_paths()[cell] for cell in cells)) == names


def test_the_scopes_in_the_table_of_weights():
    """The scopes in the table are those that `interop` imports variables from."""
    rows = [row for table in TABLES if table[0] == HEAD for row in table[1:]]
    for (cells, _), (_, scope, _) in zip(WEIGHTS, rows, strict=True):
        names = re.findall(r"^`([^`]+)`", scope) or [""]
        assert {SCOPES[cell] for cell in cells} == set(expanded(names[0])), scope


def test_the_table_of_weights_has_every_cell():
    """Every cell is in the table of weights, except those in `WITHOUT`."""
    cells = {
        thing for thing in vars(rnn).values()
        if inspect.isclass(thing) and issubclass(thing, rnn.Cell)
    }  # fmt: skip
    listed = {cell for row in WEIGHTS for cell in row[0]}
    assert cells - listed - {rnn.Cell, rnn.StagedCell, rnn.MatmulCell} == WITHOUT
