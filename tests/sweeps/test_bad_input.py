"""Every fault gives one line with value, place and remedy, exit code 2, and starts nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from sweeps.tracking import client

Run = Callable[..., tuple[int, str, str]]

DATA_FREE = """
title = "Data-free"
paper = "tiny"
protocol = "demo-cudfkd"
teacher_protocol = "demo-scratch"
seeds = [0]

[report]
kind = "curve"
metrics = ["test/acc1_pct"]
rows = "alpha"

[base]
data = "digits"
method = "cudfkd"
teacher = "resnet14"
student = "resnet8"
preset = "code-2022-08"
hparams = { k_begin = 0.2, k_end = 0.8 }

[[axes]]
name = "alpha"
path = "hparams.alpha"
values = [{ label = "0.1", value = 0.1 }, { label = "0.2", value = 0.2 }]
"""


class Case(NamedTuple):
    """One faulty experiment file: what is replaced in a sound one (or added to its end), and what the message must say."""

    name: str
    swap: Mapping[str, str]
    says: tuple[str, ...]
    text: str = "grid"
    add: str = ""


def grid(name: str, old: str, new: str, *says: str) -> Case:
    return Case(name, {old: new}, says)


def more(name: str, added: str, *says: str) -> Case:
    return Case(name, {}, says, add=added)


def free(name: str, old: str, new: str, *says: str) -> Case:
    return Case(name, {old: new}, says, "data-free")


def searched(name: str, old: str, new: str, *says: str) -> Case:
    return Case(name, {old: new}, says, "search")


CASES = (
    # keys
    grid("unknown key at the top", 'paper = "tiny"', 'paper = "tiny"\nprotocoll = "x"', "protocoll", "did you mean 'protocol'"),
    grid("unknown key in the report", 'rows = "pair"', 'rows = "pair"\ncolum = "x"', "report.colum", "did you mean 'columns'", "panels"),
    grid("unknown key beside a swept value", "value = 2.0 }", "value = 2.0, lable = 1 }", "'temperature'", "'2'", "'lable'", "label, value, reference"),
    grid("unknown setting of a named bundle", 'teacher = "resnet20"', 'teacher = "resnet20", techer = "x"', "'pair'", "'B'", "'techer'", "teacher"),
    grid("unknown setting in base", 'method = "kd"', 'method = "kd"\nlr = 0.1', "base", "'lr'", "protocol.<field>"),
    grid("unknown path of an axis", 'path = "hparams.temperature"', 'path = "temperature"', "axis 'temperature'", "path", "hparams.<field>"),
    searched("unknown key of a search", "trials = 8", "trials = 8\nsamplr = 1", "search.samplr", "did you mean 'sampler'"),
    searched("unknown path in a search space", '"hparams.ce_weight"', '"ce_weight"', "search.space", "'ce_weight'", "hparams.<field>"),
    grid("missing title", 'title = "Small grid"', "", "title", "is missing"),
    # names
    grid("unknown network", 'student = "resnet8" },\n    { label = "B"', 'student = "resnet9" },\n    { label = "B"', "student", "'resnet9'", "did you mean 'resnet8'", "pair=A"),
    grid("unknown data set", 'data = "digits"', 'data = "digts"', "data", "'digts'", "did you mean 'digits'", "cifar100"),
    grid("unknown method", 'method = "kd"', 'method = "kdd"', "method", "'kdd'", "did you mean 'kd'", "cudfkd"),
    grid("unknown protocol", '\nprotocol = "demo-scratch"', '\nprotocol = "demo-scrach"', "protocol", "'demo-scrach'", "did you mean 'demo-scratch'"),
    grid("unknown teacher protocol", 'teacher_protocol = "demo-scratch"', 'teacher_protocol = "none"', "teacher_protocol", "'none'", "demo-scratch"),
    grid("missing teacher protocol", 'teacher_protocol = "demo-scratch"', "", "teacher_protocol", "is missing", "scratch-200"),
    free("missing student", 'student = "resnet8"', "", "student", "is missing", "base"),
    free("unknown preset", '"code-2022-08"', '"code-2022"', "preset", "'code-2022'", "did you mean 'code-2022-08'"),
    grid("unknown hyper-parameter", "ce_weight = 0.25", "ce_wait = 0.25", "hparams", "'ce_wait'", "did you mean 'ce_weight'"),
    grid("unknown precision", 'method = "kd"', 'method = "kd"\nprecision = "fp8"', "precision", "'fp8'", "bf16"),
    grid("unknown field of a protocol", 'method = "kd"', 'method = "kd"\n"protocol.learning_rate" = 1.0', "protocol", "'learning_rate'", "lr"),
    grid("unknown field of a data set", 'data = "digits"', 'data = { name = "digits", split = 3 }', "data", "'split'", "holdout_images"),
    grid("unknown sort of report", 'kind = "table"', 'kind = "tabel"', "report.kind", "'tabel'", "'heatmap'"),
    searched("unknown sampler", "trials = 8", 'trials = 8\nsampler = "cma"', "search.sampler", "'cma'", "'tpe'"),
    searched("unknown pruner", "trials = 8", 'trials = 8\npruner = "hyper"', "search.pruner", "'hyper'", "'asha'"),
    grid("a field that the data set does not have", 'data = "digits"', 'data = { name = "digits", holdout_images = 5 }', "data", "holdout_images", "digits"),
    grid("a user's module that is not there", 'method = "kd"', 'method = { module = "my_pkg.nothing" }', "method", "'my_pkg.nothing'"),
    # types
    grid("text for a number", "ce_weight = 0.25", 'ce_weight = "0.25"', "hparams.ce_weight", "'0.25'", "number"),
    grid("number for text", 'title = "Small grid"', "title = 3", "title", "got 3", "string"),
    grid("number for a name", 'method = "kd"', "method = 3", "method", "got 3", "name"),
    grid("list for a preset", 'method = "kd"', 'method = "kd"\npreset = ["a"]', "preset", "['a']"),
    grid("a swept value of another type", "value = 2.0", "value = true", "hparams.temperature", "True", "temperature=2"),
    grid("fractional seed", "seeds = [0]", "seeds = [0.5]", "seeds", "0.5", "integer"),
    grid("a date for a number", "ce_weight = 0.25", "ce_weight = 2020-01-01", "hparams", "2020"),
    grid("a table for a list", 'metrics = ["test/acc1_pct"]', "metrics = { a = 1 }", "report.metrics", "tuple"),
    # bounds
    grid("temperature of zero", "value = 2.0", "value = 0.0", "hparams.temperature", "0", "greater than 0", "temperature=2"),
    grid("infinite weight", "ce_weight = 0.25", "ce_weight = inf", "hparams.ce_weight", "inf", "finite"),
    free("share above one", "k_begin = 0.2", "k_begin = 1.2", "hparams.k_begin", "1.2", "less than 1"),
    free("ramp that ends before it begins", "k_begin = 0.2, k_end = 0.8", "k_begin = 0.8, k_end = 0.75", "k_begin", "0.8", "0.75", "below"),
    free("ramp of no length", "k_begin = 0.2, k_end = 0.8", "k_begin = 0.5, k_end = 0.5", "k_begin", "0.5", "below"),
    grid("negative seed", "seeds = [0]", "seeds = [0, -1]", "seeds", "-1", "0 or more"),
    grid("repeated seed", "seeds = [0]", "seeds = [1, 1]", "seeds", "repeated", "[1, 1]"),
    grid("no seed", "seeds = [0]", "seeds = []", "seeds", "at least 1"),
    grid("negative teacher seed", 'method = "kd"', 'method = "kd"\nteacher_seed = -1', "teacher_seed", "-1", "from 0 on"),
    grid("no metric", '["test/acc1_pct"]', "[]", "report.metrics", "at least 1"),
    grid("negative resources", "seeds = [0]", "seeds = [0]\nresources = { cpu = -1 }", "resources.cpu", "-1", "greater than 0"),
    grid("no images held out", 'data = "digits"', 'data = { name = "cifar10", holdout_images = -1 }', "data.holdout_images", "-1", "greater than or equal to 0"),
    searched("unknown metric of a search", "trials = 8", 'trials = 8\nmetric = "best/val/acc7_pct"', "search.metric", "'best/val/acc7_pct'", "acc[15]_pct"),
    searched("no suggestions", "trials = 8", "trials = 0", "search.trials", "got 0", "greater than 0"),
    searched("range upside down", "low = 1.0, high = 20.0", "low = 20.0, high = 1.0", "search.space", "low 20", "high 1"),
    searched("log range from zero", "low = 1.0, high = 20.0", "low = 0.0, high = 20.0", "search.space", "log", "low > 0"),
    searched("range without an end", "low = 1.0, high = 20.0", "low = 1.0", "search.space", "low and high"),
    searched("range that leaves the bounds of the hyper-parameter", "low = 0.0, high = 1.0", "low = -1.0, high = 1.0", "hparams.ce_weight", "-1", "greater than or equal to 0"),
    # axes and cells
    grid("axis without values", 'values = [{ label = "2", value = 2.0 }, { label = "4", value = 4.0 }]', "values = []", "axis 'temperature'", "at least one"),
    grid("repeated label", 'label = "4"', 'label = "2"', "axis 'temperature'", "label '2'", "2 times"),
    grid("repeated value", "value = 4.0", "value = 2.0", "axis 'temperature'", "value 2 ", "2 times"),
    grid("repeated value written otherwise", "value = 4.0", "value = 2", "axis 'temperature'", "value 2 ", "2 times"),
    grid("label without a value", ', value = 4.0 }', " }", "axis 'temperature'", "label '4'", "needs a value"),
    grid("value without a path", 'path = "hparams.temperature"\n', "", "axis 'temperature'", "label '2', '4'", "no path", "hparams.<field>"),
    more("two axes with one name", '[[axes]]\nname = "pair"\npath = "hparams.kd_weight"\nvalues = [{ label = "x", value = 1.0 }]\n', "axis 'pair'", "2 times"),
    Case(
        "two axes on one path", {'rows = "pair"': 'rows = "pair"\npanels = "T"'}, ("'hparams.temperature'", "temperature, T"),
        add='[[axes]]\nname = "T"\npath = "hparams.temperature"\nvalues = [{ label = "x", value = 1.0 }]\n',
    ),
    grid("repeated cell", 'teacher = "resnet20"', 'teacher = "resnet14"', "repeated cell", "pair=A temperature=2", "pair=B temperature=2", "1 more"),
    grid("axis that is shown nowhere", 'columns = "temperature"\n', "", "report", "'temperature'", "rows, columns or panels"),
    grid("report that names an unknown axis", 'columns = "temperature"', 'columns = "temperature"\npanels = "temprature"', "report.panels", "'temprature'", "did you mean 'temperature'"),
    grid(
        "printed values of an unknown axis", 'columns = "temperature"',
        'columns = "temperature"\nreference = { file = "x.csv", origin = "printed", axes = { T = "{x}" } }',
        "report.reference.axes", "'T'", "pair, temperature",
    ),
    grid("printed values of unknown origin", 'columns = "temperature"', 'columns = "temperature"\nreference = { file = "x.csv", origin = "guess", axes = {} }', "report.reference.origin", "'guess'", "'printed'"),
    more("rule for an unknown axis", '[[when]]\nmatch = { pear = "A" }\nset = { student = "resnet14" }\n', "when[0].match", "'pear'", "did you mean 'pair'"),
    more("rule for an unknown label", '[[when]]\nmatch = { pair = "C" }\nset = { student = "resnet14" }\n', "when[0].match", "'C'", "A, B"),
    more("rule that sets an unknown name", '[[when]]\nmatch = { pair = "A" }\nset = { studnt = "resnet14" }\n', "when[0].set", "'studnt'", "did you mean 'student'"),
    more("absent cell of an unknown axis", '[[absent]]\nmatch = { pear = "A" }\nreason = "x"\n', "absent[0].match", "'pear'", "did you mean 'pair'"),
    more("absent cell of an unknown label", '[[absent]]\nmatch = { temperature = ["2", "3"] }\nreason = "x"\n', "absent[0].match", "'3'", "2, 4"),
    more("absent cell without a reason", '[[absent]]\nmatch = { pair = "A" }\n', "absent.0.reason", "is missing"),
    # kinds of trial
    free("data-free method with a recipe for images", 'protocol = "demo-cudfkd"', 'protocol = "scratch-200"', "'scratch-200'", "updates_per_epoch", "'cudfkd'"),
    free("evaluation of an unknown thing", 'student = "resnet8"', 'student = "resnet8"\nevaluate = { student = "x" }', "evaluate", "'student'", "teacher_protocol"),
)  # fmt: skip


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that is not seen must not start Ray here: the test would train."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")


@pytest.fixture
def refused(place: Any, no_cluster: None, run_sweep: Run) -> Callable[..., list[str]]:
    """Runs `sweep run`, demands exit 2 with nothing started, and returns the messages."""

    def run(*argv: str, untouched: bool = True) -> list[str]:
        code, out, err = run_sweep(*argv)
        assert code == 2, out + err
        assert out == ""
        lines = err.splitlines()
        if "usage:" in err:  # argparse says how the verb is used first
            lines = [line for line in lines if "error: " in line]
        assert lines
        assert all("error: " in line for line in lines), err
        if untouched:
            assert list(place.home.iterdir()) == []
        return [line.split("error: ", 1)[1] for line in lines]

    return run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_faulty_experiment(case: Case, place: Any, refused: Any, grid_text: str, search_text: str) -> None:
    text = {"grid": grid_text, "search": search_text, "data-free": DATA_FREE}[case.text]
    (fault,) = refused("run", place.write(text + case.add, swap=case.swap), "--profile", "paper")
    assert "grid.toml" in fault
    for part in case.says:
        assert part in fault


def test_there_are_many_cases_and_the_files_they_start_from_are_sound(
    place: Any, run_sweep: Run, grid_text: str, search_text: str
) -> None:
    assert len(CASES) >= 60
    for number, text in enumerate((grid_text, search_text, DATA_FREE)):
        code, _, err = run_sweep("run", place.write(text, f"sound{number}.toml"), "--profile", "paper", "--dry-run")
        assert (code, err) == (0, "")


EIGHT = """
title = "Eight faults"
paper = "tiny"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0, 0]
sedes = [1]

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "pair"
colums = "temperature"
columns = "temprature"

[base]
data = "digts"
method = "kd"
hparams = { ce_weight = "much" }
optimiser = "sgd"

[[axes]]
name = "pair"
values = [{ label = "A", teacher = "resnet14", student = "resnet9" }, { label = "B", teacher = "resnet14", student = "resnet8" }]

[[axes]]
name = "temperature"
path = "hparams.temperature"
values = [{ label = "2", value = 2.0 }, { label = "2", value = -1.0 }]

[[when]]
match = { pair = "C" }
set = { student = "resnet14" }
"""
EIGHT_FAULTS = (
    "seeds: repeated seed in [0, 0]",
    "unknown key 'sedes'",
    "report.colums: unknown key 'colums'",
    "report.columns: unknown axis 'temprature'",
    "unknown data set 'digts'",
    "hparams.ce_weight: Input should be a valid number (got 'much')",
    "base: unknown setting 'optimiser'",
    "student: unknown network 'resnet9'",
    "hparams.temperature: Input should be greater than 0 (got -1.0)",
    "label '2' occurs 2 times",
    "when[0].match: unknown label of axis pair 'C'",
)


def test_all_faults_of_a_file_come_at_once_and_each_once(place: Any, refused: Any) -> None:
    faults = refused("run", place.write(EIGHT, "eight.toml"), "--profile", "paper")
    for expected in EIGHT_FAULTS:
        assert sum(expected in fault for fault in faults) == 1, expected
    extra = [fault for fault in faults if not any(expected in fault for expected in EIGHT_FAULTS)]
    assert extra == [
        "eight.toml: report: axis 'temperature' is shown nowhere; name it in rows, columns or panels"
    ]  # a fault too: `columns` names another


def test_faults_of_several_files_and_of_check_come_at_once(place: Any, refused: Any, run_sweep: Run) -> None:
    first = place.write(name="a.toml", swap={'method = "kd"': 'method = "kdd"'})
    second = place.write(name="b.toml", swap={"seeds = [0]": "seeds = [-1]"})
    for verb in ("run", "plan", "check"):
        faults = refused(verb, first, second, "--profile", "paper")
        assert [fault.split(":")[0] for fault in faults] == ["a.toml", "b.toml"]


# --- files that cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'title = "open', ("not valid TOML", "at end of document")),
        (b"title = 1\ntitle = 2\n", ("not valid TOML", "line 2")),
        (b'title = "\xff"', ("UTF-8",)),
        (b"", ("is missing",)),
    ],
    ids=["syntax", "repeated key", "not UTF-8", "empty"],
)
def test_unreadable_experiment(content: bytes, says: tuple[str, ...], place: Any, refused: Any) -> None:
    (place.folder / "x.toml").write_bytes(content)
    faults = refused("run", "x.toml", "--profile", "paper")
    assert content == b"" or len(faults) == 1
    assert all(fault.startswith("x.toml: ") for fault in faults)
    for part in says:
        assert part in faults[0]


def test_missing_experiment_file(refused: Any) -> None:
    (fault,) = refused("run", "mine/grid.toml", "--profile", "paper")
    assert "mine/grid.toml" in fault
    assert "no such experiment file" in fault


def test_folder_instead_of_an_experiment_file(place: Any, refused: Any) -> None:
    (place.folder / "grid.toml").mkdir()
    (fault,) = refused("run", "grid.toml", "--profile", "paper")
    assert "grid.toml" in fault
    assert "is a folder" in fault


def test_unknown_experiment(refused: Any) -> None:
    (fault,) = refused("run", "cudfkd/fig99", "--profile", "demo")
    assert "'cudfkd/fig99'" in fault
    assert "did you mean 'cudfkd/fig9'" in fault


# --- profiles --------------------------------------------------------------------------------------------------------


def test_unknown_profile(refused: Any) -> None:
    (fault,) = refused("run", "cudfkd/fig9", "--profile", "dmo")
    assert "'dmo'" in fault
    assert "did you mean 'demo'" in fault
    assert "paper" in fault


def test_missing_profile_file(refused: Any) -> None:
    (fault,) = refused("run", "cudfkd/fig9", "--profile", "mine.toml")
    assert "mine.toml" in fault
    assert "no such profile file" in fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("datas = {}", ("datas", "did you mean 'data'")),
        ("title = 3", ("title", "got 3")),
        ("resources = { cpu = 0 }", ("resources.cpu", "greater than 0")),
        ("[networks]\nresnet18 = 8", ("networks.resnet18", "got 8")),
        ('[networks]\nresnet34 = "resnet15"', ("networks.resnet34", "'resnet15'", "resnet14")),
        ('[protocols]\nscratch-200 = "demo-scrach"', ("protocols.scratch-200", "'demo-scrach'", "did you mean 'demo-scratch'")),
        ('[data]\ncifar10 = "digts"', ("data.cifar10", "'digts'", "did you mean 'digits'")),
        ("search = { trials = 0 }", ("search.trials", "got 0")),
        ('[[when]]\nmatch = {}\nset = { temperature = 1.0 }', ("when.set", "'temperature'", "hparams.<field>")),
        ('[[when]]\nmatch = { method = "cudfkd" }\nset = { hparams = { temperature = 1.0 } }', ("when.set", "'hparams.temperature'", "is swept by cudfkd/fig7")),
        ('[keep."cudfkd/fig7"]\nT = ["4"]', ("keep cudfkd/fig7", "axis 'T'", "hparams.temperature")),
        ('[keep."cudfkd/fig7"]\npair = ["4"]', ("keep cudfkd/fig7", "'pair'", "known: T")),
        ("not toml", ("not valid TOML",)),
    ],
)  # fmt: skip
def test_faulty_profile(text: str, says: tuple[str, ...], place: Any, refused: Any) -> None:
    head = "" if text.startswith("title") else 'title = "own"\n'
    (fault,) = refused("run", "cudfkd/fig7", "--profile", place.write(head + text, "own.toml"))
    for part in ("own.toml", *says):
        assert part in fault


def test_profile_that_keeps_no_label_or_an_unknown_one(place: Any, refused: Any) -> None:
    for labels, said in (("[]", "at least one"), ('["VGG11"]', "'VGG11'; known: VGG11 / ResNet18")):
        own = place.write(f'title = "own"\n[keep."cudfkd/fig9"]\npair = {labels}\n', "own.toml")
        (fault,) = refused("run", "cudfkd/fig9", "--profile", own)
        assert said in fault
        assert "own.toml" in fault


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--only", "k_begn=1/5"), ("'k_begn'", "did you mean 'k_begin'")),
        (("--only", "k_begin=1/6"), ("k_begin=1/6", "1/5, 1/4, 1/3")),
        (("--only", "k_begin"), ("k_begin", "AXIS=LABEL")),
        (("--only", "=1/5"), ("=1/5", "AXIS=LABEL")),
        (("--seeds", "0,x"), ("'0,x'", "whole numbers")),
        (("--seeds", "0,-1"), ("'0,-1'", "0 or more")),
        (("--seeds", "1,1"), ("'1,1'", "differ")),
        (("--seeds", ""), ("''", "whole numbers")),
        (("--trials", "8"), ("--trials", "search")),
        (("--trials", "0"), ("'0'", "above 0")),
        (("--concurrency", "two"), ("'two'", "above 0")),
        (("--weight", "0"), ("--weight", "'0'", "from 0.01 to 100")),
        (("--weight", "heavy"), ("'heavy'", "from 0.01 to 100")),
        (("--weight", "nan"), ("'nan'", "from 0.01 to 100")),
        (("--priority", "high"), ("--priority", "'high'")),
        (("--colour",), ("--colour",)),
    ],
)
def test_faulty_arguments(argv: tuple[str, ...], says: tuple[str, ...], refused: Any) -> None:
    (fault,) = refused("run", "cudfkd/fig9", "--profile", "demo", *argv)
    for part in says:
        assert part in fault


def test_unknown_verb_and_no_verb(refused: Any) -> None:
    (fault,) = refused("runn", "cudfkd/fig9")
    assert "'runn'" in fault
    (fault,) = refused()
    assert "VERB" in fault


# --- images ----------------------------------------------------------------------------------------------------------


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (8, 8), (shade, 255 - shade, 7 * shade % 256))
    image.putpixel((0, 0), (1, 2, 3))
    image.save(path)


@pytest.fixture
def pets(place: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound folder of images under SWEEPS_DATA, and `pets.toml`, which uses it."""
    images: Path = place.folder / "images"
    for split in ("train", "test"):
        for number, label in enumerate(("cat", "dog")):
            picture(images / "pets" / split / label / "0.png", 100 * number + len(split))
    monkeypatch.setenv("SWEEPS_DATA", str(images))
    place.write(name="pets.toml", swap={'data = "digits"': 'data = { name = "image_folder", folder = "pets" }'})
    return images / "pets"


def test_sound_image_folder_has_no_fault(pets: Path, run_sweep: Run) -> None:
    assert run_sweep("run", "pets.toml", "--profile", "paper", "--dry-run")[0] == 0


def test_missing_image_folder(pets: Path, refused: Any) -> None:
    pets.rename(pets.with_name("beasts"))
    (fault,) = refused("run", "pets.toml", "--profile", "paper")
    assert f"{pets}: no such folder" in fault


def test_image_folder_without_a_name(pets: Path, place: Any, refused: Any) -> None:
    (fault,) = refused("run", place.write(swap={'data = "digits"': 'data = "image_folder"'}), "--profile", "paper")
    assert "data.folder" in fault
    assert "missing" in fault


def test_classes_that_differ_between_train_and_test(pets: Path, refused: Any) -> None:
    (pets / "test" / "dog").rename(pets / "test" / "bird")
    (fault,) = refused("run", "pets.toml", "--profile", "paper")
    for part in ("pets.toml", "bird", "dog", "test"):
        assert part in fault


def test_every_corrupt_image_is_named(pets: Path, refused: Any) -> None:
    (pets / "train" / "cat" / "1.png").write_bytes(b"no image")
    whole = (pets / "train" / "dog" / "0.png").read_bytes()
    (pets / "test" / "dog" / "0.png").write_bytes(whole[: len(whole) // 2])
    faults = refused("run", "pets.toml", "--profile", "paper")
    assert len(faults) == 2
    assert any("cat/1.png" in fault for fault in faults)
    assert any("test/dog/0.png" in fault for fault in faults)


# --- places ----------------------------------------------------------------------------------------------------------


def test_state_root_that_cannot_be_written(
    place: Any, run_sweep: Run, no_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "file").write_text("")
    monkeypatch.setenv("SWEEPS_STATE", str(place.folder / "file" / "state"))
    code, _, err = run_sweep("run", place.write(), "--profile", "paper")
    assert code == 2
    (line,) = err.splitlines()
    assert str(place.folder / "file" / "state") in line
    assert "SWEEPS_STATE" in line
    assert not place.database.exists()


def test_store_of_another_version_is_left_as_it_is(tracked_place: Any, run_sweep: Run, no_cluster: None) -> None:
    connection = sqlite3.connect(tracked_place.database)
    connection.execute("UPDATE alembic_version SET version_num = 'bda7b8c39065'")
    connection.commit()
    connection.close()
    before = tracked_place.database.read_bytes()
    code, _, err = run_sweep("run", tracked_place.write(), "--profile", "paper")
    assert code == 2
    (line,) = err.splitlines()
    for part in (str(tracked_place.database), "bda7b8c39065", "mlflow db upgrade", "MLFLOW_TRACKING_URI"):
        assert part in line
    assert tracked_place.database.read_bytes() == before
    assert tracked_place.trial_folders() == []


def test_store_that_is_no_database(place: Any, run_sweep: Run, no_cluster: None) -> None:
    place.database.write_bytes(b"this is text, and long enough to be seen as a damaged header of a database file")
    code, _, err = run_sweep("run", place.write(), "--profile", "paper")
    assert code == 2
    (line,) = err.splitlines()
    for part in (str(place.database), "cannot be", "MLFLOW_TRACKING_URI"):
        assert part in line
    assert place.trial_folders() == []


def test_store_uri_of_an_unknown_sort(
    place: Any, run_sweep: Run, no_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuch://user:s3cret@host/x")
    code, _, err = run_sweep("run", place.write(), "--profile", "paper")
    assert code == 2
    (line,) = err.splitlines()
    assert "nosuch://" in line
    assert "MLFLOW_TRACKING_URI" in line
    assert "s3cret" not in err


@pytest.mark.parametrize(
    "url",
    ["sqlite:////nowhere/at/all/studies.db", "nosuch://user:s3cret@host/x", "not a url"],
    ids=["path", "sort", "text"],
)
def test_study_storage_that_cannot_be_opened(
    url: str, tracked_place: Any, run_sweep: Run, no_cluster: None, search_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPS_STUDY_URL", url)
    code, _, err = run_sweep("run", tracked_place.write(search_text), "--profile", "paper")
    assert code == 2
    (line,) = err.splitlines()
    assert url.split("user")[0] in line
    assert "SWEEPS_STUDY_URL" in line
    assert "s3cret" not in err
    assert tracked_place.trial_folders() == []


def test_trial_that_needs_a_gpu_where_none_can_come(tracked_place: Any, run_sweep: Run) -> None:
    name = tracked_place.write(swap={"seeds = [0]": "seeds = [0]\nresources = { cpu = 1, gpu = 64 }"})
    code, _, err = run_sweep("run", name, "--profile", "paper")
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    for part in ("tiny/grid", "64 GPU", "RAY_ADDRESS", "resources"):
        assert part in line
    assert tracked_place.trial_folders() == []
    assert all("parent" not in run.data.tags.get("sweeps.role", "") for run in runs(tracked_place))


def runs(place: Any) -> list[Any]:
    found = client(place.settings)
    return list(found.search_runs([each.experiment_id for each in found.search_experiments()]))
