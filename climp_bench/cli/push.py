"""``climp-bench models push``: upload weights to a model repository of the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.models.push import PushPlan


def push(
    weights: Annotated[
        str,
        typer.Argument(help="FAMILY@SCALE of the local store, or a folder of weights.", show_default=False),
    ],
    repo: Annotated[str, typer.Argument(help="Repository on the hub: OWNER/NAME.", show_default=False)],
    branch: Annotated[str, typer.Option("--branch", help="Branch of it; made if it is not there.")] = "main",
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private; refuse one that is public.")
    ] = False,
    message: Annotated[
        str | None, typer.Option("--message", help="Of the commit. Default: the model and its digest.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Upload. Without it, only say what would change.")
    ] = False,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Upload weights, their card, manifest, origin and tokenizer to the hub.

    Only says what would change there, unless told `--yes`; uploads what it lists and nothing else, in one
    commit. The token is that of `hf auth login` or HF_TOKEN. `models pull --repo` brings the weights back.

    Examples:

      climp-bench models push climp-m1@micro ann/climp-micro

      climp-bench models push runs/climp/weights/climp-m1-base ann/climp --private --yes
    """
    from climp_bench.models.push import find_weights, plan_push
    from climp_bench.models.push import push as carry_out

    ref = find_weights(weights)
    plan = plan_push(ref, repo, branch=branch, private=private)
    if quiet:
        console.no_download_bars()
    if not json:
        _show(plan)
    commit = None
    if yes:
        text = message or f"{ref.model}, weights sha256 {ref.digest[:16]}"
        commit = carry_out(plan, text, lambda remark: None if quiet else console.note(remark, always=True))
    if json:
        console.print_json(_facts(plan, commit))
        return
    changes, size = plan.changes, sum(file.size for file in plan.changes) / 1e6
    if not changes:
        last = "Every file is the same there."
    elif commit:
        last = f"Uploaded {len(changes)} files, {size:,.1f} MB."
    else:
        last = f"Would upload {len(changes)} files, {size:,.1f} MB; --yes uploads."
    if commit:
        last += f" hf:{plan.repo}@{commit}"
    console.out.print(last, highlight=False, soft_wrap=True)


def _show(plan: PushPlan) -> None:
    from rich.table import Table

    rows = {
        "weights": f"{plan.ref.model} ({plan.ref.source}), {plan.ref.directory}",
        "repository": f"hf:{plan.repo}, {_state(plan)}",
        "branch": plan.branch + (" (is made)" if plan.new_branch else ""),
        "account": plan.account or "no token is here: `hf auth login` or HF_TOKEN",
    }
    for word, text in rows.items():
        console.out.print(f"{word:<11} {text}", highlight=False, markup=False, soft_wrap=True)
    table = Table("file", "there", box=None, pad_edge=False)
    table.add_column("bytes", justify="right")
    table.add_column("sha256", no_wrap=True)
    for file in plan.files:
        table.add_row(file.name, file.change, f"{file.size:,}", file.sha256)
    console.print_table(table)
    if plan.untouched:
        console.out.print("Other files there stay:", ", ".join(plan.untouched), highlight=False, markup=False)


def _state(plan: PushPlan) -> str:
    if plan.there is None:
        kind = "private" if plan.private else "public"
        return f"is not there (or not for this account to see): it is made, {kind}"
    return f"is there, {'private' if plan.there.private else 'public'}, at {plan.there.commit[:12]}"


def _facts(plan: PushPlan, commit: str | None) -> dict[str, object]:
    return {
        "model": plan.ref.model, "source": plan.ref.source, "directory": str(plan.ref.directory),
        "repository": plan.repo, "exists": plan.there is not None, "branch": plan.branch,
        "new_branch": plan.new_branch, "private": plan.there.private if plan.there else plan.private,
        "account": plan.account,
        "files": [
            {"name": file.name, "size": file.size, "sha256": file.sha256, "change": file.change}
            for file in plan.files
        ],
        "untouched": list(plan.untouched), "dry_run": commit is None, "commit": commit,
    }  # fmt: skip
