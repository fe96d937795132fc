"""Two image classifiers of one recipe: described, trained, compared, attacked. What the vision studies share.

A model is described by its data, its split, its task and its training, with a hash of the positions and pixels it
sees: the same description is the same key, so that a model two studies ask for is trained once. A pair holds the keys
of its two models, the probe images, which never depend on any overlap, and what is measured on them.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim import overlap, statistics
from repsim.data.color_shape_digit import CLASSES
from repsim.experiments.sweep import Cell
from repsim.records import RunDirectory, write_atomic

if TYPE_CHECKING:
    from repsim.compare import Comparison
    from repsim.data.images import LabelledImages

MEASURES = ("cka", "cka_rbf", "mutual_knn", "cknna")
TRANSFER = "transfer_auc"  # the mean over the radii of the attack
HANDWRITING, SYNTHETIC = "handwriting", "color_shape_digit"
OWN_MODELS = ("cnn", "resnet8", "resnet20", "vit")

# Every model of a seed starts from weights and an order of its own: the roles below, never the overlap, tell them
# apart.
_MODELS_PER_SEED = 3
FIRST, SECOND, THIRD = range(_MODELS_PER_SEED)


@dataclass(frozen=True)
class PairConfig:
    """What every study of pairs of image classifiers has to choose."""

    seeds: int = field(
        default=4, metadata={"help": "independent repetitions; each draws its own split, weights and order"}
    )
    images: int = field(default=6000, metadata={"help": "training images of each model"})
    pixels: int = field(default=28, metadata={"help": "side of the images"})
    model: str = field(
        default="cnn",
        metadata={"help": "cnn, resnet8, resnet20, vit, or the architecture of a transformers checkpoint or hub id"},
    )
    width: int = field(default=16, metadata={"help": "channels of the first stage"})
    epochs: int = field(default=5, metadata={"help": "passes over the training images"})
    batch_size: int = field(default=128, metadata={"help": "images per step"})
    optimizer: str = field(default="adamw", metadata={"help": "adamw or sgd", "choices": ("adamw", "sgd")})
    learning_rate: float = field(default=3e-3, metadata={"help": "after the warm-up"})
    probe: int = field(default=500, metadata={"help": "fixed images on which all pairs are compared"})
    k: int = field(default=10, metadata={"help": "nearest neighbours"})
    permutations: int = field(default=50, metadata={"help": "relabellings for the null of CKNNA"})
    attack_images: int = field(default=160, metadata={"help": "probe images that are attacked"})
    attack_steps: int = field(default=3, metadata={"help": "steps of MI-FGSM"})
    epsilons: tuple[float, ...] = field(
        default=(1.0, 2.0, 4.0, 8.0, 16.0), metadata={"help": "L-infinity radii in 1/255"}
    )

    def __post_init__(self) -> None:
        for name in ("seeds", "images", "probe", "k", "attack_images", "attack_steps", "epochs", "width", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"expected learning_rate above 0, got {self.learning_rate}")
        for name in ("alpha", "shared"):  # the factors of the studies that have them
            levels = getattr(self, name, ())
            if len(set(levels)) < len(levels):
                raise ValueError(
                    f"expected {name} as distinct levels, got {' '.join(f'{level:g}' for level in levels)}"
                )
        for alpha in getattr(self, "alpha", ()):
            if not 0 <= alpha <= 1:
                raise ValueError(f"expected alpha in [0, 1], got {alpha}")
        check_model(self.model, OWN_MODELS)
        if self.permutations < 2:
            raise ValueError(f"expected permutations of at least 2, got {self.permutations}")
        if self.attack_images > self.probe:
            raise ValueError(
                f"expected attack_images of at most the {self.probe} probe images, got {self.attack_images}"
            )
        if not self.k < self.probe:
            raise ValueError(f"expected k below the {self.probe} probe images, got {self.k}")
        for epsilon in self.epsilons:
            if not 0.25 <= epsilon <= 255:
                raise ValueError(f"expected epsilons from 0.25 to 255 (in 1/255), got {epsilon}")


def check_model(model: str, own: Sequence[str], *, revision: bool = False) -> None:
    """Raises ValueError for a model that is none of ours, no folder with a configuration, and no hub id by its form.

    Parameters: ``own``, names of models that are built here; ``revision``, whether a hub id may name one.
    """
    if model in own:
        return
    if Path(model).is_dir() or model.startswith((".", "/", "~")):
        if not (Path(model).expanduser() / "config.json").is_file():
            raise ValueError(f"expected model as a folder with a config.json, got {model!r}")
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+" + (r"(@[\w./-]+)?" if revision else ""), model):
        near = difflib.get_close_matches(model.lower(), own, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(own)
        raise ValueError(
            f"expected model as {known}, a checkpoint folder or owner/name on the hub, got {model!r}{hint}"
        )


def architecture(model: str, own: Sequence[str]) -> str | dict[str, Any]:
    """What a model's key and record hold: of a folder, which may change or go, the configuration itself.

    Parameters: ``own``, names of models that are built here, whatever folders there are.
    """
    folder = Path(model).expanduser()
    if model not in own and folder.is_dir():
        described: dict[str, Any] = json.loads((folder / "config.json").read_text())
        return described
    return model


# ------------------------------------------------------------------------------------------------------------ the data


@functools.lru_cache(maxsize=2)
def pool(name: str, pixels: int, images: int, probe_images: int) -> LabelledImages:
    """All images that models may be trained on: ``handwriting`` less its probe, or the first of ColorShapeDigit."""
    from repsim.data.color_shape_digit import ColorShapeDigit
    from repsim.data.images import handwriting

    if name == SYNTHETIC:
        return ColorShapeDigit(size=pixels, length=max(images, 1)).labelled(np.arange(images))
    everything = handwriting(pixels)
    training = np.setdiff1d(np.arange(len(everything)), _handwriting_probe(everything.labels[:, 0], probe_images))
    return everything.take(training)


@functools.lru_cache(maxsize=2)
def probe(name: str, pixels: int, images: int) -> LabelledImages:
    """The fixed images that no model was trained on; other scans of digits in ColorShapeDigit."""
    from repsim.data.color_shape_digit import ColorShapeDigit
    from repsim.data.images import handwriting

    if name == SYNTHETIC:
        return ColorShapeDigit(size=pixels, length=max(images, 1), source="test").labelled(np.arange(images))
    everything = handwriting(pixels)
    return everything.take(_handwriting_probe(everything.labels[:, 0], images))


def _handwriting_probe(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of the probe: the same part of every class, drawn once and for all."""
    return overlap.data_overlap(labels, 1.0, size=count, seed=0).first


@functools.lru_cache(maxsize=8)
def _pixel_hash(name: str, pixels: int, images: int, probe_images: int) -> str:
    """Of everything that is trained on (of a sample, where images are drawn on the fly)."""
    if name == SYNTHETIC:
        from repsim.data.color_shape_digit import ColorShapeDigit

        return ColorShapeDigit(size=pixels, length=images).pixel_hash(np.arange(min(images, 64)))[:16]
    return pool(name, pixels, images, probe_images).content_hash()[:16]


@functools.lru_cache(maxsize=2)
def _strata(name: str, pixels: int, images: int, probe_images: int) -> np.ndarray:
    """Integers [n, heads]: what a split keeps in proportion."""
    if name == SYNTHETIC:
        from repsim.data.color_shape_digit import ColorShapeDigit

        return ColorShapeDigit(size=pixels, length=images).factors(np.arange(images))
    return pool(name, pixels, images, probe_images).labels


def _positions(data: Mapping[str, Any], split: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """Training positions inside the pool, and the overlap they realise with the first model's."""
    strata = _strata(data["name"], data["pixels"], data["pool"], data["probe"])
    made = overlap.data_overlap(strata, split.get("alpha", 1.0), size=split["images"], seed=split["seed"])
    return made.second, made.realised


# ----------------------------------------------------------------------------------------------------- cells of a study


def model_cell(
    study: str, config: PairConfig, name: str, *, seed: int, role: int, alpha: float, attributes: Sequence[str]
) -> Cell:
    """The cell that trains one model: the first of a seed, or one whose data overlaps the first's by ``alpha``."""
    size = 0
    if name == SYNTHETIC:  # room for two disjoint sets in each of the combinations of attributes
        combinations = math.prod(CLASSES)
        size = 2 * combinations * math.ceil(config.images / combinations)
    data = {"name": name, "pixels": config.pixels, "pool": size, "probe": config.probe if name == HANDWRITING else 0}
    # At alpha = 1 the images are the first model's, whatever the design: such models are shared between studies.
    split: dict[str, Any] = {"seed": seed, "model": ("first", "second", "third")[role], "images": config.images}
    split |= {"alpha": float(alpha)} if alpha < 1 else {}
    positions, _ = _positions(data, split)
    own = _MODELS_PER_SEED * seed + role
    training = {
        "model": architecture(config.model, OWN_MODELS),
        "width": config.width,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "learning_rate": config.learning_rate,
        "init_seed": own,
        "order_seed": own,
    }
    digest = hashlib.sha256(positions.astype("<i8").tobytes()).hexdigest()[:16]
    hashes = {"positions": digest, "pixels": _pixel_hash(*data.values())}
    params = {**split, "task": "+".join(attributes), "data": data, "training": training, "hashes": hashes}
    return Cell(study, "model", params)


def pair_cell(
    study: str, config: PairConfig, name: str, first: Cell, second: Cell, *, seed: int, role: str, **levels: float
) -> Cell:
    """The cell that compares two trained models (role "pair" or "ceiling"), or the same two untrained ("floor")."""
    params = {
        "seed": seed,
        "role": role,
        **levels,
        "first": first.key,
        "second": second.key,
        "task_first": first.params["task"],
        "task_second": second.params["task"],
        "probe": {"name": name, "pixels": config.pixels, "images": config.probe},
        "compare": {"measures": list(MEASURES), "k": config.k, "permutations": config.permutations},
        "attack": {"images": config.attack_images, "steps": config.attack_steps, "epsilons": list(config.epsilons)},
    }
    if role == "floor":  # no training is waited for: the descriptions are enough to build both
        return Cell(study, "pair", {**params, "untrained": [first.params, second.params]})
    return Cell(study, "pair", params, needs=(first.key, second.key))


def sheet_cell(study: str, config: PairConfig, name: str) -> Cell:
    """The cell that shows what the models see."""
    return Cell(study, "sheet", {"name": name, "pixels": config.pixels, "images": min(config.probe, 40)})


def estimate(cell: Cell) -> float:
    """Seconds on one core, roughly: what a plan shows before anything ran."""
    if cell.kind == "model":
        training = cell.params["training"]
        per_image = {"cnn": 0.45, "resnet8": 1.0, "resnet20": 2.4, "vit": 2.5}.get(str(training["model"]), 10.0) / 1000
        area = (cell.params["data"]["pixels"] / 28) ** 2 * (training["width"] / 16) ** 1.5
        return 0.5 + per_image * area * cell.params["images"] * training["epochs"]
    if cell.kind == "sheet":
        return 2.0
    attack = cell.params["attack"]
    passes = 0 if cell.params["role"] == "floor" else attack["images"] * attack["steps"] * len(attack["epsilons"]) * 2
    return 1.0 + 0.0005 * passes * (cell.params["probe"]["pixels"] / 28) ** 2


# ------------------------------------------------------------------------------------------------ work, in a worker


def run_cell(cell: Cell, run: RunDirectory) -> Mapping[str, Any]:
    """Do one cell and return the result of its record."""
    work: dict[str, Callable[[Cell, RunDirectory], dict[str, Any]]] = {
        "model": _train, "pair": _compare, "sheet": _show,
    }  # fmt: skip
    return work[cell.kind](cell, run)


def _train(cell: Cell, run: RunDirectory) -> dict[str, Any]:
    from repsim.training import vision

    data = cell.params["data"]
    positions, realised = _positions(data, cell.params)
    images = _with_attributes(pool(*data.values()).take(positions), cell.params["task"])
    trained = vision.train(vision.VisionConfig(**cell.params["training"]), images)
    vision.save(trained.model, run.model_path(cell.key))
    return {
        "weights": hashlib.sha256(run.model_path(cell.key).read_bytes()).hexdigest(),
        "curves": trained.curves,
        "learned": trained.learned,
        "reason": trained.reason,
        "accuracy": trained.accuracy,
        "realised_overlap": realised,
        "classes": list(images.classes),
        "images_hash": images.content_hash(),
    }


def _compare(cell: Cell, run: RunDirectory) -> dict[str, Any]:
    from repsim.activations import capture
    from repsim.compare import compare
    from repsim.training import vision

    params = cell.params
    shown = probe(*params["probe"].values())
    sides = [_with_attributes(shown, params[f"task_{side}"]) for side in ("first", "second")]
    trained = params["role"] != "floor"
    if trained:
        records = [run.read(params[side]) for side in ("first", "second")]
        models = [
            _load(record, run.model_path(record["key"]), images) for record, images in zip(records, sides, strict=True)
        ]
    else:
        models = [
            vision.build(vision.VisionConfig(**described["training"]), images.classes, described["data"]["pixels"])
            for described, images in zip(params["untrained"], sides, strict=True)
        ]
    layers = [vision.representation_layers(model) for model in models]
    activations = [capture(model, shown.images, names) for model, names in zip(models, layers, strict=True)]
    asked = params["compare"]
    table = compare(
        *activations, measures=asked["measures"], k=asked["k"], permutations=asked["permutations"], seed=params["seed"]
    )
    result: dict[str, Any] = {
        "layers_first": list(layers[0]),
        "layers_second": list(layers[1]),
        "similarity": similarity_of(table),
        "accuracy_first": vision.evaluate(models[0], sides[0]),
        "accuracy_second": vision.evaluate(models[1], sides[1]),
    }
    if trained:
        result |= {
            "learned_first": records[0]["result"]["learned"],
            "learned_second": records[1]["result"]["learned"],
            "realised_overlap": records[1]["result"]["realised_overlap"],
            **_transfer(models, sides, params),
        }
    return result


def similarity_of(table: Comparison) -> dict[str, dict[str, Any]]:
    """What a record keeps of a comparison: by measure, matrices of layers and the corner of both last layers."""
    return {
        measure: {
            "values": grid.values,
            "null_mean": grid.null_mean,
            "null_sd": grid.null_sd,
            "z": grid.z,
            "p": grid.p,
            "last": grid.values[-1, -1],
            "last_null": grid.null_mean[-1, -1],
            "options": grid.options,
        }
        for measure, grid in table.grids.items()
    }


def _transfer(models: Sequence[Any], sides: Sequence[LabelledImages], params: Mapping[str, Any]) -> dict[str, Any]:
    """Attacks on each model tried on the other, and their mean excess over random signs of the same size."""
    from repsim.attacks.transfer import transfer_curve

    asked = params["attack"]
    few = [side.take(np.arange(asked["images"])) for side in sides]
    curves = {}
    for name, source, victim in (("first_to_second", 0, 1), ("second_to_first", 1, 0)):
        curves[name] = transfer_curve(
            models[source], models[victim], few[source].images, few[source].labels, few[victim].labels,
            epsilons=asked["epsilons"], steps=asked["steps"], seed=params["seed"],
        )  # fmt: skip
    rows = [row for curve in curves.values() for row in curve]
    if any(row["joint_n"] == 0 for row in rows):
        return {"transfer": curves, TRANSFER: None}
    return {
        "transfer": curves,
        TRANSFER: float(np.mean([(row["joint_success"] - row["control_success"]) / row["joint_n"] for row in rows])),
    }


def _show(cell: Cell, run: RunDirectory) -> dict[str, Any]:
    import io

    from repsim.data.color_shape_digit import ColorShapeDigit
    from repsim.data.images import contact_sheet

    name, pixels, count = (cell.params[part] for part in ("name", "pixels", "images"))
    shown = probe(name, pixels, count)
    if name == SYNTHETIC:
        captions: Sequence[str] = ColorShapeDigit(size=pixels, length=count, source="test").captions(np.arange(count))
        caption = (
            "ColorShapeDigit: a colour, a drawn shape, a real handwritten digit. Probe images, seen by no model before"
        )
    else:
        captions = [str(label) for label in shown.labels[:, 0]]
        caption = "Handwritten digits (scikit-learn's load_digits). Probe images, seen by no model before"
    picture = io.BytesIO()
    contact_sheet(shown.images, scale=2 if pixels > 20 else 3, captions=captions).save(picture, format="png")
    artifact = f"{cell.study}-images.png"
    write_atomic(run.artifact_path(artifact), picture.getvalue())
    return {"artifact": artifact, "caption": caption}


def _load(record: Mapping[str, Any], path: Any, images: LabelledImages) -> Any:
    from repsim.training import vision

    config = vision.VisionConfig(**record["params"]["training"])
    return vision.load(config, images.classes, record["params"]["data"]["pixels"], path)


def _with_attributes(images: LabelledImages, task: str) -> LabelledImages:
    from repsim.data.images import LabelledImages

    attributes = task.split("+")
    heads = [images.attributes.index(attribute) for attribute in attributes]
    return LabelledImages(
        images=images.images,
        labels=np.ascontiguousarray(images.labels[:, heads]),
        classes=tuple(images.classes[head] for head in heads),
        attributes=tuple(attributes),
        ids=images.ids,
    )


# --------------------------------------------------------------------------------------------------------- the effects


def learned_pairs(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Pairs of the design whose two models both learned: the others are reported, never averaged in."""
    return [
        record
        for record in records
        if record["kind"] == "pair"
        and record["params"]["role"] == "pair"
        and record["result"]["learned_first"]
        and record["result"]["learned_second"]
    ]


def outcome(record: Mapping[str, Any], name: str) -> float:
    """One number of a pair: one of MEASURES at both last layers, or a score of its result; NaN where it is missing."""
    result = record["result"]
    value = result["similarity"][name]["last"] if name in MEASURES else result.get(name)
    return float("nan") if value is None else float(value)


def effects_of(
    study: str,
    records: Iterable[Mapping[str, Any]],
    factors: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Slopes on every factor (a name and its unit), their interaction, and how transfer goes with each measure."""
    pairs = learned_pairs(records)
    if not pairs:
        return []
    seeds = np.array([pair["params"]["seed"] for pair in pairs])
    levels = {name: np.array([float(pair["params"][name]) for pair in pairs]) for name in factors}
    outcomes = {name: np.array([outcome(pair, name) for pair in pairs]) for name in (*MEASURES, TRANSFER)}
    units = {**factors, "interaction": "in the data effect, per shared attribute"}
    found = slopes_of(study, outcomes, levels, seeds, units)
    same = np.stack(list(levels.values()), axis=1)
    found += links_of(study, outcomes, TRANSFER, {"correlation": None, "within": same}, seeds)
    return statistics.adjust(found)


def slopes_of(
    study: str,
    outcomes: Mapping[str, np.ndarray],
    levels: Mapping[str, np.ndarray],
    seeds: np.ndarray,
    units: Mapping[str, str],
) -> list[dict[str, Any]]:
    """For every outcome its slope on every factor, each at fixed levels of the other one, and their interaction.

    Parameters: ``outcomes`` and ``levels``, float [pairs] by name, NaN where an outcome is missing; ``seeds`` [pairs];
    ``units`` by factor, and of the "interaction" where there are two factors.
    """
    found: list[dict[str, Any]] = []
    for name, y in outcomes.items():
        kept = np.isfinite(y)
        for factor in levels:
            others = [levels[other][kept] for other in levels if other != factor]
            stratum = np.stack(others, axis=1) if others else None

            def slope(x: Any, stratum: Any, seeds: Any, y: np.ndarray = y[kept]) -> statistics.Estimate:
                return statistics.slope(x, y, seeds, stratum=stratum)

            found += tried(study, name, factor, units[factor], slope, levels[factor][kept], stratum, seeds[kept])
        if len(levels) == 2:
            whole = kept & _with_every_cell(seeds, list(levels.values()), kept)
            columns = [*(level[whole] for level in levels.values()), y[whole], seeds[whole]]
            found += tried(study, name, "interaction", units["interaction"], statistics.interaction, *columns)
    return found


def links_of(
    study: str,
    outcomes: Mapping[str, np.ndarray],
    name: str,
    strata: Mapping[str, np.ndarray | None],
    seeds: np.ndarray,
) -> list[dict[str, Any]]:
    """How one outcome goes with each of MEASURES, over all pairs or among those of one stratum.

    Parameters: ``outcomes``, float [pairs] by name, NaN where one is missing; ``name`` of the outcome; ``strata`` by
    the name of the factor, a row for each pair, None for all pairs; ``seeds`` [pairs].
    """
    found: list[dict[str, Any]] = []
    for measure in MEASURES:
        x, y = outcomes[measure], outcomes[name]
        kept = np.isfinite(x) & np.isfinite(y)
        for factor, stratum in strata.items():
            estimator: Callable[..., Any] = statistics.correlation if stratum is None else statistics.within
            columns = [x[kept], y[kept], *([] if stratum is None else [stratum[kept]]), seeds[kept]]
            found += tried(study, name, f"{factor}:{measure}", "Spearman", estimator, *columns)
    return found


def _with_every_cell(seeds: np.ndarray, levels: list[np.ndarray], kept: np.ndarray) -> np.ndarray:
    """Pairs of the seeds that lack no cell of the design: with one missing, an interaction is not its own."""
    cells = np.unique(np.stack(levels, axis=1), axis=0, return_inverse=True)[1].ravel()
    whole = [seed for seed in np.unique(seeds) if len(set(cells[kept & (seeds == seed)])) == cells.max() + 1]
    return np.isin(seeds, whole)


def tried(
    study: str, name: str, factor: str, unit: str, estimator: Callable[..., Any], *columns: Any
) -> list[dict[str, Any]]:
    """One effect, or a row that says why there is none: a constant measure must not cost the others."""
    try:
        estimate = estimator(*columns)
    except ValueError as error:
        nan = float("nan")
        estimate = statistics.Estimate(
            nan, nan, nan, nan, len(columns[0]), len(set(np.asarray(columns[-1]).flat)), str(error)
        )
    return [statistics.effect(study, name, factor, estimate, unit=unit)]
