"""Which chunks a render is to draw again: --chunk, --take, --from-chunk, --only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockvid_cli.errors import UsageError

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob


def checked(
    chunk: int | None, take: int | None, from_chunk: int | None, only: int | None, several: bool, fresh: bool
) -> None:
    """Nothing, if these options go together.

    Raises:
        UsageError: they do not.
    """
    named = {"--chunk": chunk, "--from-chunk": from_chunk, "--only": only}
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} do not go together; choose one.")
    if take is not None and (not given or given == ["--from-chunk"]):
        raise UsageError("--take: of which chunk? It goes with --chunk or --only.")
    if given and several:
        raise UsageError(f"{given[0]} is about one film; name one storyboard and one seed.")
    if given and fresh:
        raise UsageError(f"{given[0]} and --fresh do not go together: --fresh draws everything again.")


def redrawn(job: RenderJob, chunk: int | None, take: int | None, from_chunk: int | None, only: int | None) -> RenderJob:
    """The film with the takes that are asked for.

    Raises:
        UsageError: there is no such chunk, or its neighbours cannot stay.
    """
    number = chunk or from_chunk or only
    if number is None:
        return job
    from blockvid_cli.retake import RetakeRequest, retake

    return retake(job, RetakeRequest(number, take, alone=only is not None, to_end=from_chunk is not None))
