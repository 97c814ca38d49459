"""The rules that turn measurements into a choice, each with the values that it looked at."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from project.commands.learning_curve import LARGEST_TIE
from project.commands.recommend.candidates import CANDIDATES
from project.commands.recommend.evidence import Curve, gap
from project.commands.recommend.scan import Scan
from project.commands.recommend.trial import Prediction
from project.durations import duration

Objective = Literal["task", "foundation", "research"]
Experience = Literal["beginner", "intermediate", "expert"]
Factor = Literal["data", "resources", "objective", "experience"]

PRETRAINED = tuple(one.name for one in CANDIDATES if one.pretrained)

LEAST_STANDARD_ERRORS = 3.0  # a gap of accuracy counts if it is larger than that many of them
# Distance from the pretraining data, see evidence.features_of. For EfficientNet-Lite0 it is 0.42
# with pictures of many kinds, and 0.64 with Fashion-MNIST.
FAR = 0.5
FEW, ENOUGH, MANY = 20, 100, 1000  # training images in the smallest class
FOUNDATION = 500  # with fewer images in the smallest class, no backbone for other tasks results
DECISIVE = 10  # points that all other rules together can't outweigh
FAR_AHEAD = 10  # beyond that many times the images of the sample, a learning curve is a guess


@dataclass(frozen=True)
class Measured:
    """Everything that the rules look at.

    Attributes:
        scan: Facts about the data.
        objective: What the model is for: this task, a foundation for other tasks, or research on
            architectures.
        experience: Experience of the user.
        seconds: Longest time of a run.
        memory_mb: Free memory in 10^6 bytes.
        predictions: Predicted time and memory of each candidate, or why its trial failed.
        no_weights: Why there are no pretrained weights; empty if there are.
        probe: Learning curve of a linear probe on pretrained features; None if not measured.
        scratch: Learning curve of a small network from scratch on the same images; None if not
            measured.
        distance: Distance of the data from the pretraining data; None if not measured.
        images: Number of images of the sample that these three were measured on.
        classes: Number of classes of the sample.
        suspects: Images of the sample whose label is probably wrong, the surest first, in words.
    """

    scan: Scan
    objective: Objective
    experience: Experience
    seconds: float
    memory_mb: float
    predictions: Mapping[str, Prediction | str]
    no_weights: str
    probe: Curve | None
    scratch: Curve | None
    distance: float | None
    images: int = 0
    classes: int = 0
    suspects: Sequence[str] = ()

    @property
    def all_images(self) -> float:
        """Training images of the classes of the sample, if all classes are of the same size."""
        return self.scan.images * self.classes / len(self.scan.class_names)


@dataclass(frozen=True)
class Rule:
    """A condition, and which candidates get points or are excluded if it holds.

    Attributes:
        factor: Which of the four factors the rule belongs to.
        condition: The condition in words.
        measured: The measured value in words.
        fired: Whether the condition holds; None if it could not be measured.
        points: Points that candidates get, by name.
        excludes: Names of the candidates that are excluded.
    """

    factor: Factor
    condition: str
    measured: str
    fired: bool | None
    points: Mapping[str, int] = field(default_factory=dict)
    excludes: Collection[str] = ()

    @property
    def effect(self) -> str:
        """The effect of the rule in words."""
        given = [f"{name} {points:+d}" for name, points in self.points.items()]
        return ", ".join([*given, *(f"without {name}" for name in self.excludes)])


def rules_of(measured: Measured) -> list[Rule]:
    """Return all rules, each evaluated."""
    return [
        *_data_rules(measured),
        *_resource_rules(measured),
        *_objective_rules(measured),
        *_experience_rules(measured),
    ]


def unfit(scan: Scan, no_weights: str) -> set[str]:
    """Return the candidates that are excluded whatever their cost, so they need no trial.

    Args:
        scan: Facts about the data.
        no_weights: Why there are no pretrained weights; empty if there are.
    """
    small = {"complete"} if scan.smallest < FOUNDATION else set()
    return small | set(PRETRAINED if no_weights else ())


def _data_rules(measured: Measured) -> list[Rule]:
    scan, probe, scratch = measured.scan, measured.probe, measured.scratch
    better = catches_up = None
    seen = ahead = "not measured"
    if probe and scratch:
        mean, error = gap(probe, scratch)
        better = mean > LEAST_STANDARD_ERRORS * error
        seen = (
            f"{probe.accuracies[1]:.3f} against {scratch.accuracies[1]:.3f}, by "
            f"{mean:+.3f} ± {error:.3f}, on {probe.sizes[1]:.0f} images"
        )
        expected = [curve.at(measured.all_images) for curve in (probe, scratch)]
        catches_up = expected[1] > expected[0] - LARGEST_TIE
        ahead = f"{expected[0]:.3f} against {expected[1]:.3f} on all {scan.images:,}"
        if measured.all_images > FAR_AHEAD * probe.sizes[1]:
            ahead += ", a guess"
    far = None if measured.distance is None else measured.distance > FAR
    away = "not measured" if measured.distance is None else f"{measured.distance:.2f}"
    smallest = f"{scan.smallest:,}"
    return [
        Rule(
            "data",
            "a linear probe on pretrained features beats a small network on the same images",
            seen,
            better,
            {"probe": 3, "full": 2},
        ),
        Rule(
            "data",
            "the probe doesn't beat the small network, so all layers have to learn these images",
            seen,
            None if better is None else not better,
            {"full": 4, "scratch": 1, "complete": 1},
        ),
        Rule(
            "data",
            "by its learning curve the small network catches up with the probe on all images",
            ahead,
            catches_up,
            {"scratch": 2, "complete": 2},
        ),
        Rule(
            "data",
            f"the images are unlike those of the pretraining (distance above {FAR:g}), and the "
            f"smallest class has {ENOUGH} training images or more to adapt all layers to",
            f"{away}; {smallest}",
            None if far is None else far and scan.smallest >= ENOUGH,
            {"full": 2},
        ),
        Rule(
            "data",
            f"they are like those of the pretraining (distance up to {FAR:g})",
            away,
            None if far is None else not far,
            {"probe": 1},
        ),
        Rule(
            "data",
            f"fewer than {FEW} training images in the smallest class",
            smallest,
            scan.smallest < FEW,
            {"probe": 1},
        ),
        Rule(
            "data",
            f"{MANY:,} or more training images in the smallest class",
            smallest,
            scan.smallest >= MANY,
            {"complete": 2},
        ),
        Rule(
            "data",
            f"fewer than {FOUNDATION} training images in the smallest class",
            smallest,
            scan.smallest < FOUNDATION,
            excludes=("complete",),
        ),
    ]


def _resource_rules(measured: Measured) -> list[Rule]:
    free, longest = measured.memory_mb, duration(measured.seconds)
    found = [
        Rule(
            "resources",
            "there are no pretrained weights",
            measured.no_weights or "there are",
            bool(measured.no_weights),
            excludes=PRETRAINED,
        )
    ]
    for name, prediction in measured.predictions.items():
        if isinstance(prediction, str):
            found.append(
                Rule("resources", f"{name} can't run here", prediction, True, excludes=(name,))
            )
            continue
        limits = (
            (longest, duration(prediction.seconds), prediction.seconds > measured.seconds),
            (f"{free:,.0f} MB", f"{prediction.memory_mb:,.0f} MB", prediction.memory_mb > free),
        )
        found += [
            Rule("resources", f"{name} takes more than {limit}", needed, over, excludes=(name,))
            for limit, needed, over in limits
        ]
    return found


def _objective_rules(measured: Measured) -> list[Rule]:
    return [
        Rule(
            "objective",
            "the aim is research on an architecture",
            measured.objective,
            measured.objective == "research",
            {"scratch": DECISIVE},
        ),
        Rule(
            "objective",
            "the aim is a backbone for other tasks",
            measured.objective,
            measured.objective == "foundation",
            {"complete": DECISIVE},
        ),
    ]


def _experience_rules(measured: Measured) -> list[Rule]:
    return [
        Rule(
            "experience",
            "the user is a beginner, for whom few settings are best",
            measured.experience,
            measured.experience == "beginner",
            {"probe": 1},
        ),
        Rule(
            "experience",
            "the user is an expert, who can make use of more settings",
            measured.experience,
            measured.experience == "expert",
            {"full": 1, "complete": 1},
        ),
    ]
