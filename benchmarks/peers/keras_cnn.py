"""Complete training in Keras 3 on TensorFlow, as its tutorial writes it, without validation.

https://www.tensorflow.org/tutorials/images/cnn
"""

import time
from typing import Any

import keras
from keras import layers

from benchmarks.peers import Options, cifar, main

BATCH_SIZE = 32


class Clock(keras.callbacks.Callback):
    """Takes the time of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._start)


def keras_fit(options: Options) -> dict[str, Any]:
    """Train with ``model.fit``."""
    keras.utils.set_random_seed(options.seed)
    images, labels = (part[: options.images] for part in cifar.read(options.data, cifar.TRAIN))
    images = images / 255.0
    test_images, test_labels = cifar.read(options.data, cifar.TEST)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    clock = Clock()
    history = model.fit(
        images,
        labels,
        batch_size=BATCH_SIZE,
        epochs=options.epochs,
        callbacks=[clock],
        verbose=0,
    )
    _, accuracy = model.evaluate(test_images / 255.0, test_labels, batch_size=1000, verbose=0)
    return {
        "epoch_seconds": clock.seconds,
        "loss": history.history["loss"],
        "accuracy": float(accuracy),
        "images": options.images,
    }


if __name__ == "__main__":
    main(keras_fit)
