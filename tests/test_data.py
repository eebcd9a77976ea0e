"""course_lib.data on planted trees, planted batch files and a mirror on 127.0.0.1."""

import ast
import functools
import hashlib
import http.server
import io
import os
import pickle
import resource
import shutil
import socket
import tarfile
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib import data, standin
from course_lib.data import DataError, DataMissing, Split

COUNTS = {"train": 20, "test": 10}
REAL_LOAD, REAL_DOWNLOAD = data.load_cifar10, data.download
KEYS = ("train_images", "train_targets", "test_images", "test_targets")


def load(root: Path) -> data.Dataset:
    return data.load_cifar10(root, _counts=COUNTS)


def plant_tree(root: Path, seed: int = 0) -> set[tuple[str, int, bytes]]:
    """A folder tree of 20 + 10 lossless images; returns {(split, class, pixels as (H, W, C))}."""
    rng, planted = np.random.default_rng(seed), set()
    for split, count in COUNTS.items():
        for label, name in enumerate(data.CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(count // 10):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index:04d}.png")
                planted.add((split, label, pixels.tobytes()))
    return planted


def contents(dataset: data.Dataset) -> set[tuple[str, int, bytes]]:
    found = set()
    for name in ("train", "test"):
        split = getattr(dataset, name)
        for image, target in zip(split.inputs, split.targets, strict=True):
            found.add((name, int(target), image.permute(1, 2, 0).contiguous().numpy().tobytes()))
    return found


@pytest.fixture
def tree(tmp_path):
    """A root with a sound tree one folder down, as data/cifar10-jpeg lies in data/."""
    plant_tree(tmp_path / "pictures")
    return tmp_path


def forbid(monkeypatch, name: str) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(data, name, refuse)


# --- image folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "pictures"])
def test_tree_is_read_whole_with_its_labels(tmp_path, below):
    planted = plant_tree(tmp_path / below)
    dataset = load(tmp_path)
    assert contents(dataset) == planted
    assert dataset.name == "CIFAR-10 from an image folder"
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (20, 0, 10)
    assert dataset.train.inputs.dtype == torch.uint8 and dataset.train.targets.dtype == torch.int64


def test_order_is_shuffled_and_fixed(tree):
    first = load(tree)
    (tree / data.CACHE).unlink()
    second = load(tree)
    assert torch.equal(first.train.inputs, second.train.inputs)
    for split in (first.train, first.test):
        assert not torch.equal(split.targets, split.targets.sort().values)


def test_folders_beside_the_tree_do_not_matter(tree):
    (tree / "another" / "train" / "shoe").mkdir(parents=True)
    (tree / "pictures" / "train" / ".hidden").mkdir()
    assert len(load(tree).train) == 20


def test_jpeg_copy_is_known_by_the_digest_of_its_files(tree, monkeypatch):
    digest = hashlib.sha256()
    for split in COUNTS:
        for path in sorted((tree / "pictures" / split).glob("*/*")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    monkeypatch.setattr(data, "JPEG_COPY", digest.hexdigest())
    assert load(tree).name == "CIFAR-10, JPEG copy"
    assert load(tree).name == "CIFAR-10, JPEG copy"  # from the cache


def test_one_line_says_that_the_first_load_takes_long(tree, capsys):
    load(tree)
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "pictures" in said.err
    load(tree)
    assert capsys.readouterr().err == ""


def spoil_grey(path):
    Image.new("L", (32, 32)).save(path)


def spoil_size(path):
    Image.new("RGB", (64, 48)).save(path)


def spoil_truncated(path):
    whole = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])


def spoil_text(path):
    path.write_text("not an image")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_grey, "is L, 32×32.*convert"),
        (spoil_size, "is RGB, 64×48.*convert"),
        (spoil_truncated, "cannot be decoded.*truncated.*copy it again"),
        (spoil_text, "cannot be decoded.*copy it again"),
    ],
)
def test_bad_image_is_named(tree, spoil, words):
    spoil(tree / "pictures" / "test" / "frog" / "0000.png")
    with pytest.raises(DataError, match=f"(?s)frog/0000.png {words}"):
        load(tree)
    assert not list(tree.glob("cifar10*"))  # no cache, no leftover


def test_half_copied_class_says_how_many_of_how_many(tree):
    (tree / "pictures" / "train" / "ship" / "0001.png").unlink()
    with pytest.raises(DataError, match="train/ship holds 1 of 2 images; copy the folder again"):
        load(tree)


def test_small_tree_is_no_cifar10_by_default(tree):
    with pytest.raises(DataError, match="train/airplane holds 2 of 5000 images"):
        data.load_cifar10(tree)


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_and_extra_classes_are_named(tree, split):
    (tree / "pictures" / split / "cat").rename(tree / "pictures" / split / "shoe")
    with pytest.raises(DataError, match=rf"{split} lacks .*\[cat\].*unknown classes \[shoe\]"):
        load(tree)


def test_missing_test_half_is_an_error(tree):
    shutil.rmtree(tree / "pictures" / "test")
    with pytest.raises(DataError, match="test lacks the classes"):
        load(tree)


@pytest.mark.parametrize("make", [False, True])
def test_nothing_there_is_data_missing(tmp_path, make):
    root = tmp_path / "nothing"
    if make:
        root.mkdir()
    with pytest.raises(DataMissing, match="no CIFAR-10 in .*nothing.*make data"):
        load(root)
    assert root.exists() == make


# --- the cache ----------------------------------------------------------------------------------


def test_later_loads_decode_nothing(tree, monkeypatch):
    first = load(tree)
    forbid(monkeypatch, "_read_folder")
    second = load(tree)
    assert second.identity == first.identity and contents(second) == contents(first)


def test_cache_serves_alone(tree):
    first = load(tree)
    shutil.rmtree(tree / "pictures")
    assert load(tree).identity == first.identity


def test_writing_into_loaded_data_does_not_reach_the_cache(tree):
    load(tree)
    dataset = load(tree)
    dataset.train.inputs.zero_()
    assert load(tree).identity == dataset.identity and load(tree).train.inputs.any()


def resave(path, **changes):
    held = torch.load(path, weights_only=True)
    torch.save(held | changes, path)


def flip_a_byte(path):
    spoiled = bytearray(path.read_bytes())
    start = spoiled.find(bytes(torch.load(path, weights_only=True)["train_images"][3].flatten()))
    assert start > 0
    spoiled[start + 7] ^= 1
    path.write_bytes(spoiled)


DEFECTS = {
    "unfinished": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "garbage": lambda p: p.write_bytes(b"\x80garbage" * 999),
    "zip of something else": lambda p: torch.save([1, 2], p),
    "old torch format": lambda p: torch.save({}, p, _use_new_zipfile_serialization=False),
    "other version": lambda p: resave(p, format="course_lib CIFAR-10, version 0"),
    "other identity": lambda p: resave(p, identity="0" * 16),
    "a flipped bit": flip_a_byte,
    "grey images": lambda p: resave(p, train_images=torch.zeros(20, 1, 32, 32, dtype=torch.uint8)),
    "labels out of range": lambda p: resave(p, test_targets=torch.arange(1, 11)),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_bad_cache_is_noticed_and_made_anew(tree, defect, monkeypatch, capsys):
    sound = load(tree)
    capsys.readouterr()
    DEFECTS[defect](tree / data.CACHE)
    assert load(tree).identity == sound.identity
    assert "once" in capsys.readouterr().err  # it was read anew
    forbid(monkeypatch, "_read_folder")
    assert load(tree).identity == sound.identity


def test_bad_cache_without_source_is_data_missing(tree):
    load(tree)
    shutil.rmtree(tree / "pictures")
    DEFECTS["a flipped bit"](tree / data.CACHE)
    with pytest.raises(DataMissing, match="the cache is damaged"):
        load(tree)


def test_cache_of_other_sizes_is_refused(tree):
    load(tree)
    shutil.rmtree(tree / "pictures")
    with pytest.raises(DataMissing, match="damaged"):
        data.load_cifar10(tree)


def test_changed_source_is_noticed(tree):
    before = load(tree)
    shutil.rmtree(tree / "pictures")
    planted = plant_tree(tree / "pictures", seed=1)
    after = load(tree)
    assert contents(after) == planted and after.identity != before.identity


def test_removed_image_is_noticed(tree):
    load(tree)
    (tree / "pictures" / "train" / "dog" / "0000.png").unlink()
    with pytest.raises(DataError, match="dog holds 1 of 2"):
        load(tree)


def test_full_disk_costs_the_cache_and_not_the_data(tree):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a real write error
    try:
        with pytest.warns(UserWarning, match=f"could not write .*{data.CACHE}.*free 200 MB"):
            dataset = load(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(contents(dataset)) == 30
    assert [p.name for p in tree.iterdir()] == ["pictures"]


def test_failed_write_leaves_the_old_cache(tree, monkeypatch):
    load(tree)
    old = (tree / data.CACHE).read_bytes()
    os.utime(tree / "pictures" / "train" / "cat", (1, 1))  # a changed source

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.warns(UserWarning, match="No space left"):
        load(tree)
    assert (tree / data.CACHE).read_bytes() == old and len(list(tree.iterdir())) == 2


# --- batch files through torchvision ------------------------------------------------------------


def plant_batches(root: Path, monkeypatch, train=None) -> set[tuple[str, int, bytes]]:
    """Pickles in the layout of CIFAR-10, their digests planted in torchvision."""
    kind, rng, planted = data.import_torchvision().datasets.CIFAR10, np.random.default_rng(3), set()
    (root / data.BATCHES).mkdir(parents=True)
    digests = {}
    for split, name in (("train", "data_batch_1"), ("test", "test_batch")):
        pixels = rng.integers(0, 256, (COUNTS[split], 3, 32, 32), dtype=np.uint8)
        labels = [i % 10 for i in range(COUNTS[split])]
        held = {"data": pixels.reshape(-1, 3072), "labels": labels}
        digests[name] = dump(root / data.BATCHES / name, held)
        for image, label in zip(pixels, labels, strict=True):
            planted.add((split, label, image.transpose(1, 2, 0).tobytes()))
    meta = dump(root / data.BATCHES / "batches.meta", {"label_names": list(data.CLASSES)})
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", digests["data_batch_1"]]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta})
    return planted


def dump(path: Path, held: object) -> str:
    path.write_bytes(pickle.dumps(held))
    return hashlib.md5(path.read_bytes()).hexdigest()


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_batch_files_are_read_and_come_first(tree, monkeypatch):
    planted = plant_batches(tree, monkeypatch)
    dataset = load(tree)
    assert contents(dataset) == planted and dataset.name == "CIFAR-10"
    forbid(monkeypatch, "_read_batches")
    assert load(tree).name == "CIFAR-10"


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_digest_is_checked_before_unpickling(tmp_path, monkeypatch, name):
    plant_batches(tmp_path, monkeypatch)
    flag = tmp_path / "exploded"
    dump(tmp_path / data.BATCHES / name, Bomb(flag))
    with pytest.raises(DataError, match=f"{name} is missing or its MD5 .*make data"):
        load(tmp_path)
    assert not flag.exists()
    pickle.loads((tmp_path / data.BATCHES / name).read_bytes())
    assert flag.exists()  # the bomb works, so the check above could fail


def test_unfinished_batches_are_an_error_and_no_fall_back(tree, monkeypatch):
    plant_batches(tree, monkeypatch)
    (tree / data.BATCHES / "test_batch").unlink()
    with pytest.raises(DataError, match="test_batch is missing"):
        load(tree)


def test_without_torchvision_a_sentence(tmp_path, monkeypatch):
    (tmp_path / data.BATCHES).mkdir()
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="torchvision, which is missing; pip install"):
        load(tmp_path)


def test_what_is_not_known_is_named_with_all_that_is():
    assert data.known("preprocess", "none", ("none", "whiten")) == "none"
    with pytest.raises(ValueError, match="augment is 'spin'; known: True, flip"):
        data.known("augment", "spin", {True: 1, "flip": 2})
    with pytest.raises(ValueError, match="option is 'bias'; known: none"):
        data.known("option", "bias", ())


# --- the stand-in -------------------------------------------------------------------------------


def fake_generate(num_train=8000, num_test=2000):
    sizes = {"train": num_train, "test": num_test}
    images = {
        f"{k}_images": torch.full((n, 3, 32, 32), 7, dtype=torch.uint8) for k, n in sizes.items()
    }
    return images | {f"{k}_targets": torch.arange(n) % 10 for k, n in sizes.items()}


def test_stand_in_only_where_nothing_is(tree, monkeypatch):
    monkeypatch.setattr(standin, "generate", fake_generate)
    monkeypatch.setattr(data, "DATA_DIR", tree / "nothing")
    dataset = data.load_images()
    assert dataset.name == "stand-in" and len(dataset.train) == 8000
    monkeypatch.setattr(data, "DATA_DIR", tree)
    with pytest.raises(DataError):  # something, but broken: no silent fall back
        data.load_images()


def test_load_standin_passes_sizes_on(monkeypatch):
    monkeypatch.setattr(standin, "generate", fake_generate)
    dataset = data.load_standin(30, 20)
    assert (len(dataset.train), len(dataset.test)) == (30, 20)


# --- Split and Dataset --------------------------------------------------------------------------


def images(count: int, value: int | None = None, seed: int = 0) -> torch.Tensor:
    if value is not None:
        return torch.full((count, 3, 32, 32), value, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (images(3), torch.arange(2), "targets has length 2, inputs 3"),
        (images(2).int(), torch.arange(2), "inputs has dtype torch.int32"),
        (images(2)[:, :1], torch.arange(2), r"inputs has shape \(2, 1, 32, 32\)"),
        (images(2).permute(0, 2, 3, 1), torch.arange(2), r"\(2, 32, 32, 3\).*N, 3, H, W"),
        (images(2).float(), torch.arange(2), "still 0–255"),
        (images(2), torch.tensor([1, 10]), "targets spans 1 to 10"),
        (torch.randn(2, 5), torch.tensor([-1, 3]), "targets spans -1 to 3"),
        (images(2), torch.arange(2, dtype=torch.uint8), "targets has dtype torch.uint8"),
    ],
)
def test_split_refuses_what_does_not_fit(inputs, targets, words):
    with pytest.raises(ValueError, match=words):
        Split(inputs, targets)


@pytest.mark.parametrize(
    "inputs",
    [
        images(2).float() / 255,  # in [0, 1]
        (images(2).float() / 255 - 0.5) / 0.25,  # normalised
        images(2, value=0).float(),  # black
        images(2).float().flatten(1),  # raw pixels as features: a study's own choice
    ],
)
def test_split_takes_other_floats(inputs):
    assert len(Split(inputs, torch.tensor([0, 700 % 10]))) == 2
    assert len(Split(inputs, torch.tensor([-0.5, 2.5]))) == 2  # regression


@pytest.fixture
def dataset():
    train, test = images(30), images(12, seed=1)
    held = dict(zip(KEYS, (train, torch.arange(30) % 10, test, torch.arange(12) % 10), strict=True))
    return data._dataset("planted", held)


def test_subset_cuts_val_off_the_end_of_train(dataset):
    cut = dataset.subset(20, 8, 5)
    assert torch.equal(cut.train.inputs, dataset.train.inputs[:20])
    assert torch.equal(cut.val.inputs, dataset.train.inputs[22:])
    assert torch.equal(cut.val.targets, dataset.train.targets[22:])
    assert torch.equal(cut.test.inputs, dataset.test.inputs[:5])
    assert len(dataset.subset(num_val=8).train) == 22
    assert len(cut.subset(4).val) == 8  # an existing val stays
    assert cut.name == "planted"


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((31,), "num_train is 31; ask for 0 to 30"),
        ((23, 8), "num_train is 23; ask for 0 to 22"),
        ((None, 31), "num_val is 31; ask for 0 to 30"),
        ((None, 0, 13), "num_test is 13; ask for 0 to 12"),
        ((-1,), "num_train is -1"),
    ],
)
def test_more_images_than_there_are(dataset, sizes, words):
    with pytest.raises(ValueError, match=words):
        dataset.subset(*sizes)


def test_a_second_val_is_refused(dataset):
    with pytest.raises(ValueError, match="val already holds 8"):
        dataset.subset(num_val=8).subset(num_val=2)


def test_identity_is_a_function_of_the_content(dataset):
    assert len(dataset.identity) == 16
    assert dataset.subset().identity == dataset.identity == dataset.to("cpu").identity
    assert len({dataset.subset(num_val=n).identity for n in range(4)}) == 4
    held = [dataset.train.inputs.clone(), dataset.train.targets]
    held += [dataset.test.inputs, dataset.test.targets]
    held[0][4, 1, 2, 3] ^= 1
    assert data._dataset("planted", dict(zip(KEYS, held, strict=True))).identity != dataset.identity


def test_describe_is_one_sentence_with_the_numbers(dataset):
    assert dataset.describe() == "Data: planted; 30 training, 12 test images."
    cut = dataset.subset(num_val=8)
    assert cut.describe() == "Data: planted; 22 training, 8 validation, 12 test images."


# --- batches and augmentation -------------------------------------------------------------------


def test_to_float_divides_by_255_exactly():
    x = images(4)
    assert torch.equal(
        data.to_float(x), torch.from_numpy(x.numpy().astype(np.float32) / np.float32(255))
    )
    assert data.to_float(x, torch.float64).dtype == torch.float64
    assert x.dtype == torch.uint8 and x.max() > 1  # the argument is left alone


@pytest.mark.parametrize(
    "wrong", [images(2).float(), images(2).float() / 255, torch.randn(2, 3, 4, 4), images(2).int()]
)
def test_to_float_refuses_what_is_no_uint8(wrong):
    span = f"{wrong.min():.3g} to {wrong.max():.3g}"
    with pytest.raises(ValueError, match=f"images has dtype {wrong.dtype} and spans {span}; "):
        data.to_float(wrong)


def test_channel_statistics_match_numpy():
    pixels = images(50)
    pixels[:, 1] //= 2
    mean, std = data.channel_statistics(Split(pixels, torch.zeros(50)))
    reference = pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean.numpy(), reference.mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(std.numpy(), reference.std(axis=(0, 2, 3)), rtol=1e-12)
    assert mean.dtype == std.dtype == torch.float64


def test_a_channel_of_one_value_is_divided_by_1_and_becomes_0():
    pixels = images(3)
    pixels[:, 1] = 77
    mean, std = data.channel_statistics(Split(pixels, torch.zeros(3)))
    assert std[1] == 1.0 and (std[[0, 2]] < 1.0).all()
    standardised = (data.to_float(pixels, torch.float64) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.equal(standardised[:, 1], torch.zeros(3, *pixels.shape[2:], dtype=torch.float64))


def test_a_divisor_is_the_deviation_but_for_0_as_in_scikit_learn():
    from sklearn.preprocessing import StandardScaler

    features = torch.randn(20, 4, dtype=torch.float64)
    features[:, 2] = 0.1
    found = data.divisor(features.std(dim=0, correction=0))
    np.testing.assert_allclose(found, StandardScaler().fit(features.numpy()).scale_, rtol=1e-12)
    assert data.divisor(torch.tensor([torch.nan, torch.inf]))[0].isnan(), "a lost value stays lost"


def test_channel_statistics_of_floats_are_refused():
    for wrong in (Split(torch.rand(2, 3, 4, 4), torch.zeros(2)), Split(images(0), torch.zeros(0))):
        with pytest.raises(ValueError, match="split holds . inputs of torch"):
            data.channel_statistics(wrong)


def test_batches_in_order_keep_the_short_last_one(dataset):
    got = list(data.batches(dataset.train, 8))
    assert [len(t) for _, t in got] == [8, 8, 8, 6]
    assert torch.equal(torch.cat([x for x, _ in got]), dataset.train.inputs)
    assert torch.equal(torch.cat([t for _, t in got]), dataset.train.targets)
    assert list(data.batches(dataset.val, 8)) == []


def test_batches_with_a_generator_are_one_permutation(dataset):
    def epoch(generator):
        got = list(data.batches(dataset.train, 7, generator=generator))
        return torch.cat([x for x, _ in got]), torch.cat([t for _, t in got])

    generator = torch.Generator().manual_seed(3)
    (x1, t1), (x2, _) = epoch(generator), epoch(generator)
    again, _ = epoch(torch.Generator().manual_seed(3))
    assert torch.equal(x1, again) and not torch.equal(x1, x2)
    pairs = {(x.numpy().tobytes(), int(t)) for x, t in zip(x1, t1, strict=True)}
    whole = zip(dataset.train.inputs, dataset.train.targets, strict=True)
    assert pairs == {(x.numpy().tobytes(), int(t)) for x, t in whole} and len(x1) == 30


def test_batches_augment_inputs_alone_and_check_their_size(dataset):
    got = list(data.batches(dataset.train, 30, augment=lambda x: 255 - x))
    assert torch.equal(got[0][0], 255 - dataset.train.inputs)
    assert torch.equal(got[0][1], dataset.train.targets)
    with pytest.raises(ValueError, match="batch_size is 0"):
        data.batches(dataset.train, 0)  # at once, not at the first batch


def slow_crops(image: torch.Tensor, padding: int) -> dict[tuple, np.ndarray]:
    """Every crop that one image allows, pixel by pixel: (dy, dx, mirrored) → (C, H, W)."""
    channels, height, width = image.shape
    crops = {}
    for dy in range(-padding, padding + 1):
        for dx in range(-padding, padding + 1):
            crop = np.zeros((channels, height, width), dtype=image.numpy().dtype)
            for y in range(height):
                for x in range(width):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        crop[:, y, x] = image[:, y + dy, x + dx].numpy()
            crops[dy, dx, False], crops[dy, dx, True] = crop, crop[:, :, ::-1]
    return crops


def test_crop_and_flip_against_a_slow_reference():
    image = images(1)[0, :, :5, :6]  # not square: rows and columns may not be swapped
    crops = {crop.tobytes(): key for key, crop in slow_crops(image, 2).items()}
    assert len(crops) == 50
    batch = image.expand(4000, -1, -1, -1).clone()
    out = data.crop_and_flip(batch, padding=2, generator=torch.Generator().manual_seed(0))
    assert out.dtype == torch.uint8 and out.shape == batch.shape
    drawn = [crops[crop.numpy().tobytes()] for crop in out.contiguous()]  # KeyError: no such crop
    counts = np.array([drawn.count(key) for key in crops.values()])
    assert counts.min() >= 40 and counts.max() <= 120  # 80 each, std 8.9


def test_crop_and_flip_keeps_images_apart_and_dtypes_alike():
    batch = images(16, seed=4)[:, :, :6, :6]
    out = data.crop_and_flip(batch, padding=1, generator=torch.Generator().manual_seed(1))
    for image, crop in zip(batch, out, strict=True):
        assert any(np.array_equal(crop.numpy(), c) for c in slow_crops(image, 1).values())
    as_float = data.crop_and_flip(
        batch.float(), padding=1, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(as_float, out.float()) and as_float.dtype == torch.float32


def test_augmented_batches_read_nothing_back(dataset, monkeypatch):
    split, generator = dataset.train, torch.Generator().manual_seed(0)

    def refuse(self, *args):
        raise AssertionError("a value was read back from the device")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu"):
            patch.setattr(torch.Tensor, name, refuse)
        for _ in data.batches(
            split,
            7,
            generator=generator,
            augment=lambda x: data.crop_and_flip(x, generator=generator),
        ):
            pass


def test_crop_and_flip_refuses_one_image():
    with pytest.raises(ValueError, match=r"images is \(3, 32, 32\)"):
        data.crop_and_flip(images(1)[0], generator=torch.Generator())


def test_cut_out_blackens_one_square_an_image():
    batch = images(200, seed=6)[:, :, :9, :12].clamp(min=1)
    out = data.cut_out(batch, size=4, generator=torch.Generator().manual_seed(0))
    assert out.dtype == torch.uint8 and out.shape == batch.shape
    black, heights, widths = (out == 0).all(dim=1), set(), set()
    for image, cut, new in zip(batch, black, out, strict=True):
        rows, columns = cut.any(dim=1).nonzero().flatten(), cut.any(dim=0).nonzero().flatten()
        height, width = (int(x[-1] - x[0]) + 1 for x in (rows, columns))
        assert cut.sum() == height * width  # a rectangle without holes
        assert torch.equal(new[:, ~cut], image[:, ~cut])
        heights.add(height)
        widths.add(width)
    assert heights == widths == {2, 3, 4}  # whole, or cut off at an edge


@pytest.mark.parametrize("name", data.AUGMENTATIONS)
def test_every_augmentation_keeps_shape_and_depends_on_its_generator_alone(name):
    augment, batch = data.AUGMENTATIONS[name], images(8, seed=7)[:, :, :16, :16]
    first, again, other = (
        augment(batch, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.shape == batch.shape and first.dtype == batch.dtype
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_cut_out_refuses_one_image():
    with pytest.raises(ValueError, match=r"images is \(3, 32, 32\), size 4"):
        data.cut_out(images(1)[0], size=4, generator=torch.Generator())


# --- make data ----------------------------------------------------------------------------------


class Mirror(http.server.ThreadingHTTPServer):
    """Serves `payload` on 127.0.0.1. `cuts`: bytes sent per request before the line drops."""

    daemon_threads = True

    def __init__(self, payload: bytes, *, ranges=True, cuts=(), status=200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.payload, self.ranges, self.cuts, self.status = payload, ranges, list(cuts), status
        self.asked: list[str | None] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{data.ARCHIVE}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mirror, wanted = self.server, self.headers["Range"]
        mirror.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and mirror.ranges else 0
        body = mirror.payload[start:]
        if mirror.status != 200:
            return self.send_error(mirror.status)
        self.send_response(206 if wanted and mirror.ranges else 200)
        if wanted and mirror.ranges:
            end = len(mirror.payload)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: mirror.cuts.pop(0)] if mirror.cuts else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Starts mirrors and stops them; a proxy of the machine is kept out."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    running = []

    def start(payload, **options):
        running.append(Mirror(payload, **options))
        return running[-1]

    yield start
    for mirror in running:
        mirror.shutdown()
        mirror.server_close()


def pack(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


NOISE = np.random.default_rng(0).bytes(300_000)
PAYLOAD = pack({f"{data.BATCHES}/data_batch_1": NOISE})


def fetch(root: Path, *mirrors, payload: bytes = PAYLOAD, timeout: float = 5.0) -> Path:
    urls = tuple(m if isinstance(m, str) else m.url for m in mirrors)
    md5 = hashlib.md5(payload).hexdigest()
    return data.download(root, mirrors=urls, md5=md5, size=len(payload), timeout=timeout)


def dead_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/{data.ARCHIVE}"


def test_download_unpacks_the_whole_archive(tmp_path, serve):
    folder = fetch(tmp_path / "new" / "root", serve(PAYLOAD))
    assert folder == tmp_path / "new" / "root" / data.BATCHES
    assert (folder / "data_batch_1").read_bytes() == NOISE
    assert sorted(p.name for p in folder.parent.iterdir()) == [data.BATCHES, data.ARCHIVE]


def test_download_resumes_after_a_cut(tmp_path, serve):
    mirror = serve(PAYLOAD, cuts=[100_000, 50_000])
    assert (fetch(tmp_path, mirror) / "data_batch_1").read_bytes() == NOISE
    assert mirror.asked == ["bytes=0-", "bytes=100000-", "bytes=150000-"]


def test_download_resumes_in_a_later_call_and_on_another_mirror(tmp_path, serve):
    with pytest.raises(OSError, match="cut off at 70000 of .* bytes.*make data.*go on"):
        fetch(tmp_path, serve(PAYLOAD, cuts=[70_000, 0]))
    second = serve(PAYLOAD)
    assert (fetch(tmp_path, second) / "data_batch_1").read_bytes() == NOISE
    assert second.asked == ["bytes=70000-"]


def test_server_without_range_starts_anew(tmp_path, serve):
    (tmp_path / f"{data.ARCHIVE}.part").write_bytes(b"x" * 1000)  # would spoil the digest
    mirror = serve(PAYLOAD, ranges=False)
    assert (fetch(tmp_path, mirror) / "data_batch_1").read_bytes() == NOISE
    assert mirror.asked == ["bytes=1000-"]


@pytest.mark.parametrize("fault", ["refused", "error page", "other length", "silent"])
def test_second_mirror_serves_where_the_first_is_dead(tmp_path, serve, fault):
    part = tmp_path / f"{data.ARCHIVE}.part"
    part.write_bytes(PAYLOAD[:1000])
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        first = {
            "refused": dead_url,
            "error page": lambda: serve(b"", status=503),
            "other length": lambda: serve(b"<html>please log in</html>", ranges=False),
            "silent": lambda: f"http://127.0.0.1:{silent.getsockname()[1]}/",
        }[fault]()
        second = serve(PAYLOAD)
        start = time.monotonic()
        fetch(tmp_path, first, second, timeout=0.5)
        assert time.monotonic() - start < 4
    assert second.asked == ["bytes=1000-"]  # what was there is not lost


def test_wrong_digest_is_kept_aside_unopened(tmp_path, serve):
    other = PAYLOAD[:4] + bytes([PAYLOAD[4] ^ 1]) + PAYLOAD[5:]  # gzip's time: unpacks as before
    with pytest.raises(OSError, match=f"wrong MD5 digest, file kept .* as {data.ARCHIVE}.wrong"):
        fetch(tmp_path, serve(other))
    assert [p.name for p in tmp_path.iterdir()] == [f"{data.ARCHIVE}.wrong"]
    fetch(tmp_path, serve(other), serve(PAYLOAD))  # the next mirror may be sound
    assert (tmp_path / data.BATCHES / "data_batch_1").read_bytes() == NOISE


def test_spoiled_part_is_set_aside_and_fetched_anew(tmp_path, serve):
    (tmp_path / f"{data.ARCHIVE}.part").write_bytes(b"x" * 1000)
    second = serve(PAYLOAD)
    fetch(tmp_path, serve(PAYLOAD), second)
    assert second.asked == ["bytes=0-"]


def test_archive_put_there_by_hand_needs_no_network(tmp_path):
    (tmp_path / data.ARCHIVE).write_bytes(PAYLOAD)
    assert (fetch(tmp_path, dead_url()) / "data_batch_1").read_bytes() == NOISE


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="needs Python 3.11.4")
def test_archive_cannot_write_outside_its_folder(tmp_path, serve):
    evil = pack({f"{data.BATCHES}/a": b"a", "../../escaped": b"b"})
    with pytest.raises(tarfile.OutsideDestinationError):
        fetch(tmp_path / "root", serve(evil), payload=evil)
    assert not (tmp_path / "escaped").exists() and not (tmp_path / "root" / data.BATCHES).exists()


def test_no_network_is_said_soon_with_every_mirror(tmp_path, serve):
    first, second = dead_url(), dead_url()
    start = time.monotonic()
    with pytest.raises(OSError, match="(?s)no mirror gave .*refused.*refused.*make data") as caught:
        fetch(tmp_path, first, second)
    assert time.monotonic() - start < 2
    assert first in str(caught.value) and second in str(caught.value)


def test_too_little_room_is_said_before_the_download(tmp_path, monkeypatch):
    free = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(data.shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match="too little room; free .* MB"):
        fetch(tmp_path, "http://127.0.0.1:9/never")


def test_mirrors_end_with_the_original():
    assert data.MIRRORS[-1] == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert len(set(data.MIRRORS)) == len(data.MIRRORS) >= 3
    assert all(url.startswith("https://") for url in data.MIRRORS)


@pytest.fixture
def make_data(monkeypatch):
    """Runs `make data` on a root, with small sizes and the download given."""

    def run(root: Path, download) -> None:
        small = functools.partial(REAL_LOAD, root, _counts=COUNTS)
        for name, value in (("DATA_DIR", root), ("load_cifar10", small), ("download", download)):
            monkeypatch.setattr(data, name, value)
        data.main()

    return run


def test_make_data_downloads_nothing_where_data_is(tree, make_data, capsys):
    make_data(tree, download=None)  # calling it would be a TypeError
    assert "20 training, 10 test images" in capsys.readouterr().out


def test_make_data_downloads_then_loads(tmp_path, make_data, capsys):
    make_data(tmp_path, download=plant_tree)
    assert "20 training" in capsys.readouterr().out
    assert (tmp_path / data.CACHE).exists()


def test_make_data_ends_with_a_sentence(tmp_path, make_data):
    with pytest.raises(SystemExit, match="make data: no mirror gave"):
        make_data(tmp_path, functools.partial(REAL_DOWNLOAD, mirrors=(dead_url(),)))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(SystemExit, match="make data: .*lacks the classes"):
        make_data(tmp_path, download=None)


def test_nothing_heavy_is_imported_at_the_top():
    body = ast.parse(Path(data.__file__).read_text(encoding="utf-8")).body
    named = {a.name for node in body if isinstance(node, ast.Import) for a in node.names}
    named |= {node.module for node in body if isinstance(node, ast.ImportFrom)}
    assert not named & {"torchvision", "PIL", "tqdm", "numpy", "matplotlib", "scipy"}
    rooms = [n for n in body if isinstance(n, ast.ImportFrom) and n.module == "course_lib"]
    assert [alias.name for node in rooms for alias in node.names] == ["standin"]
