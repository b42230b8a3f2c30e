"""An encoder on images of any height and width, as benchmarks run it with the aspect kept (`fit: aspect`)."""

from collections.abc import Callable

import tensorflow as tf

from pipeline.models.encoders import ImageEncoder, of_any_size


def forward(encoder: ImageEncoder) -> Callable[[tf.Tensor], tf.Tensor]:
    """float32 [B, H, W, 3], normalised, of any H and W → float32 [B, width], with the weights of the call.

    H and W are multiples of the encoder's patch, as `fit: aspect` makes them; what is beyond the last whole patch is
    not seen. Learned positions are resized from the encoder's own table to each batch's grid as the family does it
    (bicubic, antialiased but by DINOv2 without registers), rotations by place follow the grid, convolutional networks
    run as they are. Of an encoder that is built with `fit: aspect` the table is that of the weights; of another it was
    resized to the encoder's square once already. Traced once. Raises BadInput for a graph that takes one size alone.
    """
    model = of_any_size(encoder).model

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def run(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(images, training=False), tf.float32)

    return run
