"""Estimators of scikit-learn's kind are told apart by what they learnt, and by nothing else."""

import functools
import json
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad.adapters.arrays import NumpyModel, OnnxModel
from fwdgrad.runner.fingerprint import parameters_digest
from fwdgrad.runner.sklearn_digest import estimator_digest

from .test_arrays import linear

pytest.importorskip("sklearn")

ROWS = np.random.default_rng(0).normal(size=(300, 8))
LABELS = (ROWS[:, 0] + ROWS[:, 1] * ROWS[:, 2] > 0).astype(int)
X = torch.tensor(ROWS[8])  # which the trees were shown
OPTIONS = {"method": fwdgrad.ForwardGradient(0.2), "n_samples": 64, "seed": 1}


def tree(seed):
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(random_state=seed, max_features=2).fit(ROWS[::2], LABELS[::2])


def fitted():
    """One of every kind whose state is of another form, by name; fitted anew at each call."""
    from sklearn.ensemble import (
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
    )
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler
    from sklearn.svm import SVC

    kinds = {
        "tree": tree(2),
        "forest": RandomForestClassifier(5, random_state=np.random.RandomState(0)),
        "boosting": GradientBoostingClassifier(n_estimators=5, random_state=0),
        "histograms": HistGradientBoostingClassifier(max_iter=5, random_state=0),
        "logistic": LogisticRegression(),
        "neighbours": KNeighborsClassifier(),  # its k-d tree counts its queries
        "vectors": SVC(),
        "pipeline": make_pipeline(StandardScaler(), FunctionTransformer(np.tanh), SVC()),
        "search": GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}),  # which it times
    }
    return {name: kind.fit(ROWS, LABELS) for name, kind in kinds.items()}


def digests():
    return {name: estimator_digest(kind) for name, kind in fitted().items()}


@pytest.mark.slow
def test_a_digest_is_the_same_after_calls_a_pickle_and_in_another_process():
    kinds, here = fitted(), digests()
    assert len(set(here.values())) == len(here)
    for name, kind in kinds.items():
        assert estimator_digest(kind) == here[name], name
        kind.predict(ROWS[:20])
        assert estimator_digest(kind) == here[name], name
        assert estimator_digest(pickle.loads(pickle.dumps(kind))) == here[name], name
    line = (
        "import json; from explain.test_sklearn_digest import digests; print(json.dumps(digests()))"
    )
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), *sys.path])
    # Another seed for the hashes of texts: no order of a set may enter.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == here


def test_what_tells_estimators_apart():
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    assert estimator_digest(tree(2)) != estimator_digest(tree(102))
    few, more = (KNeighborsClassifier(n).fit(ROWS, LABELS) for n in (3, 5))
    assert estimator_digest(few) != estimator_digest(more)
    more.set_params(n_neighbors=3, n_jobs=2)  # how many processors take part says nothing
    assert estimator_digest(few) == estimator_digest(more)
    machine = SVC().fit(ROWS, LABELS)
    before = estimator_digest(machine)
    machine._dual_coef_[0, 0] *= 1 + 1e-9
    assert estimator_digest(machine) != before


class Own:
    """An estimator of a user's own, with what no pickle can hold."""

    def __init__(self, shift):
        self.shift = shift

    def get_params(self, deep=True):
        return {"shift": self.shift}

    def fit(self, rows):
        self.lock, self.itself, self.calls_ = threading.Lock(), self, 0
        self.net = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(self.net.weight, 0.5)
        torch.nn.init.zeros_(self.net.bias)
        return self

    def predict(self, rows):
        self.calls_ += 1
        return rows.sum(1) + self.shift


def test_an_estimator_that_counts_has_a_lock_and_a_module():
    one, same, other = Own(1).fit(ROWS), Own(1).fit(ROWS), Own(2).fit(ROWS)
    one.predict(ROWS)
    assert estimator_digest(one) == estimator_digest(same) != estimator_digest(other)
    with torch.no_grad():
        same.net.weight[0, 0] += 1
    assert estimator_digest(one) != estimator_digest(same)


MODELS = {}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a: a.predict_proba,
        lambda a: NumpyModel(a.predict_proba),
        lambda a: NumpyModel(lambda rows: a.predict_proba(rows)),
        lambda a: lambda batch, model=a: model.predict_proba(batch),
        lambda a: functools.partial(lambda model, batch: model.predict_proba(batch), a),
        lambda a: lambda batch: np.concatenate([a.predict_proba(row[None]) for row in batch]),
        lambda a: MODELS.update(a=[a]) or (lambda batch: MODELS["a"][0].predict_proba(batch)),
    ],
    ids=["method", "wrapper", "closure", "default", "partial", "loop", "containers"],
)
def test_a_checkpoint_of_another_estimator_is_refused(tmp_path, wrap):
    path = tmp_path / "run.safetensors"
    one, other = tree(2), tree(102)
    x = X.numpy()[None]
    assert np.array_equal(one.predict_proba(x), other.predict_proba(x))  # alike at the input
    first = fwdgrad.explain(wrap(one), X, checkpoint=path, **OPTIONS)
    with pytest.raises(fwdgrad.CheckpointError, match="model was one of digest"):
        fwdgrad.explain(wrap(other), X, checkpoint=path, **OPTIONS)
    loaded = pickle.loads(pickle.dumps(one))
    again = fwdgrad.explain(wrap(loaded), X, checkpoint=path, **OPTIONS)
    assert torch.equal(again.attribution, first.attribution)


def test_onnx_models_are_told_apart_by_their_bytes(tmp_path):
    path = tmp_path / "linear.onnx"
    path.write_bytes(linear())
    one = OnnxModel(linear(), output="scores")
    same = [OnnxModel(path, output="scores"), OnnxModel(one.session, output="scores")]
    same.append(lambda batch: one(batch)[:, :2])
    assert {parameters_digest(model) for model in same} == {parameters_digest(one)}
    weights = np.arange(12.0).reshape(4, 3)
    others = [OnnxModel(linear(weights=weights), output="scores"), OnnxModel(path, output="label")]
    shifts = [{"shift": [0.0, 0.0, value]} for value in (1.0, 2.0)]
    others += [OnnxModel(linear(second=True), output="scores", fixed=shift) for shift in shifts]
    assert len({parameters_digest(model) for model in [one, *others]}) == 5
