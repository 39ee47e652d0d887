"""A checkout to GitHub: `python -m launch.publish check | run --repo=NAME`.

- `check` looks for git, the GitHub command line tool and its login, a clean state and the remote,
  and says what to do about each; exit code 1 where something is left to do.
- `run` commits what is staged already, makes the repository where the remote is missing, and pushes
  the one branch. It never forces, pushes no tag and stages nothing. `--dry_run` prints its
  commands, and needs neither network nor tools.

BUILD.md, "Publish", walks through both.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from absl import flags

from launch.wiring import program, shell, verbs
from launch.wiring.shell import Command

_REPO = flags.DEFINE_string("repo", "", "Name of the repository, or OWNER/NAME.")
_VISIBILITY = flags.DEFINE_enum(
    "visibility", "private", ["private", "public"], "run: who sees a repository that is made."
)
_BRANCH = flags.DEFINE_string("branch", "main", "The branch to push.")
_REMOTE = flags.DEFINE_string("remote", "origin", "What git calls the repository.")
_MESSAGE = flags.DEFINE_string("message", "Publish", "run: of the commit of what is staged.")
flags.adopt_module_key_flags(verbs)

# No name may become an option, a path or another ref: they are plainer here than git has them.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAMES = {
    "repo": re.compile(rf"({_NAME}/)?{_NAME}", re.ASCII),
    "remote": re.compile(_NAME, re.ASCII),
    "branch": re.compile(rf"{_NAME}(/{_NAME})*", re.ASCII),
}


def commands(
    repo: str, *, visibility: str, branch: str, remote: str, message: str
) -> list[Command]:
    """Returns what `run` does, in order.

    Raises:
        UsageError: no name of a repository, remote or branch, or a commit without a message.
    """
    for flag, value in {"repo": repo, "remote": remote, "branch": branch}.items():
        if _NAMES[flag].fullmatch(value) is None or ".." in value or value.endswith(".lock"):
            raise program.UsageError(f"--{flag}={value!r}: must be a plain name")
    if not message.strip():
        raise program.UsageError(f"--message={message!r}: the commit needs one")
    create = ("gh", "repo", "create", repo, f"--{visibility}", "--source=.", f"--remote={remote}")
    ref = f"refs/heads/{branch}"
    return [
        Command(
            ("git", "commit", f"--message={message}"), unless=("git", "diff", "--cached", "--quiet")
        ),
        Command(create, unless=("git", "remote", "get-url", remote)),
        # A whole refspec: neither push.default nor remote.*.push adds another, nor a force.
        Command(
            ("git", "push", "--no-follow-tags", "--set-upstream", remote, f"{ref}:{ref}"),
        ),
    ]


def problems() -> list[tuple[str, str]]:
    """Returns what was looked at, and what to do about each; empty where it is as it must be."""
    if not _succeeds("git", "--version"):
        return [("git", "install git: https://git-scm.com/downloads")]
    here = _succeeds("git", "rev-parse", "--is-inside-work-tree")
    found = [("git", "" if here else "run it in a checkout, or make one: git init")]
    has_remote = here and _succeeds("git", "remote", "get-url", _REMOTE.value)
    has_gh = _succeeds("gh", "--version")
    needed = "" if has_remote else ", which makes the repository"
    found.append(
        ("gh", "" if has_gh else f"install the GitHub CLI{needed}: https://cli.github.com")
    )
    if has_gh:
        login = _succeeds("gh", "auth", "status")
        found.append(("login", "" if login else "gh auth login"))
    if here:
        branch = _output("git", "symbolic-ref", "--short", "HEAD")
        on_it = branch == _BRANCH.value
        found.append(
            ("branch", "" if on_it else f"HEAD is on {branch or 'no branch'!r}: {_switch()}")
        )
        changed = _output("git", "status", "--porcelain").splitlines()
        # The index comes first, the working tree second: "M " is staged whole.
        loose = [line[3:] for line in changed if line[1] != " "]
        todo = ""
        if loose:
            todo = f"not staged: {len(loose)}, such as {loose[0]}: git add, or git stash"
        found.append(("state", todo))
        if has_remote:
            reached = _succeeds("git", "ls-remote", "--heads", _REMOTE.value)
            unheard = f"{_REMOTE.value} does not answer: look at network, login and git remote -v"
            found.append(("remote", "" if reached else unheard))
        else:
            found.append(("remote", f"there is no {_REMOTE.value} yet: `run --repo=NAME` makes it"))
    return found


def check() -> None:
    """Says what is ready and what is not."""
    found = problems()
    for what, todo in found:
        print(f"{what}: {todo or 'ok'}")
    if any(todo for _, todo in found):
        sys.exit(1)


def run() -> None:
    """Publishes the checkout."""
    todo = commands(
        _REPO.value,
        visibility=_VISIBILITY.value,
        branch=_BRANCH.value,
        remote=_REMOTE.value,
        message=_MESSAGE.value,
    )
    if verbs.DRY_RUN.value:
        for command in todo:
            print(command)
        return
    branch, ref = _output("git", "symbolic-ref", "--short", "HEAD"), f"refs/heads/{_BRANCH.value}"
    if branch != _BRANCH.value:
        if not _succeeds("git", "rev-parse", "--verify", ref):
            raise program.UsageError(f"--branch={_BRANCH.value}: no such branch here: {_switch()}")
        if not _succeeds("git", "diff", "--cached", "--quiet"):
            raise program.UsageError(
                f"--branch={_BRANCH.value}: what is staged would be committed to "
                f"{branch or 'no branch'!r}: {_switch()}"
            )
    try:
        shell.run(todo)
    except shell.CommandFailedError as error:
        print(f"error: {error}; `python -m launch.publish check` says more", file=sys.stderr)
        sys.exit(error.status)


def _switch() -> str:
    return f"git switch {_BRANCH.value}, or --branch"


def _succeeds(*arguments: str) -> bool:
    try:
        return _call(*arguments).returncode == 0
    except OSError:  # Not installed.
        return False


def _output(*arguments: str) -> str:
    return _call(*arguments).stdout.rstrip("\n")


def _call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        check=False,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},  # A question would wait for ever.
    )


VERBS = {"check": check, "run": run}

if __name__ == "__main__":
    verbs.start(VERBS, sys.argv)
