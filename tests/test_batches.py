"""What is drawn for a batch: it depends on seed, step and an image's place in the batch alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.params import Train

pytestmark = pytest.mark.usefixtures("engine")

SEEDS = st.integers(0, 2**32 - 1)


@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 9), SEEDS)
def test_shuffled_batches_take_each_image_once_an_epoch(
    training: Any, images: int, batch_size: int, steps: int, seed: int
) -> None:
    shuffled_batches = training.batches.shuffled_batches
    blocks = list(shuffled_batches(np.ones(images), batch_size, steps, seed, 0))
    rows = [row for block in blocks for row in block]
    assert all(block.dtype == np.int32 and len(block) <= steps for block in blocks)
    assert len(rows) == training.batches.steps_per_epoch(images, batch_size)
    assert {len(row) for row in rows[:-1]} <= {batch_size}
    order = np.concatenate(rows).tolist()
    assert sorted(order) == list(range(images))
    another = shuffled_batches(np.ones(images), batch_size, steps % 9 + 1, seed, 0)
    assert [number for block in another for number in block.ravel().tolist()] == order


def test_shuffled_batches_are_others_in_another_epoch_and_with_another_seed(training: Any) -> None:
    orders = {
        next(training.batches.shuffled_batches(np.ones(1000), 1000, 1, *of)).tobytes()
        for of in ((1, 0), (1, 1), (2, 0))
    }
    assert len(orders) == 3


@given(hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(0, 1, width=32)), SEEDS)
def test_shuffled_batches_take_an_image_as_often_as_its_rate_says(
    training: Any, errors: np.ndarray, seed: int
) -> None:
    rates = training.batches.sampling_rates(errors, 0.75)
    assert rates.min() >= 0.25 - 1e-9
    assert rates.mean() == pytest.approx(1)
    counts = np.zeros(len(errors))
    for block in training.batches.shuffled_batches(rates, 7, 3, seed, 0):
        np.add.at(counts, block.ravel(), 1)
    assert counts.sum() == len(errors)
    assert (np.abs(counts - rates) < 1 + 1e-9).all()


def test_sampling_rates_are_in_proportion_to_the_errors_but_for_a_share(training: Any) -> None:
    sampling_rates = training.batches.sampling_rates
    errors = np.array([0, 0.1, 0.3, 0.4], np.float32)
    assert sampling_rates(errors, 0.5) == pytest.approx([0.5, 0.75, 1.25, 1.5])
    assert sampling_rates(errors, 0).tolist() == [1, 1, 1, 1]
    assert sampling_rates(errors * 0, 0.5).tolist() == [1, 1, 1, 1]


@given(st.integers(0, 60), st.integers(1, 9))
def test_parts_cover_a_batch_once_as_evenly_as_it_goes(
    training: Any, batch: int, workers: int
) -> None:
    parts = [training.batches.Part.of(batch, worker, workers) for worker in range(workers)]
    assert np.concatenate([part.places() for part in parts]).tolist() == list(range(batch))
    sizes = [len(part.places()) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_draws_differ_by_seed_purpose_and_step(training: Any) -> None:
    import tensorflow as tf

    places, steps = np.arange(200), [tf.constant(step, tf.int64) for step in (0, 0, 0, 1)]
    draws = [training.batches.Draws(*of) for of in ((1, 1), (2, 1), (1, 2), (1, 1))]

    @tf.function(jit_compile=True)
    def draw() -> list[tf.Tensor]:
        return [one.uniform(step, 200, places, 1) for one, step in zip(draws, steps, strict=True)]

    drawn = np.hstack(draw())
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.3


def augmented(
    images: np.ndarray, step: int, workers: int = 1, **parameters: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Augment a batch whose labels are one-hot by row, each worker its part, compiled."""
    import tensorflow as tf

    from fashion_mlp.training.augmentation import Augmentation
    from fashion_mlp.training.batches import Part

    image_shape = parameters.pop("image_shape", (1, 1))
    augmentation = Augmentation(Train(**parameters), image_shape)
    labels = np.eye(len(images), dtype=np.float32)

    @tf.function(jit_compile=True)
    def augment() -> list[tuple[tf.Tensor, tf.Tensor]]:
        results = []
        for worker in range(workers):
            part = Part.of(len(images), worker, workers)
            places, number = augmentation.places(part), tf.constant(step, tf.int64)
            of = (tf.constant(images[places]), tf.constant(labels[places]))
            results.append(augmentation(*of, number, part))
        return results

    got, got_labels = (np.concatenate(arrays) for arrays in zip(*augment(), strict=True))
    return got, got_labels


@pytest.mark.parametrize(("batch", "workers"), [(9, 4), (2, 4)])
def test_parts_of_a_batch_are_augmented_as_in_the_whole(batch: int, workers: int) -> None:
    images = np.random.default_rng(0).random((batch, 6), np.float32)
    parameters: dict[str, Any] = {
        "image_shape": (2, 3),
        "random_flip": True,
        "random_affine": 1.0,
        "random_elastic": 1.0,
        "mixup": 1.0,
    }
    whole = augmented(images, 5, **parameters)
    parts = augmented(images, 5, workers, **parameters)
    for got, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert (np.count_nonzero(whole[1], axis=1) == 2).all()  # each with its neighbour


def test_random_flip_mirrors_about_half_of_the_images_anew_at_each_step() -> None:
    images = np.random.default_rng(0).random((400, 6), np.float32)
    mirrored = images.reshape(400, 2, 3)[:, :, ::-1].reshape(400, 6)
    chosen = []
    for step in (0, 1):
        got, labels = augmented(images, step, image_shape=(2, 3), random_flip=True)
        chosen.append((got == mirrored).all(axis=1))
        assert np.array_equal(got, np.where(chosen[-1][:, np.newaxis], mirrored, images))
        assert 150 < chosen[-1].sum() < 250
        assert np.array_equal(labels, np.eye(400))
    assert not np.array_equal(*chosen)


def test_mixup_blends_a_share_of_the_images_and_their_labels_with_the_next() -> None:
    images = np.eye(400, dtype=np.float32)  # so that each says of what it is blended
    got, labels = augmented(images, 7, mixup=0.25)
    assert np.array_equal(got, labels)
    shares = got.diagonal()[:, np.newaxis]
    expected = shares * images + (1 - shares) * np.roll(images, -1, axis=0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert 70 < (shares < 1).sum() < 130
    assert 0.4 < shares[shares < 1].mean() < 0.6
    assert not np.array_equal(augmented(images, 8, mixup=0.25)[0], got)


def test_random_affine_moves_by_up_to_what_is_asked_for() -> None:
    """A dot in the middle goes as far as images are moved; what bends them, it does not feel."""
    images = np.zeros((400, 15, 15), np.float32)
    images[:, 7, 7] = 1
    parameters: dict[str, Any] = {"image_shape": (15, 15), "random_affine": 2.0}
    got, labels = augmented(images.reshape(400, -1), 3, **parameters)
    assert np.array_equal(labels, np.eye(400))
    spots = got.reshape(images.shape)
    places = np.indices((15, 15)) - 7
    moved = np.einsum("nhw,ahw->na", spots, places) / spots.sum(axis=(1, 2))[:, np.newaxis]
    assert 1 < np.abs(moved).max() < 3  # in a bent image a step is longer or shorter
    assert np.abs(moved.mean(axis=0)).max() < 0.1
    assert 0.3 < np.abs(moved).mean() < 0.7
    assert not np.array_equal(augmented(images.reshape(400, -1), 4, **parameters)[0], got)


def test_random_elastic_moves_each_place_by_up_to_what_is_asked_for() -> None:
    """Ramps down and across say how far each pixel was moved; neighbours move alike."""
    ramps = [np.indices((28, 28))[axis].reshape(-1) for axis in (0, 1)]
    for ramp in ramps:
        images = np.tile(np.float32(ramp), (400, 1))
        got, labels = augmented(images, 3, image_shape=(28, 28), random_elastic=2.0)
        assert np.array_equal(labels, np.eye(400))
        moved = (got - images).reshape(400, 28, 28)[:, 3:-3, 3:-3]  # what is outside is 0
        assert 1.5 < np.abs(moved).max() < 2.6  # between knots the curve may go beyond them
        assert np.abs(moved.mean(axis=0)).max() < 0.25
        assert np.abs(np.diff(moved, axis=1)).max() < 1.5  # knots are 4 pixels apart
        assert np.abs(moved - moved.mean(axis=(1, 2), keepdims=True)).mean() > 0.2


def resampled(images: np.ndarray, matrix: Any, offset: Any) -> np.ndarray:
    """Resample images, float32 (n, height, width), all by one map."""
    import tensorflow as tf

    from fashion_mlp.training.augmentation import affine_places, resample

    count, height, width = images.shape
    maps = (np.tile(np.float32(part), (count, *[1] * np.ndim(part))) for part in (matrix, offset))
    places = affine_places((height, width), *map(tf.constant, maps))
    flat = resample(images.reshape(count, -1), (height, width), places)
    return flat.numpy().reshape(images.shape)


def test_resample_turns_moves_and_interpolates() -> None:
    images = np.random.default_rng(0).random((3, 6, 6), np.float32)
    same, turn = np.eye(2), [[0, 1], [-1, 0]]
    assert np.array_equal(resampled(images, same, [0, 0]), images)
    assert np.array_equal(resampled(images, turn, [0, 0]), np.rot90(images, 1, (1, 2)))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    assert np.array_equal(resampled(images, same, [1, -1]), padded[:, 2:, :-2])
    between = (padded[:, 1:-1, 1:-1] + padded[:, 1:-1, 2:]) / 2
    np.testing.assert_allclose(resampled(images, same, [0, 0.5]), between, rtol=0, atol=1e-6)
    below = 0.75 * padded[:, 1:-1, 1:-1] + 0.25 * padded[:, 2:, 1:-1]
    np.testing.assert_allclose(resampled(images, same, [0.25, 0]), below, rtol=0, atol=1e-6)
    assert not resampled(images, same, [1e30, 0]).any()  # from outside
    wide = np.random.default_rng(0).random((2, 4, 7), np.float32)
    assert np.array_equal(resampled(wide, -np.eye(2), [0, 0]), wide[:, ::-1, ::-1])
