"""Checkpoints with what turns inputs into their arguments: from transformers' Auto classes, or from timm by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from repsim.activations import weights_hash

if TYPE_CHECKING:
    from PIL import Image

TIMM = "timm:"
PRECISIONS = ("float32", "float16", "bfloat16")
_LOADING = (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError)  # what a library refuses with


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model with what prepares its inputs.

    Attributes: ``name``, as it was asked for; ``kind``, "images" or "text"; ``model``; ``pixels``, PIL images -> [m, c,
    h, w]; ``tokenizer``; ``layers``, modules that are its layers where it returns no hidden states; ``config`` and
    ``revision``, for the record; ``drawn``, weights that the checkpoint lacks and that were drawn at random (of a
    pooler, which no hidden state depends on).
    """

    name: str
    kind: str
    model: torch.nn.Module
    config: dict[str, Any]
    pixels: Callable[[Sequence[Image.Image]], torch.Tensor] | None = None
    tokenizer: Any = None
    layers: tuple[str, ...] = ()
    revision: str | None = None
    drawn: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def precision(self) -> str:
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def library(self) -> str:
        return "timm" if self.name.startswith(TIMM) else "transformers"

    @cached_property
    def weights_sha256(self) -> str:
        """Of all weights, see `weights_hash`; taken once."""
        return weights_hash(self.model)

    def versions(self) -> dict[str, str]:
        """Of the libraries that the activations depend on."""
        libraries = ("torch", self.library, "pillow" if self.kind == "images" else "tokenizers")
        return {library: metadata.version(library) for library in libraries}

    def run(self, arguments: dict[str, torch.Tensor], **flags: bool) -> Any:
        """The model's output for arguments that are on its device."""
        if self.library == "timm":
            return self.model(arguments["pixel_values"])
        return self.model(**arguments, **flags)


def load_checkpoint(
    name: str,
    kind: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    attention: bool = False,
) -> Checkpoint:
    """Load a model and what prepares its inputs; of a model of images and text, the side that the inputs need.

    Example: ``load_checkpoint("google/vit-base-patch16-224", "images").pixels(images)``, [m, 3, 224, 224].

    Parameters: ``name``, a Hugging Face id, a local folder in its format, also one of adapters that peft has saved,
        which are put into the base that they name, or ``"timm:NAME"``; ``kind``, "images" or
        "text"; ``revision``, a branch, tag or commit of the id; ``device``, of torch, "auto" for a GPU where there is
        one; ``precision`` of weights and arithmetic, "float32", "float16" or "bfloat16"; ``attention``, whether
        attention maps will be asked for, which only the plain implementation of attention gives.
    Returns: a Checkpoint, in evaluation mode.
    Raises: ValueError: a checkpoint that cannot be loaded, lacks weights or the preparation of its inputs.
    """
    if kind not in ("images", "text"):
        raise ValueError(f"[extract] expected kind 'images' or 'text', got {kind!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"[extract] expected precision as one of {PRECISIONS}, got {precision!r}")
    if name.startswith(TIMM):
        if kind != "images" or attention or revision:
            what = "a model of text" if kind != "images" else "attention maps" if attention else "a revision"
            raise ValueError(f"[extract] expected a model of transformers for {what}, got {name}")
        checkpoint = _from_timm(name, precision)
    else:
        checkpoint = _from_transformers(name, kind, revision, precision, attention)
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        checkpoint.model.to(device=place).eval()
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ValueError(f"[extract] expected a device that torch can use, got {device!r}: {_line(error)}") from None
    return checkpoint


def _from_transformers(name: str, kind: str, revision: str | None, precision: str, attention: bool) -> Checkpoint:
    import transformers

    newer = int(transformers.__version__.split(".")[0]) >= 5
    which: dict[str, Any] = {} if revision is None else {"revision": revision}
    # Not by model.to, which would round what a model keeps wider than its weights, such as rotary frequencies.
    options: dict[str, Any] = {**which, "dtype" if newer else "torch_dtype": getattr(torch, precision)}
    if attention:
        options["attn_implementation"] = "eager"
    adapters = _adapters(name, which) if kind == "text" else None
    source = name if adapters is None else adapters["base_model_name_or_path"]
    if adapters is not None:  # a revision is that of the adapters; their base has one of its own
        options.pop("revision", None)
        which = {"revision": adapters["revision"]} if adapters.get("revision") else {}
        options |= which
    try:
        config = transformers.AutoConfig.from_pretrained(source, **which)
        known = type(config) in transformers.MODEL_MAPPING and adapters is None
        auto = transformers.AutoModel if known else transformers.AutoModelForCausalLM
        # Weights that the checkpoint lacks are drawn: the same ones every time, and without a trace in the caller's
        # random state.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, loading = auto.from_pretrained(source, output_loading_info=True, **options)
            if adapters is not None:
                model = _with_adapters(model, name, revision)
    except _LOADING as error:
        raise ValueError(
            f"[extract] expected a checkpoint that transformers can load, got {name}: {_line(error)}"
        ) from None
    model = _side(model, kind)
    lacking = [*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])]
    drawn = tuple(sorted(key for key in lacking if "pooler" in key.split(".")))
    if len(drawn) < len(lacking):
        some = ", ".join(sorted(set(lacking) - set(drawn))[:3])
        raise ValueError(f"[extract] expected a checkpoint with all weights, got {name} without {some}")
    if kind == "text" and hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # keys and values that no later token will ask for
    pixels, tokenizer = None, None
    try:
        if kind == "images":
            # Nothing of this package needs torchvision, and the two backends of transformers differ in their pixels.
            backend: dict[str, Any] = {"backend": "pil"} if newer else {"use_fast": False}
            processor = transformers.AutoImageProcessor.from_pretrained(name, **which, **backend)

            def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
                return processor(images=list(images), return_tensors="pt")["pixel_values"]

        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **which)
    except _LOADING as error:
        what = "an image processor" if kind == "images" else "a tokenizer"
        raise ValueError(f"[extract] expected a checkpoint with {what}, got {name}: {_line(error)}") from None
    described = json.loads(config.to_json_string()) | ({} if adapters is None else {"adapters": adapters})
    return Checkpoint(name, kind, model, described, pixels, tokenizer, (), getattr(config, "_commit_hash", None), drawn)


def _adapters(name: str, which: dict[str, Any]) -> dict[str, Any] | None:
    """What peft has saved beside adapters, where the name is that of adapters alone; None for a whole model."""
    from transformers.utils import cached_file, find_adapter_config_file

    try:
        if cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False, **which) is not None:
            return None
        found = find_adapter_config_file(name, **which)
    except OSError:  # said with its reason when the model is loaded
        return None
    if found is None:
        return None
    settings: dict[str, Any] = json.loads(Path(found).read_text(encoding="utf-8"))
    if settings.get("task_type") != "CAUSAL_LM":
        raise ValueError(
            f"[extract] expected adapters of a causal language model, got {name} with task_type "
            f"{settings.get('task_type')!r}"
        )
    return settings


def _with_adapters(model: Any, name: str, revision: str | None) -> Any:
    """The body of a model with the adapters added to its weights, so that its layers are called what they were."""
    try:
        import peft
    except ImportError as error:
        raise ValueError(f"[extract] expected peft to be importable for the adapters {name}: {_line(error)}") from None
    which = {} if revision is None else {"revision": revision}
    return peft.PeftModel.from_pretrained(model, name, **which).merge_and_unload().base_model


def _side(model: Any, kind: str) -> Any:
    """The part of a model that takes these inputs alone."""
    tower = getattr(model, "vision_model" if kind == "images" else "text_model", None)
    if tower is not None and hasattr(model, "vision_model") and hasattr(model, "text_model"):
        return tower
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def _from_timm(name: str, precision: str) -> Checkpoint:
    try:
        import timm
        from timm.data import resolve_model_data_config
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit the torch raises RuntimeError
        raise ValueError(
            f"[extract] expected timm to be importable for {name}, got {_line(error)}; "
            'pip install "repsim-exact[timm]", with a torchvision that fits the torch'
        ) from None
    try:
        model = timm.create_model(name.removeprefix(TIMM), pretrained=True).to(dtype=getattr(torch, precision))
    except _LOADING as error:
        raise ValueError(f"[extract] expected a model that timm can load, got {name}: {_line(error)}") from None
    if getattr(model, "output_fmt", "NCHW") not in ("NCHW", "NLC"):
        raise ValueError(
            f"[extract] expected a timm model with channels before positions, got {name} with {model.output_fmt}"
        )
    layers = tuple(info["module"] for info in getattr(model, "feature_info", ()))
    data = resolve_model_data_config(model)
    config = {"pretrained_cfg": dict(getattr(model, "pretrained_cfg", {})), "data": data}
    return Checkpoint(
        name, "images", model, json.loads(json.dumps(config, default=str)), _timm_pixels(name, data), layers=layers
    )


def _timm_pixels(name: str, data: dict[str, Any]) -> Callable[[Sequence[Image.Image]], torch.Tensor]:
    """timm's preparation for evaluation: shorter side to size / crop_pct, the centre cut out, mean and sd."""
    import numpy as np
    from PIL import Image

    _, height, width = data["input_size"]
    interpolation, mode = data.get("interpolation", "bicubic"), data.get("crop_mode", "center")
    if height != width or mode not in ("center", "squash") or interpolation not in ("bicubic", "bilinear", "nearest"):
        raise ValueError(
            f"[extract] expected square inputs, cut from the centre, of bicubic, bilinear or nearest interpolation, "
            f"got {name} with {height} x {width}, {mode}, {interpolation}"
        )
    resampling, side = Image.Resampling[interpolation.upper()], math.floor(height / data.get("crop_pct", 1.0))
    mean, sd = (np.float32(data[key]) for key in ("mean", "std"))

    def prepare(image: Image.Image) -> np.ndarray:
        shorter = min(image.size)
        size = (side, side) if mode == "squash" else tuple(int(side * length / shorter) for length in image.size)
        resized = image.resize((size[0], size[1]), resampling)
        left, top = (round((length - height) / 2) for length in resized.size)
        cut = resized.crop((left, top, left + height, top + height))
        return ((np.asarray(cut, dtype=np.float32) / np.float32(255) - mean) / sd).transpose(2, 0, 1)

    return lambda images: torch.from_numpy(np.stack([prepare(image) for image in images]))


def _line(error: BaseException) -> str:
    """The first line of a library's message, which may be a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
