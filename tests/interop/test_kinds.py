"""`checkpoint.kind` distinguishes weights, optimizer slots, steps and moving averages."""

import numpy as np
import pytest

from jax_dynrnn.interop import checkpoint


@pytest.fixture(scope="module")
def v1(load_oracle):
    return load_oracle("tensorflow").compat.v1


def test_every_optimizer_of_tensorflow(v1):
    """All variables that TensorFlow's optimizers add are slots, inside of a scope or not."""
    with v1.Graph().as_default():
        step, train = v1.train.get_or_create_global_step(), v1.train
        before = {"global_step"}
        for i, optimizer in enumerate([
            train.AdadeltaOptimizer(1.0), train.AdagradOptimizer(1.0), train.AdamOptimizer(1.0),
            train.AdagradDAOptimizer(1.0, step), train.FtrlOptimizer(1.0),
            train.GradientDescentOptimizer(1.0), train.MomentumOptimizer(1.0, 0.9),
            train.ProximalAdagradOptimizer(1.0), train.ProximalGradientDescentOptimizer(1.0),
            train.RMSPropOptimizer(1.0, momentum=0.9, centered=True),
        ]):  # fmt: skip
            first = v1.get_variable(f"rnn/kernel_{i}", (2,))
            with v1.variable_scope(f"model_{i}"):
                second = v1.get_variable("kernel", (2,))
                optimizer.minimize(v1.reduce_sum(first * second), var_list=[first, second])
            before |= {first.op.name, second.op.name}
        names = {variable.op.name for variable in v1.global_variables()}
    assert {name for name in names if checkpoint.kind(name) == "slot"} == names - before
    assert {name for name in names if checkpoint.kind(name) == "step"} == {"global_step"}
    assert {checkpoint.kind(name) for name in before} == {"weight", "step"}
    assert len(names - before) == 30


@pytest.mark.parametrize(("name", "expected"), [
    ("Adam", "weight"), ("rnn/Adam/kernel", "weight"), ("rnn/MyMomentum", "weight"),
    ("rnn/AdamW_1", "slot"), ("train/beta1_power_1", "slot"), ("rnn/beta", "weight"),
    ("model/global_step", "step"), ("rnn/ExponentialMovingAverage", "average"),
    ("rnn/Adam:0", "slot"), ("w/ExponentialMovingAverage:0", "average"),
    ("a/kernel/.OPTIMIZER_SLOT/opt/m/.ATTRIBUTES/VARIABLE_VALUE", "slot"),
    ("a/kernel/.ATTRIBUTES/VARIABLE_VALUE", "weight"),
    ("save_counter/.ATTRIBUTES/VARIABLE_VALUE", "step"),
    ("bn/moving_mean", "weight"), ("bn/moving_mean/biased", "slot"),
])  # fmt: skip
def test_kind_of_a_name(name, expected):
    assert checkpoint.kind(name) == expected


def test_moving_averages_of_tensorflow(v1, tmp_path):
    """`moving_averages` maps variables to averages as TensorFlow's `variables_to_restore` does."""
    with v1.Graph().as_default(), v1.Session() as session:
        average = v1.train.ExponentialMovingAverage(0.5, zero_debias=True)
        first = v1.get_variable("rnn/kernel", initializer=np.ones(2, np.float32))
        with v1.variable_scope("model"):
            second = v1.get_variable("kernel", initializer=np.ones(3, np.float32))
            average.apply([first, second, v1.identity(second, name="loss")])
        session.run(v1.global_variables_initializer())
        session.run([first.assign([5.0, 5.0]), second.assign([5.0, 5.0, 5.0])])
        v1.train.Saver().save(session, str(tmp_path / "model"))
        restored = average.variables_to_restore([first, second])
    expected = {variable.op.name: saved for saved, variable in restored.items()}
    variables = checkpoint.read_checkpoint(tmp_path)
    averages = checkpoint.moving_averages(variables)
    assert sorted(averages) == ["model/kernel", "model/model/loss", "rnn/kernel"]
    for name in ("model/kernel", "rnn/kernel"):
        assert averages[name].tolist() == variables[expected[name]].tolist()
        assert set(averages[name]) == {1.0} and set(variables[name]) == {5.0}
    kinds = [checkpoint.kind(name) for name in variables]
    assert (kinds.count("average"), kinds.count("weight")) == (3, 2)


def test_moving_averages_of_a_graph():
    """Names of a graph end with `:0`, which is removed."""
    given = {"rnn/w:0": 1.0, "rnn/w/ExponentialMovingAverage:0": 2.0, "rnn/w/Adam:0": 3.0}
    assert checkpoint.moving_averages(given) == {"rnn/w": 2.0}


def test_two_averages_of_one_variable_are_an_error():
    end = "/ExponentialMovingAverage"
    with pytest.raises(ValueError, match="expected one average of 'w', got 'w.*' and 'train/w.*'"):
        checkpoint.moving_averages({"w": 1.0, "w" + end: 2.0, "train/w" + end: 3.0})
