"""`taut.train`: epochs, what stops them, and data of every form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from taut.ir import FeedError, Graph, TrainingError

import taut
from taut.data import Dataset, shift
from taut.training import Trained

FAST: dict[str, Any] = {"target": "reference", "epochs": 3, "batch_size": 32,
                        "learning_rate": 0.05}  # fmt: skip


def weights(made: Trained) -> dict[str, bytes]:
    return {k: a.tobytes() for k, a in made.trainer.state.items()}


def test_it_trains_and_tells(mlp: Graph, data: Dataset, validation: Dataset) -> None:
    told: list[Any] = []
    made = taut.train(
        mlp, data, validation=validation, metrics=["accuracy", "top-3"], schedule="cosine",
        on_epoch=lambda t, row: told.append(row), **FAST,
    )  # fmt: skip
    history = made.history
    assert history["epoch"] == [1, 2, 3] and told == history.rows and made.epoch == 3
    losses: Any = history["loss"]
    assert losses[0] > losses[1] > losses[2]
    last = history.rows[-1]
    assert last["validation accuracy"] > 0.8 and last["validation top-3"] >= last[
        "validation accuracy"]  # fmt: skip
    assert 0 < last["learning rate"] < history.rows[0]["learning rate"] < 0.05
    scores = taut.reference(made.graph, validation.images)["scores"]
    right = (scores.argmax(1) == validation.labels).mean()
    assert right == pytest.approx(last["validation accuracy"])


def test_the_epoch_means_are_over_rows(mlp: Graph, data: Dataset) -> None:
    made = taut.train(mlp, data, **{**FAST, "epochs": 1, "learning_rate": 0.0, "batch_size": 99})
    scores = taut.reference(mlp, data.images)["scores"].astype(np.float64)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    assert made.history.rows[0]["loss"] == pytest.approx(
        -logs[np.arange(len(data)), data.labels].mean(), rel=1e-5)  # fmt: skip
    assert made.history.rows[0]["accuracy"] == (scores.argmax(1) == data.labels).mean()


def test_the_seed_fixes_everything(cnn: Graph, data: Dataset) -> None:
    options = {**FAST, "epochs": 1, "augment": shift(1)}
    a, b, c = (weights(taut.train(cnn, data[:96], seed=s, **options)) for s in (1, 1, 2))
    assert a == b != c


def test_every_form_of_data_trains_alike(mlp: Graph, data: Dataset) -> None:
    batches = list(data.batches(32))
    named = [{"target": y, "image": x} for x, y in batches]
    forms = (batches, named, lambda epoch: iter(batches))
    found = [weights(taut.train(mlp, form, **FAST)) for form in forms]
    assert found[0] == found[1] == found[2]


def test_early_stopping_gives_back_the_best(mlp: Graph, data: Dataset) -> None:
    # Labels of the validation set are wrong: the better the training, the worse its loss.
    wrong = Dataset(data.images, (data.labels + 1) % 10, 10)
    made = taut.train(mlp, data, validation=wrong, patience=2, monitor="validation loss",
                      **{**FAST, "epochs": 50})  # fmt: skip
    losses: Any = made.history["validation loss"]
    best = int(np.argmin(losses)) + 1
    assert made.epoch == best and len(losses) == best + 2 < 50
    assert f"best in epoch {best}" in made.stopped
    assert made.trainer.evaluate(wrong)["loss"] == pytest.approx(min(losses), rel=1e-5)


def test_the_best_weights_without_stopping(mlp: Graph, data: Dataset, validation: Dataset) -> None:
    made = taut.train(mlp, data, validation=validation, keep_best=True, **FAST)
    found: Any = made.history["validation accuracy"]
    assert made.epoch == int(np.argmax(found)) + 1 and not made.stopped


def test_a_bar_on_demand_only(mlp: Graph, data: Dataset, capfd: pytest.CaptureFixture[str]) -> None:
    taut.train(mlp, data[:32], **FAST)
    assert capfd.readouterr() == ("", "")
    taut.train(mlp, data[:32], progress=True, **FAST)
    out, error = capfd.readouterr()
    assert not out and "epoch 3" in error and "accuracy" in error


# ---- what is refused -----------------------------------------------------------------------------


def test_errors_say_epoch_and_batch(mlp: Graph, data: Dataset) -> None:
    batches = list(data.batches(32))

    def with_bad(epoch: int) -> Any:
        bad = batches[0][0].copy()
        bad[3, 0, 2, 2] = np.inf
        return [*batches[:4], (bad, batches[0][1])] if epoch else batches

    with pytest.raises(FeedError, match="epoch 2, batch 5: holds NaN or an infinity"):
        taut.train(mlp, with_bad, **FAST)
    with pytest.raises(TrainingError, match=r"epoch 1, batch [2-9]: the loss is"):
        taut.train(mlp, data, **{**FAST, "learning_rate": 1e30})


def test_bad_augmentation_is_found(mlp: Graph, data: Dataset) -> None:
    with pytest.raises(FeedError, match="epoch 1, batch 1: holds NaN"):
        taut.train(mlp, data, augment=lambda x, random: x * np.float32("nan"), **FAST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0"), ({"batch_size": 2.5}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate"), ({"learning_rate": float("nan")}, "learning"),
        ({"epoch": 3}, "no option 'epoch'"), ({"resume": True}, "resume"),
        ({"monitor": "recall", "patience": 1}, "'recall'"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(mlp: Graph, data: Dataset, options: Any, message: str) -> None:
    with pytest.raises(FeedError, match=message):
        taut.train(mlp, data[:32], **{**FAST, **options})


def test_data_that_do_not_do_are_refused(mlp: Graph, data: Dataset) -> None:
    with pytest.raises(FeedError, match="empty"):
        taut.train(mlp, data[:0], **FAST)
    with pytest.raises(FeedError, match="not one batch"):
        taut.train(mlp, [], **FAST)
    with pytest.raises(FeedError, match="only once"):
        taut.train(mlp, iter(list(data.batches(32))), **FAST)
    with pytest.raises(FeedError, match="number of batches"):
        taut.train(mlp, lambda epoch: data.batches(32), schedule="cosine", **FAST)
    with pytest.raises(FeedError, match="augmentation"):
        taut.train(mlp, list(data.batches(32)), augment=shift(1), **FAST)
