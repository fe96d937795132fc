"""The repsim command through its real words: extract, look at, compare; every user error as one line and status 2."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import checkpoints  # noqa: E402
from checkpoints import TEXTS  # noqa: E402

import repsim  # noqa: E402
from repsim.cli import main  # noqa: E402
from repsim.interchange import to_bfloat16  # noqa: E402
from repsim.store import Store  # noqa: E402
from repsim.terminal import Bar  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    saved = {**checkpoints.save_text_models(folder), **checkpoints.save_image_models(folder)}
    return {name: str(path) for name, path in saved.items()}


@pytest.fixture
def texts(tmp_path) -> str:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return "texts.txt"


def in_a_process(*words: str, **options) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120, **options
    )


def rows(seed: int = 0, n: int = 40, d: int = 6) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d)).astype(np.float32)


# ---------------------------------------------------------------------------------------------- from a model to a page


def test_text_from_two_models_to_a_page_and_a_table(models, texts, capsys):
    for name in ("bert", "gpt2"):
        assert main(["extract", models[name], texts, "-o", f"{name}.store", "--pool", "word", "--batch-size", "2"]) == 0
    captured = capsys.readouterr()
    words = sum(len(text.split()) for text in TEXTS)
    assert captured.out.splitlines()[-1] == f"gpt2.store: {words} rows of 3 layers, float32"
    assert f"bert.store: {words} of {words}" in captured.err and "Traceback" not in captured.err
    options = "--measures cka mutual_knn --k 5 --metric euclidean --threads 1 --memory 1GB"
    files = "--html page.html --csv table.csv"
    assert main(["compare", "bert.store", "gpt2.store", *options.split(), *files.split()]) == 0
    out = capsys.readouterr().out
    stores = Store.open("bert.store"), Store.open("gpt2.store")
    expected = repsim.compare(*stores, measures=["cka", "mutual_knn"], k=5, metric="euclidean")
    assert out.startswith(repr(expected)) and f"page: {Path.cwd()}/page.html" in out
    table = list(csv.DictReader(Path("table.csv").read_text().splitlines()))
    assert [float(line["value"]) for line in table] == [line["value"] for line in expected.rows()]
    assert Path("page.html").read_text().count("<table>") == 2


def test_images_from_two_models(models, capsys):
    checkpoints.save_images(Path("photos"))
    options = "--pool cls --dtype float16 --device cpu --precision float32 --threads 1"
    words = ["extract", models["vit"], "photos", "-o", "vit.store", "--attention", "vit.safetensors"]
    assert main([*words, *options.split()]) == 0
    assert main(["extract", models["resnet"], "photos", "-o", "resnet.store"]) == 0
    out = capsys.readouterr().out
    assert "vit.store: 7 rows of 3 layers, float16\nvit.safetensors: attention maps of 7 inputs\n" in out
    assert Store.open("vit.store").dtype("final") == "float16"
    assert main(["compare", "vit.store", "resnet.store", "--layers", "hidden.[12]", "--measures", "cka"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["hidden.1", "hidden.2"]
    # The same words again find everything done.
    assert main(["extract", models["resnet"], "photos", "-o", "resnet.store"]) == 0


def test_info_tells_what_a_store_holds_and_where_it_comes_from(models, texts, capsys):
    assert main(["extract", models["llama"], texts, "-o", "a.store", "--layers", "hidden.1", "layers.0.mlp"]) == 0
    capsys.readouterr()
    assert main(["info", "a.store", "--verify"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a.store: 7 rows, 2 layers, finished, verified\n")
    table = [line.split() for line in out.splitlines()]
    assert ["hidden.1", "16", "float32", "0.0"] in table and ["layers.0.mlp", "16", "float32", "0.0"] in table
    facts = dict(line.split(": ", 1) for line in out.splitlines() if re.match(r"\w+: ", line))
    assert facts["model"].endswith("llama") and facts["data"].endswith("texts.txt") and facts["pool"] == "mean"
    assert facts["config"].startswith("llama, ") and f"torch {torch.__version__}" in facts["versions"]
    assert len(facts["weights_sha256"]) == 64 and "numpy" in facts["environment"]
    file = next(Path("a.store").glob("000-*"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert main(["info", "a.store", "--verify"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("repsim: [verify] expected a.store/000-hidden.1.npy with SHA-256 ") and err.count("\n") == 1


@pytest.mark.parametrize("pool", ["mean", "word"])
def test_an_interrupted_extraction_goes_on_and_gives_the_same_bits(models, texts, capsys, monkeypatch, pool):
    words = ["extract", models["gpt2"], texts, "--batch-size", "2", "--pool", pool]
    assert main([*words, "-o", "whole.store"]) == 0
    steps = []

    def stop(self: Bar, done: int, total: int) -> None:
        steps.append((done, total))
        if len(steps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "__call__", stop)
    capsys.readouterr()
    assert main([*words, "-o", "a.store"]) == 130
    err = capsys.readouterr().err
    again = f"repsim extract {models['gpt2']} {texts} --batch-size 2 --pool {pool} -o a.store"
    assert err == f"interrupted with {steps[-1][0]} rows in a.store; go on with: {again}\n"
    assert len(Store.open("a.store")) == steps[-1][0] < len(Store.open("whole.store"))
    assert main([*words, "-o", "a.store"]) == 0
    whole, store = Store.open("whole.store"), Store.open("a.store")
    assert store.finished and np.array_equal(store.ids, whole.ids)
    assert all(np.array_equal(store[layer], whole[layer]) for layer in whole)


def test_interrupted_before_the_first_row(models, texts, capsys, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("repsim.extraction.extract_layers", stop)
    assert main(["extract", models["bert"], texts, "-o", "a.store"]) == 130
    assert capsys.readouterr().err.startswith("interrupted with 0 rows in a.store; go on with: repsim extract ")
    monkeypatch.setattr("repsim.cli.look.Store.open", stop)
    Path("a.store").mkdir(exist_ok=True)
    assert main(["info", "a.store"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_real_process(models, texts):
    done = in_a_process("-m", "repsim", "extract", models["bert"], texts, "-o", "a.store")
    assert (done.returncode, done.stdout) == (0, "a.store: 7 rows of 3 layers, float32\n"), done.stderr
    assert done.stderr.splitlines()[-1] == "a.store: 7 of 7" and "Warning" not in done.stderr


# ---------------------------------------------------------------------------------------------- compare


def test_every_kind_of_file(capsys):
    x, y = rows(), rows(1)
    ids = np.arange(40)
    Store.from_arrays("a.store", ids, {"one": x, "two": y}).to_safetensors("a.safetensors")
    np.savez("a.npz", one=x, two=y)
    np.save("one.npy", x)
    assert main(["compare", "a.store", "a.store"]) == 0
    expected = capsys.readouterr().out
    for other in ("a.safetensors", "a.npz"):
        assert main(["compare", "a.store", other]) == 0
        assert capsys.readouterr().out == expected
    assert main(["compare", "one.npy", "a.npz", "--measures", "cka"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["a", "\\", "b", "one", "two"]
    bits = Store.from_arrays("b.store", ids, {"one": to_bfloat16(x)})
    bits.to_safetensors("b.safetensors")
    for other in ("b.store", "b.safetensors"):
        assert main(["compare", "one.npy", other, "--measures", "cka"]) == 0
        assert re.fullmatch(r"one +1\.000", capsys.readouterr().out.splitlines()[2])


def test_options_reach_the_comparison(capsys):
    np.savez("a.npz", one=rows(), two=rows(1))
    words = ["compare", "a.npz", "a.npz", "--measures", "cknna", "--layers", "one", "--k", "3", "--metric"]
    assert main([*words, "inner_product", "--permutations", "20", "--seed", "4", "--csv", "t.csv"]) == 0
    (line,) = csv.DictReader(Path("t.csv").read_text().splitlines())
    assert (line["k"], line["metric"], line["null_from"]) == ("3", "inner_product", "20 relabellings")
    expected = repsim.cknna(rows(), rows(), k=3, metric="inner_product", permutations=20, seed=4)
    assert float(line["null_mean"]) == pytest.approx(expected.null.mean, rel=1e-9)


def test_three_models_are_one_table_and_can_be_resumed(capsys):
    for seed, name in enumerate(("bert", "gpt", "t5")):
        np.savez(f"{name}.npz", one=rows(seed), two=rows(seed + 3))
    words = ["compare", "bert.npz", "gpt.npz", "t5.npz", "--measures", "cka", "pwcca", "--permutations", "3"]
    files = ["--csv", "t.csv", "--html", "p.html", "--resume", "kept"]
    assert main([*words, *files]) == 0
    out = capsys.readouterr().out
    assert out.startswith("bert (2 layers), gpt (2 layers), t5 (2 layers)\n\nbert (a) and gpt (b)\n\ncka ")
    models = {name: np.load(f"{name}.npz") for name in ("bert", "gpt", "t5")}
    expected = repsim.compare_models(models, measures=["cka", "pwcca"], permutations=3)
    lines = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [float(line["value"]) for line in lines] == [row["value"] for row in expected.rows()]
    assert {(line["model_a"], line["model_b"]) for line in lines if line["measure"] == "pwcca"} >= {("t5", "bert")}
    assert Path("p.html").read_text().count('<tr class="edge">') == 2 * 3
    kept = sorted(Path("kept").iterdir())
    assert len(kept) == 6 + 9  # of every two models and each with itself; of pwcca in both orders
    before = [path.stat().st_mtime_ns for path in kept]
    assert main([*words, *files]) == 0
    assert [path.stat().st_mtime_ns for path in sorted(Path("kept").iterdir())] == before


def test_a_plan_measures_nothing(capsys):
    for name in ("a", "b", "c"):
        np.savez(f"{name}.npz", one=rows(), two=np.full((40, 3), np.nan, np.float32))
    for words, layers in (("a.npz b.npz", "2 x 2 layers"), ("a.npz b.npz c.npz", "6 x 6 layers")):
        assert main(["compare", *words.split(), "--measures", "pls", "cknna", "--plan"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{layers}, n=40; memory ")
        assert [line.split()[0] for line in lines[1:]] == ["measure", "pls", "cknna", "together"]


def test_other_data_is_noted_and_paired_by_id(models, texts, capsys):
    assert main(["extract", models["bert"], texts, "-o", "a.store", "--layers", "hidden.1"]) == 0
    Path("other.txt").write_text("\n".join(reversed(TEXTS)))
    assert main(["extract", models["bert"], "other.txt", "-o", "b.store", "--layers", "hidden.1"]) == 0
    capsys.readouterr()
    assert main(["compare", "a.store", "b.store", "--measures", "cka"]) == 0
    assert "note: a.store and b.store are of different data; their rows are paired by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("a.npz a.npz a.npz", "expected different models, got one of them twice"),
        ("a.npz a.npz --memory 1kB --measures rsa", "[compare] expected measures that fit memory= of 1 kB, got rsa, "),
        ("a.npz a.npz --resume a.npz", "[compare] expected resume as a folder, got a file at a.npz"),
        ("a.npz none", "[compare] expected a store or a file, got nothing at none"),
        ("a.npz a.txt", "[compare] expected a store or a .safetensors, .npy, .npz file, got a.txt"),
        ("a.npz folder", "[Store.open] expected a store, got folder without a manifest.json"),
        ("a.npz pickle.npy", "[compare] expected arrays without pickles in pickle.npy, got "),
        ("a.npz objects.npz", "[compare] expected an array without pickles as 'one' of objects.npz, got "),
        ("a.npz bad.npz", "[compare] expected arrays without pickles in bad.npz, got "),
        ("a.npz bad.npy", "[compare] expected arrays without pickles in bad.npy, got "),
        ("a.npz bad.safetensors", "[from_safetensors] expected a "),
        ("a.npz ids.npz", "[compare] expected b['ids'] of dtype float16, bfloat16, float32 or float64, got int64"),
        ("a.npz short.npy", "[compare] expected b['short'] with 40 rows like a['one'], got 39"),
        ("a.npz a.npz --layers three", "[compare] expected layers of a.npz or a.npz, got 'three'"),
        ("a.npz short.npy --layers one", "[compare] expected layers of short.npy, such as short, got one"),
        ("a.npz a.npz --measures cak", "[compare] expected measures from cka, "),
        ("a.npz a.npz --k 40", "[compare] expected k of at most 39 for 40 rows, got 40"),
        ("a.npz a.npz --memory much", '[compare] expected memory as bytes or text such as "512MiB" or "1GB", got '),
        ("a.npz a.npz --threads 0", "argument --threads: expected a whole number of at least 1, got '0'"),
        ("a.npz a.npz --html no/page.html", "no/page.html cannot be written: there is no folder "),
        ("a.npz a.npz --csv no/table.csv", "no/table.csv cannot be written: there is no folder "),
        ("a.npz a.npz --measure cka", "unknown flag --measure; did you mean --measures?"),
        ("a.npz", "expected two models or more, got one"),
        (
            "a.store b.store",
            "[require_same_samples] expected b.store with id 0 at position 0 like a.store, got id 39: ",
        ),
        ("a.store b.safetensors", "[compare] expected b.safetensors with the samples of a.store, got id 39, not 0, at"),
        (  # of the first one, samples are not known
            "a.npz a.store b.store",
            "[require_same_samples] expected b.store with id 0 at position 0 like a.store, got id 39: ",
        ),
        ("a.npz a.store b.safetensors", "[compare] expected b.safetensors with the samples of a.store, got id 39, not"),
        ("a.safetensors c.store", "[compare] expected c.store with the samples of a.safetensors, got 39, not 40"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, line, capsys):
    x, ids = rows(), np.arange(40)
    np.savez("a.npz", one=x, two=rows(1))
    np.savez("ids.npz", ids=ids[:, None])
    np.save("short.npy", x[:-1])
    np.save("pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("objects.npz", one=np.array([{}], dtype=object))
    for name in ("a.txt", "bad.npz", "bad.npy", "bad.safetensors"):
        Path(name).write_text("not an array")
    Path("folder").mkdir()
    Store.from_arrays("a.store", ids, {"one": x}).to_safetensors("a.safetensors")
    Store.from_arrays("b.store", ids[::-1].copy(), {"one": x}).to_safetensors("b.safetensors")
    Store.from_arrays("c.store", ids[:-1], {"one": x[:-1]})
    assert main(["compare", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"repsim: {line}") and captured.err.count("\n") == 1


# ---------------------------------------------------------------------------------------------- the other words


def test_measures(capsys):
    assert main(["measures"]) == 0
    assert capsys.readouterr().out == f"{repsim.measures()}\n"
    assert main(["measures", "shapes"]) == 0
    assert capsys.readouterr().out == f"{repsim.measures('shapes')}\n"


def test_help_and_version(capsys):
    for words in ([], ["--help"], ["help"]):
        assert main(words) == 0
        assert "extract MODEL DATA -o STORE" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"repsim {repsim.__version__}\n"
    for command, flag in (("extract", "--max-tokens"), ("compare", "--permutations"), ("info", "--verify")):
        with pytest.raises(SystemExit) as ending:
            main([command, "--help"])
        assert ending.value.code == 0 and flag in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("fly", "unknown command 'fly'; see repsim --help"),
        ("extrat x y", "unknown command 'extrat'; did you mean extract?"),
        ("measures no", "[measures] expected family "),
        ("measures a b", "unexpected argument b"),
        ("info nowhere", "nowhere is no folder of a store"),
        ("info .", "[Store.open] expected a store, got . without a manifest.json"),
        ("extract bert texts.txt", "the following arguments are required: -o/--out"),
        ("extract {bert} none.txt -o s", "[extract] expected data, got no file or folder none.txt"),
        ("extract ./none texts.txt -o s", "[extract] expected a checkpoint that transformers can load, got ./none: "),
        ("extract timm:x texts.txt -o s", "[extract] expected a model of transformers for a model of text, got timm:x"),
        ("extract timm:x . -o s", "[extract] expected images (.bmp, "),
        (
            "extract {bert} texts.txt -o s --pool max",
            "[extract] expected pool as one of ('mean', 'mean_rest', 'last', ",
        ),
        ("extract {bert} texts.txt -o s --layers x", "[extract] expected layers of "),
        ("extract {bert} texts.txt -o s --dtype int8", "argument --dtype: invalid choice: 'int8'"),
        ("extract {bert} texts.txt -o s --batch-size 0", "argument --batch-size: expected a whole number of at least"),
        ("extract {bert} texts.txt -o s --max-token 3", "unknown flag --max-token; did you mean --max-tokens?"),
        ("extract {bert} texts.txt -o s --device no", "[extract] expected a device that torch can use, got 'no': "),
        (
            "extract {bert} texts.txt -o s --attention no/a.safetensors",
            "no/a.safetensors cannot be written: there is no",
        ),
        ("extract {bert} texts.txt -o .", "[Store.create] expected path to be new or empty, got . with files in it"),
        ("extract {bert} texts.txt -o texts.txt/s", "Not a directory (texts.txt/s"),
    ],
)
def test_a_user_error_is_one_line_and_status_2(words, line, models, texts, capsys):
    assert main([word.format(**models) for word in words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"repsim: {line}") and captured.err.count("\n") == 1
    assert not Path("s").exists()


def test_a_store_in_use(models, texts, capsys):
    with Store.create("a.store"):
        assert main(["extract", models["bert"], texts, "-o", "a.store"]) == 2
    err = capsys.readouterr().err
    assert err == f"repsim: [Store] expected a.store to be free for writing, got it in use by process {os.getpid()}\n"


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no function's name in front: this is nothing the user can remove")

    monkeypatch.setattr("repsim.cli.compare.open_side", broken)
    with pytest.raises(ValueError, match="nothing the user can remove"):
        main(["compare", "a", "b"])


def test_the_command_is_light():
    code = (
        "import sys; from repsim.cli import main; main(['measures', 'shapes']); main(['--help'])\n"
        "print({'torch', 'transformers', 'rich', 'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    done = in_a_process("-c", code)
    assert done.stdout.endswith("\nset()\n"), done.stdout + done.stderr


def test_the_entry_point_is_the_command():
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.scripts]\nrepsim = "repsim.cli:main"' in text
