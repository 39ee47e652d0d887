"""`launch.publish`: what it prints, and the same with git and a GitHub that is played here."""

import os
import pathlib
import shlex
import stat
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from launch import publish
from launch.wiring import program

ROOT = pathlib.Path(__file__).parents[2]
# gh repo create NAME --private --source=. --remote=REMOTE, and gh auth status.
GH = """#!/bin/sh
echo "$*" >> "$PLAYED/calls"
case "$1" in
  auth) test -e "$PLAYED/login" ;;
  repo) git init -q --bare "$PLAYED/$3.git" && git remote add "${6#--remote=}" "$PLAYED/$3.git" ;;
esac
"""
OPTIONS = {"visibility": "public", "branch": "main", "remote": "origin", "message": "it's"}


def git(*arguments, cwd=None):
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a commit on main, a tag, another branch, a staged and a loose change."""
    played = tmp_path / "played"
    (played / "bin").mkdir(parents=True)
    (played / "login").touch()
    gh = played / "bin" / "gh"
    gh.write_text(GH)
    gh.chmod(gh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PLAYED", str(played))
    monkeypatch.setenv("PATH", f"{gh.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "gitconfig").write_text(
        "[user]\nname = a\nemail = a@b.c\n[push]\nfollowTags = true\ndefault = matching\n"
    )
    folder = tmp_path / "checkout"
    folder.mkdir()
    monkeypatch.chdir(folder)
    git("init", "-q", "-b", "main")
    for name in ("first", "loose"):
        pathlib.Path(name).write_text("1")
    git("add", "first", "loose")
    git("commit", "-q", "-m", "first")
    git("tag", "-a", "v1", "-m", "v1")
    git("branch", "other")
    pathlib.Path("staged").write_text("2")
    git("add", "staged")
    pathlib.Path("loose").write_text("2")
    return played


def run(*changes, verb=publish.run):
    with flagsaver.flagsaver():
        flags.FLAGS(["publish", "--repo=shop", "--message=more", *changes])
        verb()


def refs(played):
    lines = git("for-each-ref", "--format=%(refname)", cwd=played / "shop.git")
    return lines.splitlines()


def test_a_dry_run_prints_its_commands_quoted_and_needs_no_tools(tmp_path):
    command = [sys.executable, "-m", "launch.publish", "run", "--repo=me/shop", "--dry-run"]
    more = ["--visibility=public", "--message=it's $HOME"]
    env = {"PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *more], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    commit, create, push = [shlex.split(line) for line in done.stdout.splitlines()]
    assert commit[-3:] == ["git", "commit", "--message=it's $HOME"]
    assert commit[:4] == ["git", "diff", "--cached", "--quiet"]
    assert create[:4] == ["git", "remote", "get-url", "origin"]
    made = ["gh", "repo", "create", "me/shop", "--public", "--source=.", "--remote=origin"]
    assert create[-7:] == made
    assert push[-2:] == ["origin", "refs/heads/main:refs/heads/main"]
    assert not list(tmp_path.iterdir())


def test_it_commits_what_is_staged_makes_the_repository_once_and_pushes_one_branch(checkout):
    run()
    assert refs(checkout) == ["refs/heads/main"]
    assert git("show", "--name-only", "--format=%s", "HEAD").split() == ["more", "staged"]
    assert git("status", "--porcelain") == "M loose"
    git("add", "loose")
    run()
    assert git("rev-parse", "main") == git("rev-parse", "main", cwd=checkout / "shop.git")
    run()  # There is nothing left to commit, and nothing to push.
    calls = (checkout / "calls").read_text().splitlines()
    assert calls == ["repo create shop --private --source=. --remote=origin"]
    assert refs(checkout) == ["refs/heads/main"]


def test_a_history_that_others_went_on_with_is_not_overwritten(checkout, tmp_path, capfd):
    run()
    git("clone", "-q", "-b", "main", str(checkout / "shop.git"), str(tmp_path / "theirs"))
    git("commit", "-q", "--allow-empty", "-m", "theirs", cwd=tmp_path / "theirs")
    git("push", "-q", "origin", "main", cwd=tmp_path / "theirs")
    git("commit", "-q", "--allow-empty", "-m", "ours")
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 1
    assert "launch.publish check" in capfd.readouterr().err
    assert git("log", "-1", "--format=%s", "main", cwd=checkout / "shop.git") == "theirs"


def test_what_is_staged_goes_to_no_other_branch(checkout):
    git("switch", "-q", "other")
    before = git("rev-parse", "other", "main")
    with pytest.raises(
        program.UsageError, match=r"staged would be committed to 'other'.*git switch"
    ):
        run()
    with pytest.raises(program.UsageError, match="--branch=new: no such branch"):
        run("--branch=new")
    assert git("rev-parse", "other", "main") == before
    assert not (checkout / "calls").exists()


@pytest.mark.parametrize("field", ["repo", "branch", "remote"])
@pytest.mark.parametrize("name", ["", "-x", "--force", "+main", "a b", "a:b", "../x", "a..b", "é"])
def test_no_name_is_an_option_or_another_ref(field, name):
    with pytest.raises(program.UsageError, match=f"--{field}="):
        publish.commands(**{"repo": "shop", **OPTIONS, field: name})


def test_a_commit_needs_a_message():
    with pytest.raises(program.UsageError, match="--message"):
        publish.commands("shop", **OPTIONS | {"message": " "})


def test_a_check_says_what_to_do_about_each(checkout, capsys, monkeypatch, tmp_path):
    def checked():
        code = 0
        try:
            run(verb=publish.check)
        except SystemExit as ended:
            code = ended.code
        lines = capsys.readouterr().out.splitlines()
        return code, dict(line.split(": ", 1) for line in lines)

    code, found = checked()
    assert code == 1
    assert found["git"] == found["gh"] == found["login"] == found["branch"] == "ok"
    assert "not staged: 1, such as loose: git add" in found["state"]
    assert "--repo=NAME" in found["remote"]
    git("add", "loose")
    run()
    assert checked() == (
        0,
        dict.fromkeys(("git", "gh", "login", "branch", "state", "remote"), "ok"),
    )
    (checkout / "login").unlink()
    git("switch", "-q", "other")
    git("remote", "set-url", "origin", str(tmp_path / "gone"))
    code, found = checked()
    assert code == 1
    assert found["login"] == "gh auth login"
    assert "git switch main" in found["branch"]
    assert "does not answer" in found["remote"]
    monkeypatch.chdir(tmp_path)
    assert "git init" in checked()[1]["git"]
    monkeypatch.setenv("PATH", "")
    assert checked() == (1, {"git": "install git: https://git-scm.com/downloads"})
