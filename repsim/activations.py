"""What the layers of a model put out for given inputs, in memory or into a store.

A forward hook on each layer pools the output and copies it at once: whatever the model does to its tensors afterwards
(an in-place ReLU is the usual case) no longer matters. Layers are named as in `model.named_modules()`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repsim.interchange import to_bfloat16
from repsim.store import Store

POOLS = ("mean", "flatten", "cls", "last")
DTYPES = ("float16", "bfloat16", "float32", "float64")

# What makes rows of a layer's output: called with the beginning of an error message, the tensor, and a wide dtype.
Pool = Callable[[str, torch.Tensor, torch.dtype], torch.Tensor]


def capture(
    model: torch.nn.Module,
    images: np.ndarray | torch.Tensor,
    layers: Sequence[str],
    *,
    pool: str = "mean",
    batch_size: int = 256,
) -> dict[str, np.ndarray]:
    """Run the model over all inputs and return what the named layers put out.

        capture(model, images, ["conv1", "conv2"])    # images [n, 3, 28, 28] -> {"conv1": [n, 16], ...}

    The model runs in evaluation mode, without gradients, on the device and in the floating dtype of its parameters; the
    mode of every module is as before when this returns or raises. Outputs that are tuples, dicts or transformers'
    ModelOutput count by their first tensor.

    Args:
        model: any module that takes a batch of inputs as its only argument.
        images: inputs [n, ...], n >= 1.
        layers: names of modules; each must run exactly once per forward pass.
        pool: "mean" over all axes but samples and channels ([n, c, h, w] or tokens [n, t, c] -> [n, c]; [n, c] stays),
            "flatten" (-> [n, everything else]), "cls" (first token of [n, t, c]) or "last" (last token).
        batch_size: inputs per forward pass.
    Returns:
        Layer name -> float32 [n, d], in the order of `layers`.
    Raises:
        ValueError: unknown layer or pool, a layer that did not run exactly once, an output that the pool does not fit.
        TypeError: an output without a floating-point tensor.
    """
    _check_arguments("capture", model, images, layers, pool, batch_size)
    captured: dict[str, np.ndarray] = {}
    done = 0
    with evaluation(model):
        for batch in _forward("capture", model, images, layers, pool, batch_size, 0):
            for layer, rows in batch.items():
                if layer not in captured:
                    captured[layer] = np.empty((len(images), rows.shape[1]), dtype=np.float32)
                width = captured[layer].shape[1]
                if rows.shape[1] != width:
                    raise ValueError(
                        f"[capture] expected {width} features of {layer!r} in every batch, got {rows.shape[1]}"
                    )
                captured[layer][done : done + len(rows)] = as_dtype("capture", layer, rows, "float32")
            done += len(rows)
    return captured


def extract(
    model: torch.nn.Module,
    images: np.ndarray | torch.Tensor,
    ids: np.ndarray | Sequence[int],
    layers: Sequence[str],
    path: str | Path,
    *,
    pool: str = "mean",
    batch_size: int = 256,
    dtype: str = "float32",
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Write what the named layers put out into a store; an unfinished store is continued at its first missing row.

        store = extract(model, images, ids, ["conv1", "conv2"], "a.store")    # store["conv1"] [n, 16]

    A store that is there already must be of the same layers, pool, dtype, metadata and weights, and hold the first of
    these ids; one that holds them all is returned without a forward pass. Rows are committed batch by batch: the
    same batch size gives the same bits, interrupted or not.

    Args:
        model, images, layers, pool, batch_size: as in `capture`.
        ids: integers [n], each once: which sample every input is.
        path: folder of the store.
        dtype: "float32", "float16", "bfloat16" or "float64", on disk.
        metadata: kept in the store beside its "extraction" (layers, pool, dtype, SHA-256 of the weights).
        progress: called with (rows done, n) after every batch.
    Returns:
        The finished store, open for reading.
    Raises:
        ValueError: as `capture`; ids that do not fit the inputs or the store; another extraction than the one in the
            store; a finite value that the dtype cannot hold.
        StoreInUseError: another process is writing to the store.
    """
    _check_arguments("extract", model, images, layers, pool, batch_size)
    samples = np.asarray(ids)
    if samples.shape != (len(images),):
        raise ValueError(f"[extract] expected ids of shape {[len(images)]}, one per input, got {list(samples.shape)}")
    if samples.dtype.kind not in "iu":
        raise TypeError(f"[extract] expected integer ids, got {samples.dtype}")
    if len(np.unique(samples)) != len(samples):
        raise ValueError(
            f"[extract] expected ids that occur once, got {len(samples) - len(np.unique(samples))} repetitions"
        )
    if dtype not in DTYPES:
        raise ValueError(f"[extract] expected dtype as one of {DTYPES}, got {dtype!r}")
    if "extraction" in (metadata or {}):
        raise ValueError("[extract] expected metadata without the key 'extraction', got one that has it")
    extraction = {"layers": list(layers), "pool": pool, "dtype": dtype, "weights_sha256": weights_hash(model)}
    described = {**(metadata or {}), "extraction": extraction}

    def batches(done: int) -> Generator[dict[str, np.ndarray], None, None]:
        with evaluation(model):
            for batch in _forward("extract", model, images, layers, pool, batch_size, done):
                yield {layer: as_dtype("extract", layer, values, dtype) for layer, values in batch.items()}

    return record(path, samples, described, batches, progress=progress)


def record(
    path: str | Path,
    ids: np.ndarray,
    described: Mapping[str, Any],
    batches: Callable[[int], Generator[Mapping[str, np.ndarray], None, None]],
    *,
    noted: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Write rows that come in batches into a store; an unfinished store of the same description is continued.

        record("a.store", ids, {"extraction": {...}}, lambda done: iter_rows_from(done))    # ids [n]

    Args:
        path: folder of the store.
        ids: int64 [n], each once.
        described: what the rows depend on, kept in the store; a store to be continued must say the same.
        batches: called once with the number of rows that are there already; yields layer -> [m, d] from that row on.
        noted: kept in the store as well, as it was when the store was begun; it may differ when it is continued.
        progress: called with (rows done, n) after every batch.
    Returns:
        The finished store, open for reading.
    Raises:
        ValueError: another description or other ids than in the store, or fewer rows than ids.
        StoreInUseError: another process is writing to the store.
    """
    with _open_or_create(Path(path), {**(noted or {}), **described}) as store:
        done = len(store)
        _check_resumable(store, ids, dict(described), set(noted or ()))
        # Closed whatever happens here, so that a model gets its mode back even where an exception keeps frames alive.
        with closing(batches(done)) as coming:
            for rows in coming:
                count = len(next(iter(rows.values())))
                store.append(ids[done : done + count], rows)
                done += count
                if progress is not None:
                    progress(done, len(ids))
        if done != len(ids):
            raise ValueError(f"[extract] expected rows of {len(ids)} ids, got {done}")
        return store.finish()


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers.

        weights_hash(model)    # "9f86d0…", 64 hexadecimal digits

    Args:
        model: any module, on any device.
    Returns:
        The digest; equal for equal weights whatever the device, the mode or the gradients.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda item: item[0]):
        values = tensor.detach().to("cpu").contiguous().reshape(-1)
        digest.update(f"{name} {values.dtype} {tuple(tensor.shape)}\n".encode())
        # numpy has no bfloat16 and torch no hash of bytes: the bytes are what both agree on.
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _open_or_create(path: Path, described: dict[str, Any]) -> Store:
    if (path / "manifest.json").exists():
        return Store.open(path, "a")
    return Store.create(path, metadata=described)


def _check_resumable(store: Store, samples: np.ndarray, described: dict[str, Any], noted: set[str]) -> None:
    """Refuse to continue a store of another extraction; a mixture of two would look like one."""
    described = json.loads(json.dumps(described))  # tuples are lists in the store
    for key in sorted({*store.metadata, *described} - noted):
        there, asked = store.metadata.get(key), described.get(key)
        if key == "extraction" and isinstance(there, dict):
            for part in described["extraction"]:
                if there.get(part) != described["extraction"][part]:
                    raise ValueError(
                        f"[extract] expected {part} {there.get(part)} as in the store {store.path}, "
                        f"got {described['extraction'][part]}"
                    )
        elif there != asked:
            raise ValueError(
                f"[extract] expected metadata {key!r} {there!r} as in the store {store.path}, got {asked!r}"
            )
    if len(store) > len(samples):
        raise ValueError(
            f"[extract] expected at least the {len(store)} ids in the store {store.path}, got {len(samples)}"
        )
    differs = np.flatnonzero(store.ids != samples[: len(store)])
    if len(differs):
        at = int(differs[0])
        raise ValueError(
            f"[extract] expected id {store.ids[at]} at position {at} as in the store {store.path}, got {samples[at]}"
        )


def check_layers(function: str, model: torch.nn.Module, layers: Sequence[str]) -> None:
    """Refuse layers that are no modules of the model, with the names that are close; or none, or one twice."""
    if isinstance(layers, str) or not len(layers) or len(set(layers)) != len(layers):
        raise ValueError(f"[{function}] expected layers as a sequence of different names, got {layers!r}")
    modules = dict(model.named_modules())
    for layer in layers:
        if layer not in modules or layer == "":
            names = [name for name in modules if name]
            close = difflib.get_close_matches(str(layer), names, n=5) or names[:8]
            raise ValueError(f"[{function}] expected layers among the model's modules, such as {close}, got {layer!r}")


def _check_arguments(
    function: str,
    model: torch.nn.Module,
    images: np.ndarray | torch.Tensor,
    layers: Sequence[str],
    pool: str,
    batch_size: int,
) -> None:
    check_layers(function, model, layers)
    if pool not in POOLS:
        raise ValueError(f"[{function}] expected pool as one of {POOLS}, got {pool!r}")
    if batch_size < 1:
        raise ValueError(f"[{function}] expected batch_size >= 1, got {batch_size}")
    if not isinstance(images, (np.ndarray, torch.Tensor)):
        raise TypeError(f"[{function}] expected images as a numpy array or a tensor, got {type(images).__name__}")
    if not images.ndim or not len(images):
        raise ValueError(f"[{function}] expected images of shape [n, ...] with n >= 1, got {list(images.shape)}")


def _forward(
    function: str,
    model: torch.nn.Module,
    images: np.ndarray | torch.Tensor,
    layers: Sequence[str],
    pool: str,
    batch_size: int,
    start: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield layer -> pooled rows [m, d] for each batch from input `start` on."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    device = weight.device if weight is not None else next((b.device for b in model.buffers()), torch.device("cpu"))
    for first in range(start, len(images), batch_size):
        batch = images[first : first + batch_size]
        inputs = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(np.array(batch))
        floating = weight.dtype if weight is not None and inputs.is_floating_point() else inputs.dtype
        # A copy, always: a model that works in place on its input must not change the caller's images.
        inputs = inputs.detach().to(device=device, dtype=floating, copy=True)
        # Not inference_mode: a cache that the model fills here would be unusable in training for ever.
        with recording(function, model, layers, partial(pooled, pool), len(inputs)) as recorded, torch.no_grad():
            model(inputs)
        yield {layer: rows.cpu().numpy() for layer, rows in recorded_once(function, recorded).items()}


@contextmanager
def evaluation(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for all modules, and each one's own mode back at the end (frozen parts differ from the rest)."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        model.train(before[0][1])  # for modules that do more than set the flag
        for module, training in before:
            module.training = training


@contextmanager
def recording(
    function: str, model: torch.nn.Module, layers: Sequence[str], pool: Pool, count: int
) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Hooks that put every output of the layers, pooled and copied, into lists; removed however this ends."""
    recorded: dict[str, list[torch.Tensor]] = {layer: [] for layer in layers}

    def hook_for(layer: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            recorded[layer].append(pooled_copy(f"[{function}] layer {layer!r}:", output, pool, count))

        return hook

    modules = dict(model.named_modules())
    handles = []
    try:
        for layer in layers:
            handles.append(modules[layer].register_forward_hook(hook_for(layer)))
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def recorded_once(function: str, recorded: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The one output of every recorded layer; ValueError for a layer that did not run exactly once."""
    for layer, outputs in recorded.items():
        if len(outputs) != 1:
            raise ValueError(
                f"[{function}] expected layer {layer!r} to run once per forward pass, got {len(outputs)} calls: "
                "a module that the model uses again has no single output"
            )
    return {layer: outputs[0] for layer, outputs in recorded.items()}


def pooled_copy(where: str, output: Any, pool: Pool, count: int) -> torch.Tensor:
    """What a layer put out for `count` inputs as rows of their own, float32, or float64 where it is float64."""
    tensor = _first_tensor(output)
    if tensor is None or not tensor.is_floating_point():
        got = type(output).__name__ if tensor is None else tensor.dtype
        raise TypeError(f"{where} expected an output with a floating-point tensor, got {got}")
    if not tensor.ndim or tensor.shape[0] != count:
        raise ValueError(f"{where} expected an output of {count} samples on axis 0, got {list(tensor.shape)}")
    # The copy is the point: a view of the output would follow every later in-place change of it.
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return pool(where, tensor.detach(), wide).to(dtype=wide, copy=True)


def _first_tensor(output: Any) -> torch.Tensor | None:
    """The first tensor in a module's output, depth first; a ModelOutput is a mapping in the order of its fields."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, (Mapping, tuple, list)):
        for part in output.values() if isinstance(output, Mapping) else output:
            tensor = _first_tensor(part)
            if tensor is not None:
                return tensor
    return None


def pooled(pool: str, where: str, tensor: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """[n, ...] -> [n, d]; perhaps a view. Means are taken in the wide dtype."""
    if pool == "flatten":
        return tensor.reshape(len(tensor), -1)
    if pool == "mean":
        if tensor.ndim < 2:
            raise ValueError(f"{where} expected at least two axes for pool 'mean', got {list(tensor.shape)}")
        if tensor.ndim == 2:
            return tensor
        axes = (1,) if tensor.ndim == 3 else tuple(range(2, tensor.ndim))
        return tensor.mean(dim=axes, dtype=wide)
    if tensor.ndim != 3:
        raise ValueError(f"{where} expected tokens [n, t, c] for pool {pool!r}, got {list(tensor.shape)}")
    return tensor[:, 0 if pool == "cls" else -1]


def as_dtype(function: str, layer: str, values: np.ndarray, dtype: str) -> np.ndarray:
    """Round to the dtype; bfloat16 as bits. A finite value must stay finite."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32 if dtype == "bfloat16" else dtype)
    infinite = np.isinf(rounded)
    if dtype == "bfloat16":
        rounded = to_bfloat16(rounded)
        infinite = (rounded & 0x7FFF) == 0x7F80
    if infinite.any() and np.isfinite(values[infinite]).any():
        worst = float(np.abs(values[infinite & np.isfinite(values)]).max())
        raise ValueError(f"[{function}] expected values of {layer!r} that fit into {dtype}, got magnitude {worst:.6g}")
    return rounded
