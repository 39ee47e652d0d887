"""`launch.artifacts` against a hub that is a folder of this machine."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import huggingface_hub
import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver
from flax import nnx

import launch.artifacts
from minirec import artifacts
from minirec.artifacts.probe import probe_model
from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from tests.damages import damages, variants

ROOT = pathlib.Path(__file__).parent.parent.parent
NAME = "minionerec_industrial"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with two files in the wanted subfolder and one beside it; counts what it is asked."""
    place = tmp_path / "hub"
    (place / "Industrial_ckpt" / "deep").mkdir(parents=True)
    (place / "Industrial_ckpt" / "config.json").write_text("{}")
    (place / "Industrial_ckpt" / "deep" / "model.safetensors").write_bytes(b"weights")
    (place / "Other.bin").write_bytes(b"not wanted")
    hub = types.SimpleNamespace(place=place, calls=[], fails_after=None, unreachable=False)

    def snapshot_download(*, repo_id, repo_type, revision, allow_patterns, local_dir):
        hub.calls.append((repo_id, repo_type, revision))
        notes = pathlib.Path(local_dir) / ".cache" / "huggingface"
        if hub.unreachable:
            # By its notes the library knows that files are missing; without them it takes whatever
            # is in the folder for the whole.
            if notes.is_dir():
                raise ConnectionError("the hub cannot be reached")
            return
        notes.mkdir(parents=True, exist_ok=True)
        wanted = [path for pattern in allow_patterns for path in sorted(place.glob(pattern))]
        copied = 0
        for top in wanted:
            for path in sorted([top, *top.rglob("*")]):
                target = pathlib.Path(local_dir) / path.relative_to(place)
                if not path.is_file() or target.exists():
                    continue
                if copied == hub.fails_after:
                    raise ConnectionResetError("connection reset")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                copied += 1

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return hub


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a verb in an empty folder with flags."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(verb, *arguments):
        with flagsaver.flagsaver():
            flags.FLAGS(["artifacts", *arguments])
            launch.artifacts.VERBS[verb]()

    return run


def manifest():
    return json.loads(pathlib.Path("artifacts.json").read_text())["artifacts"]


def everything():
    return sorted(str(path) for path in pathlib.Path().rglob("*"))


def test_init_pins_the_published_work(run):
    run("init")
    pinned = manifest()
    assert pinned[NAME]["repository"] == "kkknight/MiniOneRec"
    assert pinned[NAME]["revision"] == "365a03fc6601ed36abd69cc9a0a59025a3d31cdc"
    assert pinned[NAME]["subfolder"] == "Industrial_ckpt"
    assert pinned["minionerec_source"]["revision"] == "8e03e354033fc81f830580f01c102bd7fbaa262a"
    assert artifacts.read_manifest("artifacts.json") == artifacts.default_artifacts()
    with pytest.raises(ValueError, match="--overwrite"):
        run("init")
    run("init", "--overwrite")


@pytest.mark.parametrize("verb", ["init", "download", "verify", "probe"])
def test_a_dry_run_touches_nothing_and_asks_nobody(verb, run, hub, capsys):
    run(verb, "--dry_run")
    assert everything() == []
    assert hub.calls == []
    said = capsys.readouterr().out
    assert "would " in said
    assert "artifacts" in said


def test_a_download_is_the_subfolder_recorded_and_verified(run, hub, capsys):
    run("init")
    run("download")
    assert hub.calls == [
        ("kkknight/MiniOneRec", "model", "365a03fc6601ed36abd69cc9a0a59025a3d31cdc")
    ]
    folder = pathlib.Path("artifacts") / NAME
    assert artifacts.present_files(folder) == ["config.json", "deep/model.safetensors"]
    assert manifest()[NAME]["files"]["config.json"] == {
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    assert not [name for name in everything() if "partial" in name or ".cache" in name]
    run("verify")
    run("download")  # already there
    assert len(hub.calls) == 1
    said = capsys.readouterr().out
    assert f"{NAME}: artifacts/{NAME}: verified, 2 files, 9 bytes" in said
    assert "git checkout 8e03e354033fc81f830580f01c102bd7fbaa262a" in said


def test_a_download_that_breaks_off_leaves_no_folder_and_goes_on(run, hub):
    run("init")
    hub.fails_after = 1
    with pytest.raises(ValueError, match="ConnectionResetError: connection reset"):
        run("download")
    assert not (pathlib.Path("artifacts") / NAME).exists()
    assert manifest()[NAME]["files"] == {}
    (hub.place / "Industrial_ckpt" / "config.json").unlink()  # it has come already
    run("download")
    assert len(artifacts.present_files(pathlib.Path("artifacts") / NAME)) == 2


def test_without_a_network_the_error_says_what_to_place_where(run, hub):
    run("init")
    hub.fails_after = 0
    with pytest.raises(ValueError, match="cannot be downloaded") as error:
        run("download")
    for part in (
        "https://huggingface.co/kkknight/MiniOneRec/tree/365a03fc6601ed36abd69cc9a0a59025a3d31cdc"
        "/Industrial_ckpt",
        str(pathlib.Path("artifacts").absolute() / NAME),
        "verify --record",
    ):
        assert part in str(error.value)


def test_files_placed_by_hand_are_recorded_once_and_then_held(run, hub):
    run("init")
    folder = pathlib.Path("artifacts") / NAME
    shutil.copytree(hub.place / "Industrial_ckpt", folder)
    with pytest.raises(ValueError, match="no files are recorded"):
        run("verify")
    run("verify", "--record")
    run("verify")
    weights = folder / "deep" / "model.safetensors"
    weights.write_bytes(b"WEIGHTS")
    (folder / "config.json").write_text("{ }")
    (folder / "stray").write_text("")
    with pytest.raises(ValueError, match="not what the manifest says") as error:
        run("verify")
    said = str(error.value).splitlines()
    assert f"  {folder / 'config.json'}: size: wanted 2 bytes, found 3" in said
    wanted = manifest()[NAME]["files"]["deep/model.safetensors"]["sha256"]
    assert any(f"{weights}: sha256: wanted {wanted}, found " in line for line in said)
    assert f"  {folder / 'stray'}: unexpected; the manifest does not list it" in said
    weights.unlink()
    with pytest.raises(ValueError, match=f"{weights}: missing"):
        run("verify", "--record")  # records nothing over what is recorded
    assert manifest()[NAME]["files"]["deep/model.safetensors"]["sha256"] == wanted


@pytest.mark.parametrize("record", [False, True])
def test_links_and_pipes_in_an_artifacts_folder_are_not_followed(run, hub, tmp_path, record):
    run("init")
    run("download")
    folder = pathlib.Path("artifacts") / NAME
    outside = tmp_path / "outside"
    shutil.copytree(folder / "deep", outside)
    file = folder / "deep" / "model.safetensors"
    arguments = ["--record"] if record else []
    file.unlink()
    file.symlink_to(outside / file.name)  # The same bytes, today.
    with pytest.raises(ValueError, match=r"model\.safetensors: a link or no plain file"):
        run("verify", *arguments)
    shutil.rmtree(folder / "deep")
    (folder / "deep").symlink_to(outside)
    with pytest.raises(ValueError, match=r"deep: a link; an artifact's folders lie in its own"):
        run("verify", *arguments)
    (folder / "deep").unlink()
    (folder / "deep").mkdir()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=r"model\.safetensors: a link or no plain file"):
        run("verify", *arguments)


def test_what_comes_must_be_what_was_recorded(run, hub):
    run("init")
    run("download")
    recorded = manifest()
    shutil.rmtree(pathlib.Path("artifacts"))
    good = (hub.place / "Industrial_ckpt" / "config.json").read_text()
    (hub.place / "Industrial_ckpt" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json: sha256: wanted 44136fa3"):
        run("download")
    assert not (pathlib.Path("artifacts") / NAME).exists()
    assert manifest() == recorded
    hub.unreachable = True
    with pytest.raises(ValueError, match=r"cannot be downloaded: ConnectionError[^\0]*--record"):
        run("download")
    hub.unreachable = False
    (hub.place / "Industrial_ckpt" / "config.json").write_text(good)
    run("download")  # fetches the wrong file again, not the right one
    run("verify")


def test_a_folder_that_holds_something_else_is_replaced_only_if_asked(run, hub):
    run("init")
    run("download")
    (pathlib.Path("artifacts") / NAME / "config.json").write_text("mine")
    with pytest.raises(ValueError, match="--overwrite replaces"):
        run("download")
    assert (pathlib.Path("artifacts") / NAME / "config.json").read_text() == "mine"
    run("download", "--overwrite")
    run("verify")
    assert len(list(pathlib.Path("artifacts").iterdir())) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("revision", "main", "revision is 'main'; expected a commit"),
        ("kind", "space", "kind is 'space'; expected one of model, dataset, source"),
        ("repository", "x", "repository is 'x'; expected OWNER/NAME"),
        ("subfolder", "../up", "subfolder is '../up'; expected empty or a plain relative path"),
        ("subfolder", "*", "subfolder is .*a plain relative path"),
        (
            "files",
            {"/etc/passwd": {}},
            "files: holds '/etc/passwd'; expected a plain",
        ),
        ("files", {"a": {"sha256": "12"}}, r"files\.a\.sha256 is '12'; expected 64"),
        ("files", {"a": {"size": -1}}, r"files\.a\.size is -1; expected a whole number"),
        ("files", {"a": 3}, r"files\.a is 3; expected an object"),
        ("files", {"a": {"sha": None}}, r"unknown field 'files\.a\.sha'; known are "),
        ("licence", "MIT", "unknown field 'licence'"),
    ],
)
def test_a_bad_manifest_is_an_error_that_names_the_field(field, value, message, run):
    run("init")
    changed = json.loads(pathlib.Path("artifacts.json").read_text())
    changed["artifacts"][NAME][field] = value
    pathlib.Path("artifacts.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=f"artifacts.json: {NAME}: .*{message}"):
        run("verify")


def test_any_damage_to_a_manifest_is_refused_by_its_name_or_leaves_a_manifest(run):
    """It is for people to edit, so that nothing tells a changed digit from one that was meant."""
    run("init")
    path = pathlib.Path("artifacts.json")
    data, refusals = path.read_bytes(), []
    value = json.loads(data)
    name, entry = next(iter(value["artifacts"].items()))
    others = [content for _, content in damages(path.name, data)]
    others += [json.dumps(other).encode() for _, other in variants(value)]
    for _, other in variants(entry):
        others.append(json.dumps(value | {"artifacts": {name: other}}).encode())
    for content in others:
        path.write_bytes(content)
        try:
            found = artifacts.read_manifest(path)
        except ValueError as error:
            refusals.append(str(error))
        else:
            artifacts.write_manifest(path, found)
            assert artifacts.read_manifest(path) == found
    assert len(refusals) > 80
    assert all(path.name in refusal for refusal in refusals)


def test_an_unknown_name_and_a_missing_manifest_are_usage_errors(run):
    with pytest.raises(ValueError, match="init` writes one"):
        run("verify")
    run("init")
    with pytest.raises(ValueError, match=r"--artifact=x: .*minionerec_source"):
        run("download", "--artifact=x")


def test_a_probe_counts_parameters_and_runs_the_model_once(run, tmp_path, monkeypatch, capsys):
    trunk = TrunkConfig(
        width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=8
    )
    model = SidDecoder(SidDecoderConfig(trunk=trunk, vocab_size=11), rngs=nnx.Rngs(0))
    fake = types.ModuleType("minirec.models.hf")
    fake.load_checkpoint = lambda folder: model
    monkeypatch.setitem(sys.modules, "minirec.models.hf", fake)
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        run("probe", f"--checkpoint={tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    run("probe", f"--checkpoint={tmp_path}")
    lines = dict(line.split("=") for line in capsys.readouterr().out.splitlines())
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert int(lines["parameters"]) == count
    assert int(lines["parameter_bytes"]) == 4 * count
    assert lines["dtype"] == "float32"
    assert int(lines["peak_bytes"]) > 4 * count
    row = jnp.arange(8)[None]
    logits = model.logits(model(row, row, jnp.ones_like(row)))[0, -1]
    assert int(lines["top_token"]) == int(logits.argmax())
    assert float(lines["logit_mean"]) == pytest.approx(float(logits.mean()), abs=1e-4)
    model.embedding[...] = jnp.full_like(model.embedding[...], jnp.nan)
    with pytest.raises(ValueError, match="11 of 11 logits are not finite"):
        probe_model(model)


def test_the_command_line_has_verbs_and_takes_dashes(tmp_path):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "launch.artifacts", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
        )

    assert "Industrial_ckpt" in command("init", "--dry-run").stdout
    done = command("verfy")
    assert done.returncode == 2
    assert "'verfy' is not a verb; known are init, download, verify, probe" in done.stderr
