"""`pipeline app`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import HeadOption, LabelsOption, StageOne, TrustOption, with_stage_one
from pipeline.cli.terminal import err, out, reporting_errors
from pipeline.errors import PipelineError
from pipeline.system.packages import install_hint

if TYPE_CHECKING:
    from socket import socket

    from pipeline.app.server import PageServer
    from pipeline.app.site import Site

_TOKEN = "PIPELINE_APP_TOKEN"  # noqa: S105 -- the name of a variable


@with_stage_one
def app(
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Images to look at, as for features.")
    ] = None,
    *,
    stage_one: StageOne,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="runs/NAME, a model's own folder or an exported file, to try pictures on.",
        ),
    ] = None,
    head: HeadOption = None,
    label: Annotated[
        bool, typer.Option("--label", help="Label the images that have none, or correct labels.")
    ] = False,
    labels: LabelsOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other computers in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen at.", show_default="8321, or any free"),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    trust: TrustOption = None,
) -> None:
    """Try a model, look at all images, label them: in the browser, served by this computer only.

    Programs send a picture as the body of POST /predict, with the header `Authorization: Bearer`
    and the token that is shown, or that is in the variable PIPELINE_APP_TOKEN.

    Example: pipeline app photos/ --run runs/photos
    """
    with reporting_errors(), _installed():
        from pipeline.app.opening import open_site
        from pipeline.app.server import listen

        stage_one.check_beside(run)
        listening = listen(host, port)
        with TerminalListener(data or "") as listener:
            site = open_site(
                data,
                run=run,
                head=head,
                trusted=trust or (),
                label=label or labels is not None,
                labels=labels,
                extractor=stage_one.extractor(run=run),
                listener=listener,
            )
        server = _server(site, listening, host, browser=browser)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            err.print("Stopped.")
        server.leave()


@contextmanager
def _installed() -> Iterator[None]:
    """Say what to install where the page's own packages are missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"the package {error.name} is not installed, which the page needs.",
            fix=install_hint("app"),
        ) from error


def _server(site: Site, listening: socket, host: str, *, browser: bool) -> PageServer:
    """Return what serves the page, and shows its address."""
    from pipeline.app.guard import Secrets
    from pipeline.app.server import PageServer, address_of, is_local, open_browser

    name, port = address_of(listening)
    address = f"http://{name}:{port}"
    own = os.environ.get(_TOKEN, "")

    def announce(opening: str) -> None:
        err.print(f"for another browser: {address}{opening}", soft_wrap=True)

    secrets = Secrets(announce=announce, **({"program": own} if own else {}))

    def opened() -> None:
        out.print(f"{address}{secrets.opening}", soft_wrap=True)
        err.print("The address opens the page once. Ctrl-C ends the program.")
        if not is_local(listening):
            err.print(
                "[yellow]Other computers can reach this address,[/] and what is sent is not "
                "encrypted: use it in a network that you trust.",
                soft_wrap=True,
            )
        if site.trial and not own:
            err.print(
                f"for programs: curl -H 'Authorization: Bearer {secrets.program}' "
                f"--data-binary @picture.jpg {address}/predict",
                soft_wrap=True,
            )
        if browser:
            open_browser(f"{address}{secrets.opening}")

    return PageServer(site.guarded(secrets, port, (host, name)), opened)
