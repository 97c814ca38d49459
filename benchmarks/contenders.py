"""Who takes part in which job, and with which arguments: the table to edit."""

from dataclasses import dataclass
from typing import Literal

Extent = Literal["epochs", "steps", "phases", "recipe"]


@dataclass(frozen=True)
class Contender:
    """One way to do a job.

    Args:
        name: What table and JSON call it.
        what: The same in words.
        peer: Module in ``benchmarks.peers`` and function in it; empty for this project.
        arguments: What follows ``python -m project fit``, but for data, epochs, seed and run
            directory.
        keras: Whether it runs in the environment of Keras.
        extent: Whether it trains the epochs that all train (``epochs``), a few steps, which stand
            for the others (``steps``), the epochs of the phases in its config, which do so as well
            (``phases``), or what its config says, which is the whole of it (``recipe``).
        once: Whether it takes part in the first round only, because it takes minutes.
        bfloat16: Whether it needs a CPU with instructions for bfloat16; without, it takes hours.
    """

    name: str
    what: str
    peer: tuple[str, str] | None = None
    arguments: tuple[str, ...] = ()
    keras: bool = False
    extent: Extent = "epochs"
    once: bool = False
    bfloat16: bool = False


@dataclass(frozen=True)
class Size:
    """How much of a job is run.

    Args:
        epochs: Epochs that each round trains, of those contenders that are told how many.
        images: Training images.
        steps: Steps of those contenders that train only a few.
    """

    epochs: tuple[int, ...]
    images: int
    steps: int = 0


@dataclass(frozen=True)
class Job:
    """A job that all contenders do.

    Args:
        name: What the command line calls it.
        what: The same in words.
        data: Which data set it needs.
        classes: Number of classes.
        base: Contender that the others are compared with.
        contenders: Who takes part.
        full: Size of a full benchmark.
        quick: Size of a quick one.
        epochs: Epochs of the whole job.
        batch_size: Images per step.
    """

    name: str
    what: str
    data: Literal["mnist", "cifar", "folder"]
    classes: int
    base: str
    contenders: tuple[Contender, ...]
    full: Size
    quick: Size
    epochs: int = 10
    batch_size: int = 64


VGG = ("--config", "configs/finetune_folder.yaml", "--model.weights", "null")
FAST = ("--trainer.precision", "bf16-mixed")

MLP = Job(
    "mlp",
    "training from scratch: MLP 784→128→64→10, Fashion-MNIST, batch 64",
    data="mnist",
    classes=10,
    base="reference",
    full=Size(epochs=(10, 2), images=60_000),
    quick=Size(epochs=(2,), images=30_000),
    contenders=(
        Contender("reference", "the loop of the tutorials", ("mlp", "reference")),
        Contender("lightning_naive", "Lightning as in its tutorials", ("mlp", "lightning_naive")),
        Contender("lightning_bare", "Lightning with nothing on", ("mlp", "lightning_bare")),
        Contender("torch", "the best loop by hand", ("mlp", "pytorch")),
        Contender(
            "ours", "`scratch_mnist.yaml`", arguments=("--config", "configs/scratch_mnist.yaml")
        ),
        Contender(
            "ours_fast",
            "`scratch_mnist_fast.yaml`, its own epochs",
            arguments=("--config", "configs/scratch_mnist_fast.yaml"),
            extent="recipe",
        ),
    ),
)

CNN = Job(
    "cnn",
    "complete training: CNN 32-64-64, CIFAR-10, batch 32",
    data="cifar",
    classes=10,
    base="keras",
    batch_size=32,
    full=Size(epochs=(3, 3), images=20_000),
    quick=Size(epochs=(2,), images=5000),
    contenders=(
        Contender(
            "keras", "Keras 3 on TensorFlow, `model.fit`", ("keras_cnn", "keras_fit"), keras=True
        ),
        Contender("torch", "the best loop by hand, float32", ("cnn", "pytorch")),
        Contender(
            "torch_fast",
            "the same, channels_last and bf16",
            ("cnn", "pytorch_fast"),
            bfloat16=True,
        ),
        Contender(
            "ours",
            "`full_cifar10.yaml`, float32",
            arguments=("--config", "configs/full_cifar10.yaml"),
        ),
        Contender(
            "ours_fast",
            "the same, `--trainer.precision bf16-mixed`",
            arguments=("--config", "configs/full_cifar10.yaml", *FAST),
            bfloat16=True,
        ),
    ),
)

FOLDER = Job(
    "vgg",
    "fine-tuning: VGG16 frozen, 150×150, batch 20, a new head",
    data="folder",
    classes=2,
    base="keras",
    batch_size=20,
    full=Size(epochs=(10, 10), images=2000, steps=10),
    quick=Size(epochs=(10,), images=100, steps=3),
    contenders=(
        Contender(
            "keras",
            "Keras 3 on TensorFlow, `model.fit`",
            ("keras_vgg", "keras_fit"),
            keras=True,
            extent="steps",
        ),
        Contender("torch", "a loop by hand", ("vgg", "pytorch"), extent="steps"),
        Contender(
            "ours",
            "`finetune_folder.yaml`: features cached",
            arguments=VGG,
            extent="phases",
            once=True,
        ),
        Contender(
            "ours_fast",
            "the same, `--trainer.precision bf16-mixed`",
            arguments=(*VGG, *FAST),
            extent="phases",
            once=True,
            bfloat16=True,
        ),
        Contender(
            "ours_uncached",
            "the same without the cache, float32",
            arguments=(*VGG, "--config", "benchmarks/uncached.yaml"),
            extent="steps",
        ),
    ),
)

BLOCK5 = Job(
    "block5",
    "fine-tuning: the same, block5 trained too",
    data="folder",
    classes=2,
    base="ours_block5_uncached",
    batch_size=20,
    full=Size(epochs=(3, 3), images=400, steps=10),
    quick=Size(epochs=(3,), images=100, steps=3),
    contenders=(
        Contender(
            "ours_block5_uncached",
            "all of it computed in each step",
            arguments=(*VGG, "--config", "benchmarks/block5_uncached.yaml"),
            extent="steps",
        ),
        Contender(
            "ours_block5",
            "from the cached output of block4",
            arguments=(*VGG, "--config", "benchmarks/block5.yaml", "--test_after_fit", "false"),
            extent="phases",
        ),
    ),
)

JOBS = {job.name: job for job in (MLP, CNN, FOLDER, BLOCK5)}
