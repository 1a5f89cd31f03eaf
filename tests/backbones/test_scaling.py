"""What is done to pixels first."""

import numpy as np
from solar import real_pixels

from pipeline.backbones.registry import get_backbone
from pipeline.system import tensorflow


def test_scaling_leaves_its_input_alone_and_equals_keras_and_the_textbook():
    _, keras = tensorflow.load()
    preprocess = get_backbone("vgg16").preprocess
    pixels = real_pixels(2).astype(np.float32)
    before = pixels.copy()
    ours = np.asarray(preprocess(pixels, "caffe"))
    assert np.array_equal(pixels, before)
    assert np.array_equal(ours, keras.applications.vgg16.preprocess_input(before.copy()))
    assert np.array_equal(preprocess(pixels, "unit"), before / np.float32(255))
