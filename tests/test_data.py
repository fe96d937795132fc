"""Images: identical pixels in any order, batch and thread count; balanced, independent, learnable attributes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from repsim.data import ATTRIBUTES, CLASSES, COLORS, SHAPES, ColorShapeDigit, LabelledImages, contact_sheet, handwriting
from repsim.data.color_shape_digit import TEST_ID_OFFSET, _hash, _sample, _source_rows, _uniform
from repsim.data.images import enlarge

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_thread():  # type: ignore[no-untyped-def]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some_images(n: int = 4) -> LabelledImages:
    random = np.random.default_rng(0)
    return LabelledImages(
        random.random((n, 3, 5, 6), dtype=np.float32),
        random.integers(0, 2, (n, 2)),
        (2, 3),
        ("a", "b"),
        np.arange(n, dtype=np.int64) + 10,
    )


# ----------------------------------------------------------------------------------------------------- ColorShapeDigit


def test_importing_the_data_loads_nothing_heavy() -> None:
    code = "import sys, repsim.data; print([m for m in ('torch', 'sklearn', 'matplotlib', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_pixels_are_8_bit_colours_on_white_within_range() -> None:
    images = ColorShapeDigit().images(range(500))
    assert images.dtype == np.float32 and images.shape == (500, 3, 28, 28)
    assert images.min() >= 0 and images.max() == 1
    assert np.array_equal(images, np.rint(images * 255).astype(np.float32) / np.float32(255))
    white = (images == 1).all(axis=1).mean()
    assert 0.4 < white < 0.8


@pytest.mark.parametrize("size", [20, 28, 45, 128])
def test_pixels_do_not_depend_on_order_batch_or_threads(size: int) -> None:
    data = ColorShapeDigit(seed=3, size=size)
    n = 700 if size <= 28 else 40  # 700 spans two of the batches that are drawn at a time
    indices = np.random.default_rng(0).choice(len(data), n, replace=False)
    whole = data.images(indices)
    assert np.array_equal(data.images(indices[::-1])[::-1], whole)
    assert np.array_equal(np.concatenate([data.images([i]) for i in indices[:20]]), whole[:20])
    assert np.array_equal(data.images(indices[7:31]), whole[7:31])
    assert np.array_equal(data.images([indices[5]] * 3), np.repeat(whole[5:6], 3, axis=0))
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert np.array_equal(data.images(indices), whole)


def test_pixels_are_the_same_on_every_machine() -> None:
    # Recorded once. A change of these is a change of the data set, and of every result that was measured on it.
    assert ColorShapeDigit().pixel_hash(range(256)).startswith("f56de37bb5d59bcb")
    assert ColorShapeDigit(seed=5, size=32, source="test").pixel_hash(range(256)).startswith("9347a68c51dc451b")


def test_pixels_do_not_depend_on_the_vector_instructions() -> None:
    code = "from repsim.data import ColorShapeDigit; print(ColorShapeDigit(seed=8).pixel_hash(range(2000)))"
    plain = os.environ | {"ATEN_CPU_CAPABILITY": "default"}  # torch without AVX: other vectors, no fused multiply-add
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ColorShapeDigit(seed=8).pixel_hash(range(2000))


@pytest.mark.parametrize("tile", [16, 32, 64])
def test_sampling_is_exact_arithmetic(tile: int) -> None:
    """Equal to float64 bilinear interpolation with no tolerance: nothing is left for a machine to round its own way."""
    random = np.random.default_rng(tile)
    maps = random.integers(-127, 256, (9, tile, tile)).astype(np.float64)
    matrix = random.uniform(-1, 1, (9, 2, 3)) * [0.7, 0.7, 5]
    odd = np.arange(-27, 28, 2)
    coarse = np.rint(matrix * 256)[:, :, :, None, None] / 256
    x, y = np.moveaxis(coarse[:, :, 0] * odd + coarse[:, :, 1] * odd[:, None] + coarse[:, :, 2], 1, 0) + (tile - 1) / 2
    padded = np.pad(maps, ((0, 0), (60, 60), (60, 60)))
    left, top, item = np.floor(x).astype(int), np.floor(y).astype(int), np.arange(9)[:, None, None]
    expected = sum(
        padded[item, top + down + 60, left + right + 60] * (1 - np.abs(x - left - right)) * (1 - np.abs(y - top - down))
        for down in (0, 1)
        for right in (0, 1)
    )
    got = _sample(torch.from_numpy(maps.astype(np.float32)), matrix, 28, "zeros").numpy().astype(np.float64)
    assert np.array_equal(got, expected)


def test_drawing_ignores_global_state_of_torch() -> None:
    expected = ColorShapeDigit().images(range(8))
    state = torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        assert np.array_equal(ColorShapeDigit().images(range(8)), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pixel_hash_is_the_hash_of_the_8_bit_pixels() -> None:
    data = ColorShapeDigit(seed=1)
    pixels = np.rint(data.images(range(600)) * 255).astype(np.uint8)
    assert data.pixel_hash(range(600)) == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert data.pixel_hash(range(600)) != data.pixel_hash([1, 0, *range(2, 600)])


def test_seed_source_and_index_each_change_the_picture() -> None:
    hashes = {
        ColorShapeDigit(seed=seed, source=source).pixel_hash([index])
        for seed in (0, 1, 2**62)
        for source in ("train", "test")
        for index in (0, 1, 799_999)
    }
    assert len(hashes) == 18
    assert np.array_equal(ColorShapeDigit(length=10).images([9]), ColorShapeDigit(length=9_000).images([9]))


def test_every_800_images_hold_each_combination_once_in_another_order() -> None:
    data = ColorShapeDigit(seed=2)
    blocks = data.factors(range(4000)).reshape(5, 800, 3)
    codes = np.array([np.ravel_multi_index(tuple(block.T), CLASSES) for block in blocks])
    assert (np.sort(codes, axis=1) == np.arange(800)).all()
    assert len({block.tobytes() for block in codes}) == 5
    assert np.array_equal(data.factors([801, 3]), blocks.reshape(-1, 3)[[801, 3]])
    assert not np.array_equal(
        codes[0], np.ravel_multi_index(tuple(ColorShapeDigit(seed=3).factors(range(800)).T), CLASSES)
    )
    early = data.factors(range(200))  # a prefix of a block is nearly balanced too
    for column, classes in enumerate(CLASSES):
        assert np.bincount(early[:, column], minlength=classes).min() >= 200 / classes / 3


def test_hashes_are_uniform_and_uncorrelated() -> None:
    values = _uniform(_hash(_hash(9, np.arange(20_000)), np.arange(6)[:, None]))
    assert values.min() >= 0 and values.max() < 1
    for row in values:
        observed = np.bincount((row * 50).astype(int), minlength=50)
        assert ((observed - 400) ** 2 / 400).sum() < 100  # chi-squared, 49 degrees of freedom: p = 2e-5
    series = np.concatenate([values, np.roll(values[:1], 1, axis=1)])
    off = np.corrcoef(series) - np.eye(len(series))
    assert np.abs(off).max() < 5 / np.sqrt(20_000)


def test_train_and_test_never_share_a_source_digit() -> None:
    scans, digits = load_digits(return_X_y=True)
    train, test = _source_rows("train"), _source_rows("test")
    assert sorted([*train, *test]) == list(range(1797))
    assert not {scans[i].tobytes() for i in train} & {scans[i].tobytes() for i in test}
    share = np.bincount(digits[test]) / np.bincount(digits)
    assert np.abs(share - 0.2).max() < 0.01


@pytest.mark.parametrize("source", ["train", "test"])
def test_the_digit_drawn_comes_from_its_source_and_class(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks out all scans but one class of one source: exactly the other digits' images lose their digit."""
    from repsim.data import color_shape_digit

    data = ColorShapeDigit(source=source)
    with_digit = data.images(range(200))
    real_scans, digits = color_shape_digit.digit_scans()
    keep = np.zeros(1797, dtype=bool)
    keep[_source_rows(source)] = True
    keep &= digits != 4
    color_shape_digit._scans.cache_clear()
    monkeypatch.setattr(color_shape_digit, "digit_scans", lambda: (real_scans * keep[:, None, None], digits))
    try:
        without = data.images(range(200))
    finally:
        color_shape_digit._scans.cache_clear()
    changed = (with_digit != without).any(axis=(1, 2, 3))
    assert np.array_equal(changed, data.factors(range(200))[:, 2] == 4)


def test_the_outline_has_the_full_colour_and_the_digit_is_paler() -> None:
    data = ColorShapeDigit()
    images, factors = data.images(range(800)), data.factors(range(800))
    means = np.array(
        [images[factors[:, 0] == c].min(axis=(2, 3)).mean(axis=0) for c in range(10)]
    )  # darkest, per channel
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1) + 10 * np.eye(10)
    assert gaps.min() > 0.15
    middle = images[factors[:, 1] == SHAPES.index("square")][:, :, 10:18, 10:18]
    outline = images[factors[:, 1] == SHAPES.index("square")]
    ink_digit, ink_outline = 1 - middle.min(axis=(1, 2, 3)), 1 - outline.min(axis=(1, 2, 3))
    assert (ink_digit > 0.25).mean() > 0.99  # there is a digit
    assert (ink_digit < 0.85 * ink_outline).mean() > 0.95


def test_every_attribute_can_be_read_off_the_pixels_of_unseen_images() -> None:
    """Nearest neighbour of plain pixels, 4 000 training against 300 test images: far above chance in all three."""
    train, test = ColorShapeDigit(size=20)[:4000], ColorShapeDigit(size=20, source="test")[:300]
    accuracy = {}
    colour = [data.images.min(axis=(2, 3)) for data in (train, test)]
    ink = [1 - data.images.min(axis=1).reshape(len(data), -1) for data in (train, test)]
    # Of the middle, only the pattern counts: the pen's strength is the colour's affair.
    middle = [1 - data.images.min(axis=1)[:, 6:15, 6:14].reshape(len(data), -1) for data in (train, test)]
    middle = [(rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True) for rows in middle]
    for column, (a, b) in enumerate((colour, ink, middle)):
        nearest = ((b**2).sum(1)[:, None] + (a**2).sum(1) - 2 * b @ a.T).argmin(1)
        accuracy[ATTRIBUTES[column]] = (train.labels[nearest, column] == test.labels[:, column]).mean()
    assert accuracy["color"] > 0.9 and accuracy["shape"] > 0.6 and accuracy["digit"] > 0.3, accuracy


def test_labelled_indexing_and_captions() -> None:
    data = ColorShapeDigit(seed=1, length=1000)
    some = data.labelled([5, 900, 3], ("digit", "color"))
    assert some.attributes == ("digit", "color") and some.classes == (10, 10) and some.ids.tolist() == [5, 900, 3]
    assert np.array_equal(some.labels, data.factors([5, 900, 3])[:, [2, 0]])
    assert np.array_equal(some.images, data.images([5, 900, 3]))
    assert len(data) == 1000 and data[7].labels.shape == (1, 3)
    assert np.array_equal(data[990:].ids, np.arange(990, 1000))
    assert np.array_equal(data[np.array([4, 2])].images, data.images([4, 2]))
    assert [one.ids[0] for one in ColorShapeDigit(length=3)] == [0, 1, 2]
    assert ColorShapeDigit(source="test")[3].ids.tolist() == [TEST_ID_OFFSET + 3]
    color, shape, digit = data.factors([0])[0]
    assert data.captions([0]) == (f"{COLORS[color]} {SHAPES[shape]} {digit}",)


DATA = ColorShapeDigit(length=100)
BAD_REQUESTS = [
    (
        lambda: DATA.images([-1]),
        ValueError,
        r"\[ColorShapeDigit.images\] expected indices in \[0, 100\), got -1 at position 0",
    ),
    (lambda: DATA.factors([0, 100]), ValueError, r"expected indices in \[0, 100\), got 100 at position 1"),
    (lambda: DATA[100], ValueError, r"expected indices in \[0, 100\), got 100"),
    (lambda: DATA[50:50], ValueError, r"expected indices that are not empty"),
    (lambda: DATA.images([]), ValueError, r"expected indices that are not empty"),
    (lambda: DATA.images([0.5]), TypeError, r"expected indices as integers, got float64"),
    (lambda: DATA.images([True]), TypeError, r"expected indices as integers, got bool"),
    (lambda: DATA.images([[1]]), ValueError, r"expected indices with one axis, got shape \(1, 1\)"),
    (lambda: DATA.pixel_hash([100]), ValueError, r"\[ColorShapeDigit.pixel_hash\] expected indices in \[0, 100\)"),
    (
        lambda: DATA.labelled([1], ("hue",)),
        ValueError,
        r"expected attributes among \('color', 'shape', 'digit'\), got 'hue'",
    ),
    (lambda: DATA.labelled([1], ()), ValueError, r"expected attributes each once and at least one, got \(\)"),
    (lambda: DATA.labelled([1], ("color", "color")), ValueError, r"expected attributes each once"),
    (lambda: DATA.labelled([1], "color"), TypeError, r"expected attributes as a tuple of names, got 'color'"),
    (lambda: DATA.labelled([1, 1]), ValueError, r"expected distinct ids, got 1 repeated"),
    (lambda: ColorShapeDigit(size=8), ValueError, r"\[ColorShapeDigit\] expected size in \[20, 128\], got 8"),
    (lambda: ColorShapeDigit(size=28.0), TypeError, r"expected size as an integer, got 28.0"),
    (lambda: ColorShapeDigit(seed=-1), ValueError, r"expected seed in \[0, \d+\], got -1"),
    (lambda: ColorShapeDigit(length=0), ValueError, r"expected length in \[1, \d+\], got 0"),
    (lambda: ColorShapeDigit(source="val"), ValueError, r"expected source as one of \('train', 'test'\), got 'val'"),
    (lambda: handwriting(7), ValueError, r"\[handwriting\] expected size in \[8, 128\] pixels, got 7"),
    (lambda: handwriting("16"), TypeError, r"\[handwriting\] expected size as an integer, got '16'"),
    (
        lambda: some_images().take(np.array([4])),
        ValueError,
        r"\[LabelledImages.take\] expected positions in \[0, 4\), got 4",
    ),
    (lambda: some_images().take(np.array([1, 1])), ValueError, r"expected distinct ids, got 1 repeated"),
    (
        lambda: contact_sheet(np.zeros((0, 3, 4, 4))),
        ValueError,
        r"\[contact_sheet\] expected images \[n, 3 or 1, height, width\]",
    ),
    (
        lambda: contact_sheet(np.zeros((1, 3, 4, 4), dtype=int)),
        TypeError,
        r"expected images as floats in \[0, 1\], got int64",
    ),
    (
        lambda: contact_sheet(np.full((1, 3, 4, 4), 2.0)),
        ValueError,
        r"expected images with values in \[0, 1\], got \[2, 2\]",
    ),
    (
        lambda: contact_sheet(np.zeros((1, 3, 4, 4)), columns=0),
        ValueError,
        r"expected columns as an integer of at least 1, got 0",
    ),
    (
        lambda: contact_sheet(np.zeros((2, 3, 4, 4)), captions=["a"]),
        ValueError,
        r"expected captions for 2 images, got 1",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD_REQUESTS)
def test_a_bad_request_is_one_clear_error(call, kind, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ LabelledImages


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"images": np.zeros((4, 3, 5, 6))}, TypeError, r"expected images as a numpy array of float32, got float64"),
        ({"labels": np.zeros((4, 2), np.int32)}, TypeError, r"expected labels as a numpy array of int64, got int32"),
        ({"ids": [0, 1, 2, 3]}, TypeError, r"expected ids as a numpy array of int64, got list"),
        (
            {"images": np.zeros((4, 5, 6), np.float32)},
            ValueError,
            r"expected images with 4 axes, got shape \(4, 5, 6\)",
        ),
        ({"images": np.zeros((0, 3, 5, 6), np.float32)}, ValueError, r"expected images that are not empty"),
        ({"images": np.zeros((3, 3, 5, 6), np.float32)}, ValueError, r"expected labels with 3 rows like images, got 4"),
        ({"ids": np.arange(5)}, ValueError, r"expected ids with 4 rows like images, got 5"),
        ({"ids": np.array([1, 2, 1, 3])}, ValueError, r"expected distinct ids, got 1 repeated"),
        ({"classes": (2,)}, ValueError, r"expected one entry of classes and attributes for each column of labels"),
        ({"classes": (1, 3)}, ValueError, r"expected labels of 'a' in \[0, 1\), got \[0, 1\]"),
        ({"images": np.full((4, 3, 5, 6), 1.5, np.float32)}, ValueError, r"values in \[0, 1\], got \[1.5, 1.5\]"),
        ({"images": np.full((4, 3, 5, 6), np.nan, np.float32)}, ValueError, r"values in \[0, 1\], got \[nan, nan\]"),
    ],
)
def test_labelled_images_that_do_not_fit_together(changes, kind, message) -> None:  # type: ignore[no-untyped-def]
    whole = some_images()
    fields = {name: getattr(whole, name) for name in ("images", "labels", "classes", "attributes", "ids")}
    with pytest.raises(kind, match=r"\[LabelledImages\] .*" + message):
        LabelledImages(**(fields | changes))


def test_take_keeps_rows_together() -> None:
    whole = some_images()
    part = whole.take(np.array([3, 0]))
    assert len(part) == 2 and part.ids.tolist() == [13, 10] and part.classes == whole.classes
    assert np.array_equal(part.images, whole.images[[3, 0]]) and np.array_equal(part.labels, whole.labels[[3, 0]])
    part.images[:] = 0
    assert whole.images[3].any()  # a copy


def test_content_hash_sees_every_array_and_nothing_else() -> None:
    whole = some_images()
    same = LabelledImages(np.asfortranarray(whole.images), whole.labels, whole.classes, whole.attributes, whole.ids)
    assert whole.content_hash() == same.content_hash() and len(whole.content_hash()) == 64
    for name in ("images", "labels", "ids"):
        other = some_images()
        array = getattr(other, name)
        array[-1] = (
            1 - array[-1] if name == "labels" and array[-1].max() < 2 else array[-1] / 2 if name == "images" else 99
        )
        assert other.content_hash() != whole.content_hash(), name
    assert whole.take(np.array([1, 0, 2, 3])).content_hash() != whole.content_hash()


def test_handwriting_is_the_real_thing() -> None:
    bunch = load_digits()
    as_scanned, large = handwriting(8), handwriting()
    assert np.array_equal(
        as_scanned.images[:, 0], np.rint(bunch.images / 16 * 255).astype(np.float32) / np.float32(255)
    )
    assert large.images.shape == (1797, 3, 16, 16) and large.attributes == ("digit",) and large.classes == (10,)
    assert np.array_equal(large.images[:, 0], large.images[:, 2])
    assert np.array_equal(large.labels[:, 0], bunch.target) and np.array_equal(large.ids, np.arange(1797))
    blocks = large.images[:, 0].reshape(1797, 8, 2, 8, 2).mean(axis=(2, 4))
    assert np.corrcoef(blocks.ravel(), bunch.images.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("size", [8, 10, 16, 23, 64])
def test_enlarging_agrees_with_cubic_convolution_in_float64(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 17, (3, 8, 8))

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))

    centres = (np.arange(size) + 0.5) * 8 / size - 0.5
    weights = np.zeros((size, 8))
    for source in range(-2, 11):  # beyond an edge lies the edge pixel
        weights[:, np.clip(source, 0, 7)] += kernel(centres - source)
    expected = np.einsum("ai,nij,bj->nab", weights, images.astype(np.float64), weights)
    assert np.abs(enlarge(images, size) - expected).max() < 16 * 0.01


def test_contact_sheet_shows_the_pixels(tmp_path: Path) -> None:
    images = ColorShapeDigit().images(range(7))
    sheet = contact_sheet(images, columns=3, scale=2, path=tmp_path / "sheet.png")
    assert sheet.size == (4 + 3 * 60, 4 + 3 * 60) and (tmp_path / "sheet.png").stat().st_size > 500
    fifth = np.asarray(sheet)[64 : 64 + 56, 64 : 64 + 56]  # second row, second column
    assert np.array_equal(fifth[::2, ::2], np.rint(images[4].transpose(1, 2, 0) * 255))
    captioned = contact_sheet(images, columns=3, captions=ColorShapeDigit().captions(range(7)))
    assert captioned.width == sheet.width and captioned.height > sheet.height
    below = np.asarray(captioned)[4 + 56 + 1 : 4 + 56 + 8, 4:60]
    assert below.min() < 150  # there is text
    assert contact_sheet(images[:2, :1]).size == (4 + 2 * 60, 64)  # grey
