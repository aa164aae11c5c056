"""`serinus-server`: serve, register, verify, log. Heavy imports stay inside the command that needs them."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

import click
from pydantic import ValidationError

from serinus_contract.names import PREDICTION_LOG_ENV
from serinus_server.errors import ServerError
from serinus_server.prediction_log.cli import log


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The embedding server of Serinus, and the tools that package and verify its models."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


cli.add_command(log)


@cli.command()
@click.option("--prediction-log", envvar=PREDICTION_LOG_ENV, show_envvar=True,
              help="chdb:FOLDER, clickhouse://USER:PASSWORD@HOST:PORT/DATABASE or jsonl:FILE. Default: nothing is logged.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0, 64), envvar="SERINUS_WORKERS", show_envvar=True, default=0,
              help="HTTP processes over one engine process. 1: one process does all; 0: by cores and device.")  # fmt: skip
def serve(prediction_log: str | None, workers: int) -> None:
    """Serve the model that MLFLOW_MODEL_URI names, on port 8001.

    MLFLOW_MODEL_URI is models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/STAGE, or a folder that `register` packaged.
    """
    from serinus_server.serving import serve as run
    from serinus_server.settings import Settings

    run(Settings(prediction_log=prediction_log, workers=workers))  # type: ignore[call-arg]


@cli.command()
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), default="/dev/termination-log", show_default=True
)
@click.option(
    "--least-overlap",
    type=click.FloatRange(0, 1),
    default=0.80,
    show_default=True,
    help="Top-10 neighbours shared with stable.",
)
def verify(report: Path, least_overlap: float) -> None:
    """Judge the model that MLFLOW_MODEL_URI names before it meets users.

    Compares with the model version in SERINUS_VERIFY_AGAINST, when set. Writes one JSON line to --report. Exit status: 0 passed, 1 failed,
    2 could not judge.
    """
    from serinus_server.settings import Settings
    from serinus_server.verify import verify as judge
    from serinus_server.verify import write_report

    verdict = judge(Settings(), least_overlap=least_overlap)  # type: ignore[call-arg]
    for check in verdict.checks:
        click.echo(f"{'pass' if check.passed else 'FAIL'}  {check.message}")
    for name, value in verdict.measured.items():
        click.echo(f"      {name} {value}")
    write_report(verdict, report)
    sys.exit(0 if verdict.passed else 1)


@cli.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", required=True, help="Registered model; made when it does not exist.")
@click.option("--alias", help="Alias to move to the new version, last of all.")
@click.option(
    "--stage", type=click.Choice(["Staging", "Production", "Archived"]), help="Stage to give the new version."
)
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON lines: texts of your traffic's domain. Up to 256 of them are stored with the model, to judge later versions on.",
)
@click.option(
    "--profile-from",
    metavar="VERSION",
    help="Keep the reference profile of this trusted version: a damaged model that makes its own looks confident.",
)
@click.option(
    "--same-space-as",
    metavar="VERSION",
    help="This is a copy of that version (half precision, int8): the same vector space. Measured, and refused when it is not.",
)
@click.option("--dimensions", type=int, multiple=True,
              help="The model was trained for its vectors to be cut to so many (Matryoshka); may be given again.")  # fmt: skip
@click.option(
    "--probes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON lines: golden probes beside the built-in ones.",
)
@click.option(
    "--tracking-uri", envvar="MLFLOW_TRACKING_URI", required=True, show_envvar=True, help="The MLflow server."
)
def register(path: Path, name: str, alias: str | None, stage: str | None, reference: Path | None, profile_from: str | None,
             same_space_as: str | None, dimensions: tuple[int, ...], probes: Path | None, tracking_uri: str) -> None:  # fmt: skip
    """Package the sentence-transformers model in PATH and register it as a new version.

    Registers safetensors, tokenizer, configuration, an ONNX export, golden probes and the reference profile; nothing that runs code.
    """
    if reference is not None and profile_from is not None:
        raise click.UsageError("--reference makes a profile and --profile-from keeps one: give one of them")
    logging.getLogger().setLevel(
        logging.ERROR
    )  # the quantiser advises what the export has had, and tells of every tensor
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("TQDM_DISABLE", "1")  # what is done is said here, in lines
    from serinus_server.brought import refuse_brought

    refuse_brought(path)  # before torch, which takes ten seconds to import
    click.echo("  loading torch", err=True)
    from serinus_server import register as registration
    from serinus_server.loading import fetch_stored
    from serinus_server.package import Stored

    def progress(text: str) -> None:
        click.echo(f"  {text}", err=True)

    with tempfile.TemporaryDirectory(prefix="serinus-") as folder:
        scratch = Path(folder)

        def trusted(version: str | None) -> Stored | None:
            return fetch_stored(f"models:/{name}/{version}", tracking_uri, scratch) if version else None

        wishes = registration.Wishes(
            registration.built_in_probes() + (registration.read_texts(probes) if probes else []),
            registration.read_texts(reference) if reference else (),
            trusted(profile_from),
            trusted(same_space_as),
            dimensions,
        )
        if not wishes.reference and wishes.profile_from is None:
            progress(
                "no --reference texts: confidence is nearness to built-in ones; its gate, limit and alert, and drift, are off"
            )
        packaged = registration.package(path, scratch / "model", wishes, progress)
        parameters = {
            "source": path.name, "probes": len(wishes.probes), "reference_texts": len(wishes.reference),
            "profile_from": profile_from or "", "same_space_as": same_space_as or "",
        }  # fmt: skip
        done = registration.register(
            scratch / "model", name, tracking_uri, parameters, packaged.metrics, progress, alias=alias, stage=stage
        )
    click.echo(f"{done.name} version {done.version} space {done.space} digest {done.digest}")


def main() -> None:
    """Runs the command line; what the server raises on purpose becomes one sentence and exit status 2."""
    try:
        cli(prog_name="serinus-server")
    except ServerError as error:
        raise SystemExit(_refuse(str(error))) from error
    except ValidationError as error:
        missing = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise SystemExit(_refuse(missing)) from error
    except ValueError as error:
        raise SystemExit(_refuse(str(error))) from error


def _refuse(message: str) -> int:
    click.echo(f"serinus-server: {message}", err=True)
    return 2


if __name__ == "__main__":
    main()
