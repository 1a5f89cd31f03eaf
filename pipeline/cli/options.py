"""Arguments and options that several commands take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.backbones.choices import DEFAULT, Precision, Scaling
from pipeline.cli.terminal import err
from pipeline.data.resizing import Resize
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.backbones.recipe import Recipe
    from pipeline.features.computing import Workers
    from pipeline.features.extractor import Extractor
    from pipeline.features.views import Views


def on_this_machine(folder: Path | None) -> Path | None:
    """Refuse a URL: as a path, s3://bucket is a folder s3: with another in it, which is made."""
    if folder and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", folder.as_posix()):
        raise typer.BadParameter("only images, and the CSV that lists them, may be behind URLs.")
    return folder


DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders; a folder with train/, validation/, test/ of class "
        "folders; a CSV with path,label[,split][,group]; or the word demo. May be, and name, "
        "URLs as in s3://bucket/photos.",
    ),
]
CacheOption = Annotated[
    Path, typer.Option(help="Folder that features are kept in.", callback=on_this_machine)
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="A file with the network's weights (.h5, .weights.h5, .keras, .onnx or .pth), the "
        "published ones or your own.",
        metavar="FILE",
    ),
]
WhiteOption = Annotated[
    int | None,
    typer.Option(
        metavar="LEVEL",
        help="Grey value that is white in 16-bit images: 4095 for a 12-bit camera.",
        show_default="65535",
    ),
]
PageOption = Annotated[int, typer.Option(metavar="N", help="Page of TIFFs of several pages.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Fail if any file cannot be used.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Random seed; changes the splits.")]
ViewsOption = Annotated[
    int,
    typer.Option(
        "--views", help="Views of each training image: itself, and seeded augmentations of it."
    ),
]
AugmentationOption = Annotated[
    list[str] | None,
    typer.Option(
        "--augmentation",
        metavar="TEXT",
        help="How views are made: textbook, mild, none, or settings as in mild,rotation=10. Of "
        "several, which classify takes, the best on validation is used.",
        show_default="textbook",
    ),
]
TtaOption = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Make views of validation and test images too; judge and predict by the mean over "
        "all views of an image.",
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Let the workers of this Dask scheduler make the rows, as in tcp://10.0.0.1:8786, and "
        "for classify try the candidates, too.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Use this many worker processes on this machine."),
]
NameOption = Annotated[str | None, typer.Option(help="Name of the run's folder.")]
RunsOption = Annotated[
    Path, typer.Option(help="Folder that runs are kept in.", callback=on_this_machine)
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TYPE",
        help="A type that a head given as module:factory holds, and whose code may run; may "
        "be repeated.",
    ),
]
HeadOption = Annotated[
    str | None, typer.Option(help="Classifier of the run; the default is its best on validation.")
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The CSV that labels are kept in.",
        show_default="the data set's name-labels.csv",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

PositiveOption = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="Of two classes, the one that precision, recall and a threshold are of.",
        show_default="the rarer",
    ),
]
AllColumnsOption = Annotated[
    bool, typer.Option("--all-columns", help="Show every figure in the table.")
]


def views_of(
    count: int, augmentations: list[str] | None, *, tta: bool, endless: bool = False
) -> list[Views]:
    """Put the options for views together, one for each augmentation.

    Where they are made while training goes on (`endless`), their number is that to average over.
    """
    from pipeline.data.augmentation import PRESETS, get_augmentation
    from pipeline.features.views import Views

    chosen = [get_augmentation(text) for text in augmentations or ["textbook"]]
    if endless:
        return [Views(count=count, augmentation=each, everywhere=tta) for each in chosen]
    if count == 1:
        if augmentations or tta:
            raise PipelineError(
                "--augmentation and --tta need more than one view.", fix="give --views 4, say"
            )
        return [Views()]
    none = PRESETS["none"]
    if all(augmentation == none for augmentation in chosen):
        return [Views(count=count, augmentation=none)]  # which it refuses
    return [
        Views()
        if augmentation == none
        else Views(count=count, augmentation=augmentation, everywhere=tta)
        for augmentation in dict.fromkeys(chosen)
    ]


@dataclass(frozen=True)
class StageOne:
    """The options that say how images become rows, and where rows are kept."""

    recipe: Mapping[str, Any]
    cache: Path
    weights: Path | None = None
    strict: bool = False
    given: frozenset[str] = frozenset()
    """The names of all options that were typed, also of those typed as their defaults."""

    def extractors(self, backbones: Sequence[str] | None, **more: Any) -> list[Extractor]:
        """Put them together for each of several networks."""
        backbones = backbones or [DEFAULT]
        given = {"--layer": self.recipe["layer"], "--weights": self.weights}
        if len(backbones) > 1 and (names := [name for name, value in given.items() if value]):
            raise PipelineError(
                f"{' and '.join(names)} can be given for one network only, "
                f"and {len(backbones)} are named.",
                fix=f"leave {' and '.join(names)} away, or name one --backbone",
            )
        return [self.extractor(backbone, **more) for backbone in backbones]

    def extractor(
        self,
        backbone: str | None = None,
        recipe: Recipe | None = None,
        *,
        run: Path | None = None,
        **more: Any,
    ) -> Extractor:
        """Put them together; `more` are the options of one command only.

        Where there is a `recipe`, as a run has it, it takes the place of the options. Where there
        is a `run` whose recipe is taken later, weights are of its network, and are not read here.
        """
        from pipeline.backbones.registry import make_recipe
        from pipeline.features.extractor import Extractor

        given = self.recipe if backbone is None else {**self.recipe, "backbone": backbone}
        return Extractor(
            recipe or make_recipe(**given, weights=None if run else self.weights),
            cache=self.cache,
            weights=self.weights,
            strict=self.strict,
            **more,
        )

    def typed(self, **more: Any) -> list[str]:
        """Repeat the options that differ from their defaults; `more` are others, by name."""
        given = {**self.recipe, "cache": self.cache, "weights": self.weights, **more}
        defaults = {
            name: each.default for name, each in inspect.signature(_options).parameters.items()
        }
        typed: list[str] = []
        for name, value in given.items():
            if value not in (None, defaults.get(name, 0)):
                typed += [f"--{name}", str(value)]
        return typed

    def check_beside(self, run: Path | None, own: Recipe | None = None, **more: Any) -> None:
        """Refuse settings of features beside a run, but for those of its `own`."""
        from pipeline.data.decoding import Decoding

        settings = {**asdict(own), **asdict(Decoding.from_name(own.decoding))} if own else {}
        typed = [
            f"--{name} {value}"
            for name, value in {**self.recipe, **more}.items()
            if name in self.given and value not in (None, "auto", settings.get(name))
        ]
        if run and typed:
            raise PipelineError(
                f"{' '.join(typed)} is given with --run.",
                expected="one of them: a run has its own way to make features",
                fix="leave it out",
            )


def with_bundle(
    command: Callable[..., None],
    parameter: str,
    declared: Callable[..., None],
    make: Callable[[dict[str, Any]], Any],
    *,
    but: Sequence[str] = (),
) -> Callable[..., None]:
    """Give a command the options that a function declares; it gets them together, as one value."""
    options = {
        name: option
        for name, option in inspect.signature(declared, eval_str=True).parameters.items()
        if name not in but
    }
    signature = inspect.signature(command, eval_str=True)
    own = [option for option in signature.parameters.values() if option.name != parameter]

    @wraps(command)
    def with_options(**values: Any) -> None:
        bundle = make({name: values.pop(name) for name in options})
        command(**{parameter: bundle}, **values)

    both = sorted([*own, *options.values()], key=lambda option: option.kind)
    with_options.__signature__ = signature.replace(parameters=both)  # type: ignore[attr-defined]
    with_options.__annotations__ = {option.name: option.annotation for option in both}
    return with_options


def with_stage_one(command: Callable[..., None], *, but: Sequence[str] = ()) -> Callable[..., None]:
    """Give a command the options of stage one; it gets them together, as `stage_one`."""

    def make(given: dict[str, Any]) -> StageOne:
        context = given.pop("context")
        sources = {name: context.get_parameter_source(name) for name in context.params}
        typed = frozenset(name for name, each in sources.items() if each and each.name != "DEFAULT")
        names = {"cache", "weights", "strict"}.difference(but)
        rest = {name: given.pop(name) for name in names}
        return StageOne(given, **rest, given=typed)

    return with_bundle(command, "stage_one", _options, make, but=but)


def _options(
    *,
    context: typer.Context,
    backbone: Annotated[
        str,
        typer.Option(
            help="Network; `pipeline backbones` lists them.",
        ),
    ] = DEFAULT,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the network's input, in pixels.",
            show_default="the network's own",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Layer whose output is the feature.", show_default="the network's last"),
    ] = None,
    scaling: Annotated[
        Scaling | None,
        typer.Option(
            help="The network's own preprocessing, or the textbook's division by 255 (unit).",
            show_default="the network's own",
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="What to compute in; auto is bfloat16 where the CPU has it, else float32; int8, "
            "for the default network only, is the fastest."
        ),
    ] = "auto",
    resize: Annotated[
        Resize, typer.Option(help="Filter that brings pictures to size.")
    ] = "bilinear",
    white: WhiteOption = None,
    page: PageOption = 1,
    cache: CacheOption = Path("cache"),
    weights: WeightsOption = None,
    strict: StrictOption = False,
) -> None:
    """Carry the options of stage one."""


@contextmanager
def on_workers(scheduler: str | None, workers: int | None) -> Iterator[Workers | None]:
    """Start or find the workers that were asked for, and tell at the end what each did."""
    if scheduler is None and workers is None:
        yield None
        return
    from pipeline.features.cluster import Cluster

    with Cluster(scheduler, workers) as cluster:
        yield cluster
        for worker, rate in cluster.rates.items():
            if rate:  # a worker may have tried candidates only
                err.print(f"{worker}: {rate:.1f} rows/s")
