"""Fine-tuning in Keras 3 on TensorFlow: VGG16, frozen, computed in each step.

The way of Chollet, Deep Learning with Python, section 5.3, with Keras 3's names.
"""

import time
from typing import Any

import keras
from keras import layers

from benchmarks.peers import Options, main

BATCH_SIZE, SIZE, WARMUP_STEPS = 20, (150, 150), 2


class StepClock(keras.callbacks.Callback):
    """Takes the time of all steps after the warm-up."""

    seconds = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Start the clock after the last step of the warm-up, and read it after each other."""
        if batch == WARMUP_STEPS - 1:
            self._start = time.perf_counter()
        elif batch >= WARMUP_STEPS:
            self.seconds = time.perf_counter() - self._start


def keras_fit(options: Options) -> dict[str, Any]:
    """Train for a few steps with ``model.fit``."""
    keras.utils.set_random_seed(options.seed)
    images = keras.utils.image_dataset_from_directory(
        options.data / "train", label_mode="binary", batch_size=BATCH_SIZE, image_size=SIZE
    )
    backbone = keras.applications.VGG16(weights=None, include_top=False, input_shape=(*SIZE, 3))
    backbone.trainable = False
    model = keras.Sequential(
        [
            keras.Input((*SIZE, 3)),
            layers.Rescaling(1 / 255),
            backbone,
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    clock = StepClock()
    history = model.fit(
        images.repeat(),
        steps_per_epoch=WARMUP_STEPS + options.steps,
        epochs=1,
        callbacks=[clock],
        verbose=0,
    )
    return {
        "epoch_seconds": [clock.seconds],
        "loss": history.history["loss"],
        "accuracy": None,
        "images": options.steps * BATCH_SIZE,
    }


if __name__ == "__main__":
    main(keras_fit)
