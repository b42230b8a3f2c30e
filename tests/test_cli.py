"""The command line: words become options, errors one line and an exit code, help and completion load no TensorFlow."""

import importlib
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from pipeline import cli, command_line, commands, commands_older, commands_training
from pipeline.benchmarks import commands as benchmarks
from pipeline.commands import guie
from pipeline.config import Run, load, packaged, reference
from pipeline.errors import BadInput
from pipeline.staged.config import Staged

ROOT = Path(__file__).parents[1]
ENTRY = [sys.executable, "-c", "import sys; from pipeline.cli import main; sys.exit(main())"]  # the console script
HEAVY = ("tensorflow", "keras", "numpy")
ALL_HELP = """
import contextlib, io, json, sys
from pipeline import cli
found = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = cli.main([*words, "--help"])
    found[" ".join(words)] = [code, said.getvalue(), sorted(set(sys.modules) & set(json.loads(sys.argv[2])))]
print(json.dumps(found))
"""
PRINTS = """
import sys
from types import SimpleNamespace
from pipeline import cli, commands
commands.import_quietly = lambda name: SimpleNamespace(main=lambda config: print("done"), Config=lambda *_: None)
sys.exit(cli.main(["verify", "a"]))
"""
FILES = (
    "commands.py",
    "benchmarks/commands.py",
    "commands_older.py",
    "commands_training.py",
    "starting/commands.py",
    "run.py",
)  # all that import by name
COMMANDS = [
    *("demo", "configs", "new", "config"),
    *("run", "tfrecords", "verify", "contact-sheet", "fit", "train", "plan", "soup", "sweep", "status"),
    "import-weights",
    *("export", "check", "submit", "score", "embed", "zero-shot", "staged", "similar", "captions", "browse"),
    *("compare", "report", "bench", "leaks"),
]
TAKE_A_CONFIG = [
    *("run", "tfrecords", "train", "plan", "sweep", "export", "submit", "report"),
    *("zero-shot", "staged", "similar", "captions"),
]
YAML = {
    "run.yaml": "train: {phases: [{name: head}]}",
    "captions.yaml": "table: pairs.csv",
    "zero.yaml": "{models: [{encoder: {name: clip_vit_b_32}}], source: {layout: drawn}}",
    "staged.yml": "batch_size: 7",
    "similar.yaml": "seed: 3",
}


@pytest.fixture(scope="module")
def helps() -> dict[str, list]:
    """Command → exit code, help text and the heavy modules that are loaded by then, from one fresh process."""
    words = [[], *([name] for name in guie.commands)]
    script = [sys.executable, "-c", ALL_HELP, json.dumps(words), json.dumps(HEAVY)]
    done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", ["", *guie.commands])
def test_help_loads_no_tensorflow(helps, command):
    code, _, loaded = helps[command]
    assert code == 0 and not loaded


def test_the_list_of_commands_is_whole(helps):
    text = helps[""][1]
    listed = text.split("\nStart here:\n")[1].split("Completion of")[0]
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line.strip()]
    assert sorted(names) == sorted(COMMANDS) and "..." not in listed and names[0] == "demo"
    assert "\nCommands:\n" not in text  # each has its place in commands.SECTIONS
    assert "_GUIE_COMPLETE=bash_source guie" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_is_read_and_written_and_its_example_parses(helps, command, monkeypatch):
    text = helps[command][1]
    assert "\n  Reads " in text and "\n  Writes " in text
    first, name, *words = shlex.split(text.split("\n  Example  ")[1].split("\n")[0])
    assert (first, name) == ("guie", command)
    assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))
    monkeypatch.setattr(guie.commands[name], "callback", lambda **_: None)
    assert cli.main([name, *words]) == 0


@pytest.mark.parametrize("command", TAKE_A_CONFIG)
def test_help_lists_keys_of_the_commands_config_with_their_defaults(helps, command):
    schema, shown = guie.commands[command].config_keys
    rows = reference.rows(pkgutil.resolve_name(schema))
    for name in shown.split():
        assert (selected := reference.selected(rows, [name])), f"{name} is no key"
        assert all(f"\n  {row.key}={row.default}" in helps[command][1] for row in selected)


def test_every_module_that_a_command_imports_is_there():
    text = "".join((ROOT / "pipeline" / name).read_text() for name in FILES)
    modules = re.findall(r'import_quietly\("([\w.]+)"\)', text)
    assert len(modules) >= 15 and all(importlib.util.find_spec(name) for name in modules)


def test_options_name_their_defaults(helps):
    for command, default in (("plan", "0.35"), ("score", "64"), ("browse", "127.0.0.1"), ("check", "13.0")):
        assert f"default: {default}" in helps[command][1]


def test_without_a_command_the_help_comes_with_code_2(capsys):
    assert cli.main([]) == 2
    bare = capsys.readouterr().out
    assert cli.main(["--help"]) == cli.main(["-h"]) == 0
    assert capsys.readouterr().out == 2 * bare


@pytest.mark.parametrize("installed", [True, False])
def test_version_is_told_in_a_bare_checkout_too(capsys, monkeypatch, installed):
    def version(name):
        if not installed:
            raise metadata.PackageNotFoundError(name)
        return "7.8.9"

    monkeypatch.setattr(metadata, "version", version)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == ("guie 7.8.9\n" if installed else "guie 0.1.0\n")


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Runs a command line with every `main` replaced; returns what `main` was called with."""
    for name, text in YAML.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "a=b.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    found = []

    def without_main(name: str):
        module = importlib.import_module(name)
        if hasattr(module, "main"):
            monkeypatch.setattr(module, "main", lambda config, **options: found.append(config))
        return module

    for module in (commands, benchmarks, commands_older, commands_training):
        monkeypatch.setattr(module, "import_quietly", without_main)

    def run(line: str):
        assert cli.main(shlex.split(line)) == 0
        return found.pop()

    return run


@pytest.mark.parametrize("command", ["run", "tfrecords", "train", "sweep", "export", "report"])
def test_a_run_config_and_overrides_become_a_run(called, command):
    assert called(f"{command} run.yaml train.seed=4 name=b") == load(Run, "run.yaml", ["train.seed=4", "name=b"])


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("soup a b --out o", {"runs": (Path("a"), Path("b")), "out": Path("o")}),
        ("soup a --greedy b --out o", {"runs": (Path("a"), Path("b")), "out": Path("o"), "greedy": True}),
        ("verify a", {"records": Path("a"), "workers": 0}),
        ("verify --workers=2 a", {"records": Path("a"), "workers": 2}),
        ("contact-sheet a b.jpg", {"records_dir": Path("a"), "out_path": Path("b.jpg")}),
        ("check a", {"submissions": ("a",)}),
        ("check -- --out --images", {"submissions": ("--out", "--images")}),
        ("check a --images 3 b --scorer kaggle", {"submissions": ("a", "b"), "scorer": "kaggle", "images": 3}),
        ("score e --index a=b", {"embedder": "e", "index": ["a=b"]}),
        (
            "score --index a e --index b --queries c --queries d --batch-size 5 --out m.json",
            {"embedder": "e", "index": ["a", "b"], "queries": ["c", "d"], "batch_size": 5, "out": "m.json"},
        ),
        ("score e --solution s.csv", {"embedder": "e", "solution": "s.csv"}),
        ("embed e d --out o", {"embedder": "e", "data": "d", "out": "o"}),
        ("browse run", {"vectors": Path("run"), "data": ""}),
        ("browse v d --beside w --embedder e", {"vectors": Path("v"), "data": "d", "beside": "w", "embedder": "e"}),
        ("browse v d --port 0 --host h", {"vectors": Path("v"), "data": "d", "host": "h", "port": 0}),
        (
            "import-weights ck --encoder c --out o.safetensors",
            {"checkpoint": "ck", "encoder": "c", "out": "o.safetensors", "parity": (), "compare": False},
        ),
        (
            "import-weights --parity a b",
            {"checkpoint": "", "encoder": "", "out": "", "parity": ("a", "b"), "compare": True},
        ),
    ],
)
def test_words_become_options_and_the_rest_are_the_modules_defaults(called, line, options):
    came = called(line)
    assert came == type(came)(**options)


def test_options_stand_anywhere_among_the_words_of_a_config(called):
    run = load(Run, "run.yaml", ["train.seed=4", "name=b"])
    plan = called("plan --share 0.5 run.yaml train.seed=4 --images 5 name=b --classes 7")
    assert plan == type(plan)(run, (), 0.5, 5, 7)
    bare = called("plan run.yaml train.seed=4 name=b")
    assert bare == type(bare)(run)
    submit = called("submit --dry-run run.yaml train.seed=4 --scorer kaggle name=b")
    assert submit == type(submit)(run, True, "kaggle")


def test_zero_shot_takes_a_step_before_its_config(called):
    assert called("zero-shot zero.yaml first=3").step == "all"
    assert called("zero-shot zero.yaml step=data-prep").step == "data-prep"
    config = called("zero-shot evaluate zero.yaml first=3 step=all")
    assert (config.step, config.first) == ("evaluate", 3)


def test_staged_finds_its_config_images_and_overrides_among_the_words(called):
    predict = called("staged predict staged.yml i.png seed=3 a=b.png --stage first")
    assert (predict.images, predict.stage, predict.config.seed) == (["i.png", "a=b.png"], "first", 3)
    assert predict.config.batch_size == 7
    assert called("staged --config staged.yml predict i.png").config == called("staged predict staged.yml i.png").config
    assert called("staged build staged.yml").images == []
    perf = called("staged perf --stage third --num 2 --batch-size 3 --display-freq 1 --time")
    assert perf.config == load(Staged, ROOT / "configs/staged_cifar10.yaml")  # the packaged one
    assert vars(perf.options) == {"stage": "third", "num": 2, "batch_size": 3, "display_freq": 1, "time": True}
    assert called("staged perf staged.yml").options.batch_size == 7


def test_similar_takes_images_after_its_config(called):
    search = called("similar search similar.yaml i.png neighbours=2 a=b.png")
    assert (search.action, search.images, search.config.neighbours) == ("search", ["i.png", "a=b.png"], 2)
    assert called("similar train similar.yaml seed=9").config.seed == 9
    assert called("captions captions.yaml table=b.csv").table == "b.csv"


def test_words_of_the_older_systems_are_those_of_their_configs():
    from pipeline.staged import config as staged
    from pipeline.zero_shot import config as zero_shot

    assert (*staged.STAGES, "all", "cascade") == commands_older.STAGES
    assert commands_older.STEPS == zero_shot.STEPS
    assert commands_older.STAGED_CONFIG in packaged.names()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian run.yaml", "guie: No such command 'trian'; nearest: train"),
        ("--verison", "guie: No such option '--verison'. Did you mean '--version'?"),
        ("train", "guie train: Missing argument 'CONFIG'"),
        ("train run.yaml x", "guie train: expected KEY=VALUE, got 'x'"),
        ("train ru.yaml", "guie train: expected a config file, ru.yaml does not exist; nearest: run.yaml"),
        ("train dmeo", "'dmeo' is neither; nearest: demo"),
        ("train configs/demo.yaml", "configs/demo.yaml does not exist; guie brings one of that name along: demo"),
        ("config shwo", "guie config: No such command 'shwo'; nearest: show"),
        ("demo train.sed=1", "nearest known: train.seed"),
        ("run zero_shot_cub200", "zero_shot_cub200.yaml is a config of `guie zero-shot`, not of this command"),
        ("zero-shot evalute zero.yaml", "guie zero-shot: no step 'evalute'; nearest: evaluate"),
        ("similar train similar_cub2", "nearest: similar_cub200"),
        ("train configs", "configs is a folder"),
        ("train run.yaml train.sed=1", "nearest known: train.seed"),
        ("score e --quieries a", "guie score: No such option '--quieries'. Did you mean '--queries'?"),
        ("score e --out --index a", "guie score: Option '--out' requires an argument, got '--index'"),
        ("score e --index", "guie score: Option '--index' requires an argument"),
        ("embed e d", "guie embed: Missing option '--out'"),
        ("soup a b", "guie soup: Missing option '--out'"),
        ("verify a b", "guie verify: Got unexpected extra argument (b)"),
        ("browse a b --port x", "'x' is not a valid integer"),
        ("check", "guie check: Missing argument 'SUBMISSION...'"),
        ("check a --scorer kagle", "expected here or kaggle, got 'kagle'; nearest: kaggle"),
        ("submit run.yaml --scorer x", "expected here or kaggle, got 'x'"),
        ("plan run.yaml --share 0", "--share: expected a share of the peak, 0 … 1, got 0.0"),
        ("plan run.yaml --share 1.1", "0 … 1, got 1.1"),
        ("plan run.yaml --share nan", "share of the peak"),
        ("plan run.yaml --classes 0", "'--classes': 0 is not in the range x>=1"),
        ("import-weights ck", "--encoder NAME and --out FILE; or --parity"),
        ("import-weights ck --encoder c --out o.bin", "--out: expected a .safetensors file, got o.bin"),
        ("zero-shot", "guie zero-shot: Missing argument 'CONFIG'"),
        ("zero-shot data-prep", "guie zero-shot: Missing argument 'CONFIG'"),
        ("staged", "Choose from: build, predict, perf"),
        ("staged grow staged.yml", "expected build, predict or perf, got 'grow'"),
        ("staged perf staged.yml --stage thrid", "got 'thrid'; nearest: third"),
        ("staged perf staged.yml --num -1", "'--num': -1 is not in the range x>=0"),
        ("staged perf staged.yml --display-freq 0", "'--display-freq': 0 is not in the range x>=1"),
        ("staged predict staged.yml", "predict: expected the path of an image"),
        ("staged build staged.yml i.png", "build takes a CONFIG and KEY=VALUE, got 'i.png'"),
        ("staged build staged.yml --config run.yaml", "expected one config, got staged.yml, run.yaml"),
        ("similar", "Choose from: train, search"),
        ("similar search", "expected a CONFIG"),
        ("similar search i.png", "expected a CONFIG"),
        ("similar train similar.yaml i.png", "train takes a CONFIG and KEY=VALUE, got 'i.png'"),
    ],
)
def test_bad_words_end_in_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, line, said):
    for name, text in YAML.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    for module in (commands, benchmarks, commands_older, commands_training):  # refused before anything is imported
        monkeypatch.setattr(module, "import_quietly", lambda name: pytest.fail(name))
    assert cli.main(shlex.split(line)) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not captured.out


@pytest.fixture
def verified(monkeypatch, capsys):
    """`guie verify` whose `main` raises; returns the exit code and what stderr says."""

    def run(error: BaseException) -> tuple[int, str]:
        def fails(_):
            raise error

        module = SimpleNamespace(main=fails, Config=lambda *_: None)
        monkeypatch.setattr(commands, "import_quietly", lambda name: module)
        return cli.main(["verify", "a"]), capsys.readouterr().err

    return run


def test_errors_of_a_command_become_exit_codes(verified):
    assert verified(BadInput("one\n two")) == (2, "guie verify: one two\n")
    code, said = verified(PermissionError(13, "Permission denied", "/x"))
    assert code == 2 and said.startswith("guie verify: Permission denied: /x; ") and said.count("\n") == 1
    code, said = verified(KeyboardInterrupt())
    assert code == 130 and said.startswith("guie verify: interrupted") and said.count("\n") == 1


@pytest.mark.parametrize("fault", [ValueError, EOFError, BrokenPipeError, FileNotFoundError])
def test_a_fault_is_raised(verified, fault):
    with pytest.raises(fault):
        verified(fault("ours"))


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [[*ENTRY, "--help"], [sys.executable, "-c", PRINTS]], ids=["help", "main"])
def test_a_reader_that_leaves_ends_the_command_quietly(words, unbuffered):
    """`guie … | head -1`, the reader gone before the first byte."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def completed(line: str) -> list[str]:
    """What the shell is offered for the last word of `line`, as Click writes it: type,value."""
    asked = {"_GUIE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(ENTRY, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, **asked})
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("guie tr", ["plain,train"]),
        ("guie score e --q", ["plain,--queries"]),
        ("guie check --scorer k", ["plain,kaggle"]),
        ("guie train configs/d", ["file,configs/d"]),
        ("guie train de", ["plain,demo"]),
        ("guie run demo train.loss.na", ["plain,train.loss.name="]),
        ("guie run demo train.phases.0.epo", ["plain,train.phases.0.epochs="]),
        ("guie staged build staged_ci", ["plain,staged_cifar10"]),
        ("guie captions captions fetch.max_b", ["plain,fetch.max_bytes="]),
        ("guie config s", ["plain,show"]),
        ("guie score e --index da", ["file,da"]),
        ("guie staged p", ["plain,predict", "plain,perf"]),
        ("guie staged predict a --stage t", ["plain,third"]),
        ("guie zero-shot d", ["plain,data-prep"]),
        ("guie zero-shot ", ["file,"]),
        ("guie zero-shot configs/z", ["file,configs/z"]),
    ],
)
def test_the_shell_completes_commands_options_and_files(line, offered):
    assert completed(line) == offered


def test_completion_says_how_it_is_switched_on_and_survives_an_unknown_command():
    environment = {**os.environ, "_GUIE_COMPLETE": "zsh_source"}
    done = subprocess.run(ENTRY, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert "compdef" in done.stdout and "_GUIE_COMPLETE=zsh_complete guie" in done.stdout
    completed("guie nothing x")


def test_a_single_command_speaks_the_same_dialect(tmp_path, capsys):
    """As `python -m export.package CONFIG`."""
    found = []
    (tmp_path / "a.yaml").write_text(YAML["run.yaml"])
    decorated = command_line.takes_config("pipeline.config:Run")(lambda config: found.append(config))
    command = click.command(cls=command_line.Command)(decorated)
    assert command_line.run(command, "package", [str(tmp_path / "a.yaml"), "name=b"]) == 0
    assert found == [load(Run, tmp_path / "a.yaml", ["name=b"])]
    for words in ([], ["none.yaml"], ["--dry"]):
        assert command_line.run(command, "package", words) == 2
        said = capsys.readouterr().err
        assert said.startswith("package: ") and said.count("\n") == 1


def test_packing_for_kaggle_refuses_a_missing_config_in_one_line(tmp_path):
    script = [sys.executable, "-m", "export.package", str(tmp_path / "none.yaml")]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("package: expected a config file, ")
